"""What a process told L2, to tell it again: a Redis that took another's place may not have heard of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

MOST = 10_000  # changes that are remembered


class Told:
    """Keys by text, each with its version, or None for an invalidation; oldest first. Appended to by any thread, which
    is atomic; copied by the one that tells it again. After fork the child makes another one."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, str, int | None]] = deque(maxlen=MOST)

    def remember(self, now: float, changes: Iterable[tuple[str, int | None]]) -> None:
        """Before they are sent (monotonic): what fails halfway may have been done by the server that is lost."""
        self._changes.extend([(now, key_text, version) for key_text, version in changes])

    def since(self, began: float) -> dict[str, int | None]:
        """Of each key what is newest, where it was told since then (monotonic)."""
        newest: dict[str, int | None] = {}
        for at, key_text, version in list(self._changes):
            known = newest.get(key_text, 0)
            if at >= began:
                newest[key_text] = None if version is None or known is None else max(version, known)
        return newest
