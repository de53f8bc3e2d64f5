"""What keeps the other users of this machine out: loopback is open to all of them."""

from __future__ import annotations

import secrets
from pathlib import Path

from strata.embedded.directories import private

KEPT = "password"  # the file of a directory that is kept, readable by its owner only


def drawn() -> str:
    """A new password: 192 random bits, in characters that need no quoting anywhere."""
    return secrets.token_urlsafe(24)


def kept(directory: Path | None) -> str:
    """The password of the server whose files are in `directory`; empty where there is none yet."""
    kept = None if directory is None else directory / KEPT
    return kept.read_text().strip() if kept is not None and kept.exists() else ""


def keep(directory: Path, password: str) -> None:
    """Write it down for the next start there."""
    write_private(directory / KEPT, f"{password}\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; from its first moment on."""
    path.unlink(missing_ok=True)
    with open(path, "x", opener=private) as file:
        file.write(text)
