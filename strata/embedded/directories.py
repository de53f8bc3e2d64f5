"""Temporary directories that a server's user can reach, and that a killed process leaves to the next one to remove."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

from strata.embedded import guard
from strata.embedded.account import Account
from strata.errors import StrataError

OPEN_TO_ALL = ("/tmp", "/var/tmp")  # tried where TMPDIR is closed to the other user
PREFIX = "strata-"
OWNED = "owned"  # the file that a directory's process holds locked for as long as it lives
SERVERS = "servers"  # the ids of the processes that work in it, and when each was born


class Scratch:
    """A new directory; only we read in it, but `account` may pass through. Raises `StrataError` where none can be.

    The guard of a server in it removes it where this process is killed. Where guards are killed too, the next process
    that makes such a directory does so, and ends what still runs in it. Each process looks once. Not thread-safe; a
    forked child leaves it alone.
    """

    def __init__(self, kind: str, account: Account) -> None:
        for parent in _parents():
            _sweep_once(parent)
        self.path = _made(kind, account)
        # A lock of the open file: seen from whatever namespace of process ids, and gone with the last who has it open.
        self._lock = os.open(self.path / f"{OWNED}.new", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self.path / f"{OWNED}.new").rename(self.path / OWNED)  # so that nobody ever sees it unlocked

    def note(self, pid: int) -> None:
        """`pid` works in it from now on."""
        with open(self.path / SERVERS, "a", opener=private) as file:
            file.write(f"{pid} {guard.birth(pid)}\n")

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def private(path: str, flags: int) -> int:
    """The `opener` of a file that only its owner may read."""
    return os.open(path, flags, 0o600)


def _made(kind: str, account: Account) -> Path:
    for parent in _parents():
        try:
            made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-", dir=parent))
        except OSError:
            continue
        if account.switch:
            made.chmod(0o711)
        if account.can("test", "-x", made):
            return made
        made.rmdir()
    raise StrataError(
        f"no temporary directory that the user {account.name} can reach and we can write, among "
        f"{', '.join(_parents())}; set TMPDIR to one"
    )


def _parents() -> list[str]:
    return list(dict.fromkeys([tempfile.gettempdir(), *OPEN_TO_ALL]))


@functools.cache  # threads that come at the same time look twice, which is harmless; a forked child does not again
def _sweep_once(parent: str) -> None:
    for owned in Path(parent).glob(f"{PREFIX}*/{OWNED}"):
        try:
            _sweep(owned)
        except OSError:
            pass  # another user's, or another process was faster


def _sweep(owned: Path) -> None:
    left = owned.parent.lstat()
    if left.st_uid != os.geteuid() or not stat.S_ISDIR(left.st_mode):
        return
    lock = os.open(owned, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else its process lives
        servers = owned.parent / SERVERS
        noted = [line.partition(" ") for line in servers.read_text().splitlines()] if servers.exists() else []
        for pid, _, born in noted:
            guard.end(int(pid), born, signal.SIGQUIT)
        guard.remove(owned.parent)
    finally:
        os.close(lock)
