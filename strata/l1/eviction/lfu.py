"""Least frequently used, with counts that age; least recently used where that does better.

An entry is new until it is used, and then has a level, which its uses raise. The one leaves that has been idle for
longest, where idle time counts for less the higher the level: at the top `patience` times less than for a new entry.
So a new entry that nobody uses leaves soon, and no scan sweeps out what is popular; what was popular once leaves too,
only later, which is the way out of the trap of plain LFU. At a patience of 1 all idle time counts alike: that is LRU.
Between these ends lies a range of policies, as in LRFU (Lee et al., 2001).

Which of them suits a stream is learned from keys that come back soon after they were evicted, as in ARC (Megiddo and
Modha, 2003). One that had left new says that new entries should have stayed longer, so patience falls; one that left
from a higher level says the opposite. A vote weighs more the fewer entries leave in its way, so that in the end a place
brings in as many hits on either side. Whoever comes back begins at a higher level.

Other than there, nothing is done on a hit: what an entry was used for is found out when it is the first to leave, as
with the queues of S3-FIFO (Yang et al., SOSP 2023), and the more patience there is, the nearer to the present it is
stamped then, as by the hand of a clock. In the beginning patience is at its most and the first entries are at the top,
as in LIRS (Jiang and Zhang, 2002): of a loop that does not fit they are the part to keep. Where they are not, the first
votes weigh most. Half or double of MOST or HASTE does about as well on the traces they were chosen on.
"""

from __future__ import annotations

import math

from strata import _compiled
from strata.l1.entry import GONE, L1Entry
from strata.l1.eviction.base import LOOKS, Remains
from strata.l1.eviction.ghosts import OLD, UNKNOWN, YOUNG, Ghosts
from strata.l1.eviction.stamped import Stamped

NEW, USED, BACK, TOP = 0, 1, 3, 4  # levels: never used; used once in a while; came back; the highest
MOST = 64.0  # patience
UNPROVEN, INVALIDATED = 6, 7  # what ghosts know besides levels; neither says anything about patience
HASTE = 20  # votes: after so many, one weighs half as much as the first


class Lfu:
    """An order of entries for each level, and the ghosts. Guarded by the store's lock."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._remains = Remains()
        self._levels = tuple(Stamped(self._remains) for _ in range(TOP + 1))
        self._new = self._levels[NEW]
        self._ghosts = Ghosts(2 * capacity)
        self._begin()

    def add(self, entry: L1Entry) -> None:
        worth = self._ghosts.recall(entry.key)
        if worth == UNKNOWN and self._filling:
            entry.count = TOP
            self._levels[TOP].push(entry)
        else:
            self._enter(entry, worth)

    def swap(self, entry: L1Entry, now: float) -> L1Entry | None:
        line = self._new.line
        first = line[0] if line else None
        # The usual case in short: the oldest new entry was never used, and no other has been idle for longer.
        if (
            first is not None
            and first.hits == first.seen
            and first.expires != GONE
            and now * self._slope >= first.queued - self._offset
        ):
            victim: L1Entry | None = line.popleft()
            self._gone_new += 1
            worth = self._ghosts.swap(first.key, entry.key)
            if worth == UNKNOWN:
                line.append(entry)
                return victim
        else:
            victim = self._search(now)
            worth = self._ghosts.recall(entry.key)
        self._enter(entry, worth)
        return victim

    def left(self, entry: L1Entry) -> None:
        if entry.hits:
            # An invalidated key is read again soon; it need not prove itself twice.
            self._ghosts.remember(entry.key, INVALIDATED)
        lines, late = [order.line for order in self._levels], sum([len(order.late) for order in self._levels])
        if self._remains.add(*lines, others=late):
            for order in self._levels:
                order.purge()
            self._remains.gone = 0

    def clear(self) -> None:
        for order in self._levels:
            order.clear()
        self._remains.gone = 0
        self._begin()

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def _begin(self) -> None:
        self._filling = True
        self._votes = 0
        self._gone_new = self._gone_old = self._capacity / 2  # who left, by whether it was above USED
        self._look_again()
        self._set_lean(1.0)

    def _look_again(self) -> None:
        """Have the next `swap` search, which finds out anew who is next after the oldest new entry."""
        self._slope, self._offset = 1.0, -math.inf

    def _set_lean(self, lean: float) -> None:
        """Lean towards LFU (1) or LRU (0)."""
        self._lean = lean
        self._patience = MOST**lean
        self._weighed = [
            (order, self._patience ** -(max(0, level - USED) / (TOP - USED)))
            for level, order in enumerate(self._levels)
        ]

    def _enter(self, entry: L1Entry, worth: int) -> None:
        """Queue an entry whose key the ghosts remember so."""
        if worth == UNKNOWN:
            entry.count = NEW
            self._new.push(entry)
            return
        if worth <= TOP:
            self._vote(worth)
        entry.count = BACK if worth % OLD in (NEW, UNPROVEN) else TOP
        self._levels[entry.count].push(entry)

    def _vote(self, worth: int) -> None:
        """Learn from a key that came back: it was missed for want of patience, or of place for what is new."""
        self._age()
        self._votes += 1
        step = 2 / min(self._capacity, HASTE + self._votes)
        if worth == NEW:
            self._set_lean(max(0.0, self._lean - step * max(1.0, (self._gone_old + 1) / (self._gone_new + 1))))
        else:
            self._set_lean(min(1.0, self._lean + step * max(1.0, (self._gone_new + 1) / (self._gone_old + 1))))

    def _age(self) -> None:
        """Each time that an eighth of a store has left, count less what was before, and have ghosts be older."""
        while self._gone_new + self._gone_old > self._capacity:
            self._gone_new *= 1 - 1 / YOUNG
            self._gone_old *= 1 - 1 / YOUNG
            self._ghosts.age()

    def _search(self, now: float) -> L1Entry | None:
        """The entry that leaves, taken out; those on the way that were used are queued anew."""
        self._filling = False
        self._age()
        for looks in range(LOOKS):
            entry = self._oldest_new(now) or self._idlest(now)
            if entry is None:
                return None
            self._levels[entry.count].pop()
            if entry.hits == entry.seen or entry.expires <= now or looks == LOOKS - 1:
                self._bury(entry)
                return entry
            self._raise(entry, now)
        return None

    def _oldest_new(self, now: float) -> L1Entry | None:
        """The oldest new entry, where nothing else can have been idle for longer."""
        line = self._new.line
        if line and now * self._slope >= line[0].queued - self._offset:
            return self._new.first()
        return None

    def _idlest(self, now: float) -> L1Entry | None:
        """The first to leave, by what is known of it so far.

        Where that is a new entry, `swap` may take those after it as well, while they have been idle for longer than the
        one that is next here: while now - queued >= (now - its queued) * its weight.
        """
        idlest: L1Entry | None = None
        most = runner_up = -math.inf
        self._slope, self._offset = 1.0, 0.0
        for order, weight in self._weighed:
            entry = order.first()
            if entry is None:
                continue
            idle = (now - entry.queued) * weight
            if idle > most:
                idlest, most = entry, idle
            elif idle > runner_up:
                self._slope, self._offset, runner_up = 1 - weight, entry.queued * weight, idle
        if idlest is not None and idlest.count != NEW:
            self._look_again()
        return idlest

    def _raise(self, entry: L1Entry, now: float) -> None:
        """Queue an entry that was used, one level higher for each use after the first."""
        entry.count = min(TOP, max(USED, entry.count) + entry.hits - entry.seen - 1)
        entry.seen = entry.hits
        entry.queued = max(entry.queued, now - (now - entry.used) / self._patience)
        order = self._levels[entry.count]
        order.push(entry)
        if order.first() is entry:
            self._look_again()

    def _bury(self, entry: L1Entry) -> None:
        level = entry.count
        if level <= USED:
            self._gone_new += 1
            self._ghosts.remember(entry.key, NEW)
        else:
            self._gone_old += 1
            # One of the first entries that was never used stood at the top without having earned it.
            self._ghosts.remember(entry.key, UNPROVEN if level == TOP and not entry.hits else level)


_compiled.replace(globals(), "lfu", "Lfu")
