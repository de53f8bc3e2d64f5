"""The directory of the journals: who may write to it, and where what cannot be read goes.

Whoever can put files there can write records of the schemas. So it belongs to the user of the process, and nobody
else may write to it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from strata.errors import InvalidConfigError

ASIDE = ".unreadable"
OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check(directory: Path) -> None:
    """Raise `InvalidConfigError` where others could put journals there; one that is not there yet will be made."""
    wrong = refusal(directory)
    if wrong:
        raise InvalidConfigError(
            f"journal_dir {str(directory)!r} {wrong}; let it belong to the user of this process, with mode 0700, or "
            "name one that is not there yet, which is made so"
        )


def refusal(directory: Path) -> str:
    """Why no journal is to be read or written there; empty where all is well, or nothing is there."""
    try:
        found = directory.stat()
    except OSError:
        return ""  # making it will say why that cannot be done
    if not stat.S_ISDIR(found.st_mode):
        return ""
    if found.st_uid != os.geteuid():
        return "belongs to another user"
    return f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})" if found.st_mode & OTHERS else ""


def make(directory: Path) -> None:
    """Make it and what is above it, for the owner only, where it is not there. Raises `OSError`, also where it is
    there and open to others."""
    missing = []
    while not directory.exists() and directory not in missing:
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    wrong = refusal(missing[0] if missing else directory)
    if wrong:
        raise PermissionError(f"the directory of the journals {wrong}")


def set_aside(path: Path) -> Path:
    """Move a file where nobody takes it for a journal; returns its new place. Raises `OSError`."""
    target, number = path.with_name(path.name + ASIDE), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}{ASIDE}-{number}")
    return path.rename(target)


def aside(directory: Path) -> list[str]:
    """The names of what was set aside there. Raises `OSError`."""
    return sorted(path.name for path in directory.glob(f"strata-*.journal{ASIDE}*"))
