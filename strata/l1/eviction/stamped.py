"""Entries in the order of their stamps."""

from __future__ import annotations

import heapq
from collections import deque

from strata import _compiled
from strata.l1.entry import GONE, L1Entry
from strata.l1.eviction.base import Remains, still_there

Late = tuple[float, int, L1Entry]  # the stamp, a running number where stamps are equal, the entry


class Stamped:
    """A queue of the entries that came in order of `queued`, a heap of the others. Guarded by the store's lock.

    Nobody changes `queued` of an entry that is in here. Entries that are gone are passed over, and told to `remains`.
    """

    __slots__ = ("_number", "_remains", "late", "line")

    def __init__(self, remains: Remains) -> None:
        self.line: deque[L1Entry] = deque()
        self.late: list[Late] = []
        self._number = 0
        self._remains = remains

    def push(self, entry: L1Entry) -> None:
        """Add the entry under its stamp."""
        line = self.line
        if not line or line[-1].queued <= entry.queued:
            line.append(entry)
        else:
            self._number += 1
            heapq.heappush(self.late, (entry.queued, self._number, entry))

    def first(self) -> L1Entry | None:
        """The entry with the oldest stamp, left where it is."""
        line = self.line
        # The usual case in short.
        if line and not self.late and line[0].expires != GONE:
            return line[0]
        while line or self.late:
            entry = line[0] if self._in_line() else self.late[0][2]
            if entry.expires != GONE:
                return entry
            self.pop()
            self._remains.gone -= 1
        return None

    def pop(self) -> None:
        """Take out what `first` has just returned."""
        if self._in_line():
            self.line.popleft()
        else:
            heapq.heappop(self.late)

    def purge(self) -> None:
        """Forget the entries that are gone; the caller sets `remains` to none."""
        self.line = deque(filter(still_there, self.line))
        self.late = [item for item in self.late if item[2].expires != GONE]
        heapq.heapify(self.late)

    def clear(self) -> None:
        self.line.clear()
        self.late.clear()

    def __len__(self) -> int:
        return len(self.line) + len(self.late)

    def _in_line(self) -> bool:
        line, late = self.line, self.late
        return bool(line) and (not late or line[0].queued <= late[0][0])


_compiled.replace(globals(), "stamped", "Stamped")
