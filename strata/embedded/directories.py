"""Temporary directories that a server's user can reach."""

from __future__ import annotations

import tempfile
from pathlib import Path

from strata.embedded.account import Account
from strata.errors import StrataError

OPEN_TO_ALL = ("/tmp", "/var/tmp")  # tried where TMPDIR is closed to the other user


def temporary(prefix: str, account: Account) -> Path:
    """A new directory; only we read in it, but `account` may pass through. Raises `StrataError` where none can be."""
    tried = list(dict.fromkeys([tempfile.gettempdir(), *OPEN_TO_ALL]))
    for parent in tried:
        try:
            made = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except OSError:
            continue
        if account.switch:
            made.chmod(0o711)
        if account.can("test", "-x", made):
            return made
        made.rmdir()
    raise StrataError(
        f"no temporary directory that the user {account.name} can reach and we can write, among {', '.join(tried)}; "
        "set TMPDIR to one"
    )
