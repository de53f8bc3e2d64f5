"""The user that a server runs as: PostgreSQL refuses root."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strata.errors import StrataError

UNPRIVILEGED = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """A user, and the options of `subprocess.Popen` that switch to it: none for our own."""

    name: str = "our own"
    switch: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def unprivileged(cls) -> Account:
        """Our own where we are not root, else one that exists. Raises `StrataError` where there is none."""
        if os.geteuid() != 0:
            return cls()
        for name in UNPRIVILEGED:
            try:
                user = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(name, {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []})
        raise StrataError("PostgreSQL cannot run as root, and there is neither a user postgres nor nobody to run it as")

    def can(self, *command: str | Path) -> bool:
        """Whether a command succeeds as this user: the one check that sees every permission on the way."""
        try:
            ran = subprocess.run(command, check=False, capture_output=True, cwd="/", **self.switch)
        except OSError:
            return False
        return ran.returncode == 0

    def give(self, path: Path) -> None:
        """Make a directory the user's own."""
        if self.switch:
            os.chown(path, self.switch["user"], self.switch["group"])
