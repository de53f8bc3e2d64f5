"""`Mutex`: a lock among processes, which is an entry."""

from __future__ import annotations

from strata import waits
from strata.drop_in.entries import Entries


class Mutex:
    """Held by one at a time, in whichever process; not reentrant, and whoever has the object may release it, in any
    thread. It ends by itself `timeout` seconds after it was acquired, as where its process was killed.

    `pause`: seconds between two looks at one that another holds.
    """

    def __init__(self, entries: Entries, key: str, timeout: float, pause: float) -> None:
        self._entries = entries
        self._key = key
        self._timeout = timeout
        self._pause = pause
        self._token = b""  # of the last who acquired it here

    def acquire(self, wait: bool = True) -> bool:
        """Whether it is held now; with `wait` once it is. Raises `L2UnavailableError`."""
        token = waits.token(16).encode()
        while not self._entries.add(self._key, token, self._timeout):
            if not wait:
                return False
            waits.sleep(self._pause)
        self._token = token
        return True

    def release(self) -> None:
        """Let it go, unless it has ended by itself. Raises `L2UnavailableError`."""
        self._entries.delete(self._key, self._token)

    def locked(self) -> bool:
        """Whether somebody holds it."""
        return self._entries.has(self._key)
