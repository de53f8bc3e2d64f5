"""Invalidations that are repeated when the transactions end that were under way at the time.

An application that changes a row by itself, such as an ORM whose signals call `invalidate`, often does so inside the
transaction. Until that commits everybody reads the row as it was, and rightly caches it again. So PostgreSQL is asked
which transactions are under way, and the key is invalidated once more as each of them ends. The field knows this as the
delayed second delete; here it is not a guess how long to wait.

So it is with a commit of Strata's own whose outcome is unknown: it may have happened, or happen yet, as soon as a
server that stood still goes on. Its keys are invalidated at once, when L3 answers again, and once more a little later.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.util import Finalize
from typing import NamedTuple

from strata.bound import Bound
from strata.engine.background import Background
from strata.errors import StrataError
from strata.observe.log import SafeLogger
from strata.waits.clock import Clock
from strata.waits.locks import memory_lock
from strata.waits.nudge import Nudge
from strata.writebehind import endings

SOONEST, LATEST = 0.02, 0.5  # seconds between looks: short at first, longer while nothing ends
DECIDED = 1.0  # seconds after L3 has answered from which on nothing is run any more that was sent before
DECIDED_LONG_AGO, NOT_ANSWERED = -math.inf, math.inf
LIMIT = 10_000  # keys remembered; beyond them all of a schema is invalidated

Again = Callable[[], None]
Place = tuple[str, str]  # schema and key; ("", tag) of a tag; (schema, "") of all of a schema
Transactions = frozenset[int]


class Noted(NamedTuple):
    """An invalidation, and the transactions that were under way; None where L3 was not asked. `undecided` is the time
    from which on a commit of unknown outcome has ended."""

    bound: Bound
    awaited: Transactions | None
    again: Again
    undecided: float = DECIDED_LONG_AGO


class Unfinished:
    """What was invalidated while transactions were under way, and a job in the background that looks for their ends.

    `_lock` guards `_waiting`, by schema and key: any thread adds, the job takes away. `_working` is set under it by
    who starts the job, and cleared by the job, under it where nothing waits any more; otherwise two jobs do no
    harm. `_stopped` is given once; a second job finds nothing that waits. `_finalizer` is set by any thread, twice
    being harmless. After fork the child calls `reset`: the parent repeats what it was told. When the process ends,
    what waits is repeated at once: a transaction that has just ended may not have been looked for.
    """

    def __init__(
        self,
        background: Background,
        clear: Callable[[Bound], None],
        log: SafeLogger,
        clock: Clock,
        *,
        flushes_on_sigterm: bool,
    ) -> None:
        self.flushes_on_sigterm = flushes_on_sigterm
        self._background = background
        self._clear = clear
        self._log = log
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """As new."""
        self._lock = memory_lock()
        self._waiting: dict[Place, Noted] = {}
        self._working = False
        self._stopped = Nudge()
        self._finalizer: Finalize | None = None

    def __len__(self) -> int:
        """How many invalidations are to be repeated."""
        return len(self._waiting)

    def note(self, bound: Bound, agains: Mapping[Place, Again], wider: Again | None = None) -> None:
        """Keys, a schema, or a tag were invalidated a moment ago, as each `again` does; `wider` does for all of a kind,
        by default for all of the schema. Asks L3, and never raises."""
        now = self._under_way(bound)
        if now is None or now:
            for place, again in agains.items():
                self._add(place, Noted(bound, now, again), wider)

    def undecided(self, bound: Bound, key_text: str, again: Again) -> None:
        """Whether a commit of a key has happened, or will, is not known. Asks nobody but L2, and never raises."""
        with contextlib.suppress(StrataError):
            again()
        self._add((bound.name, key_text), Noted(bound, None, again, NOT_ANSWERED))

    def _add(self, place: Place, noted: Noted, wider: Again | None = None) -> None:
        if self._finalizer is None:
            self._finalizer = endings.watch(self)
        with self._lock:
            if len(self._waiting) >= LIMIT and place not in self._waiting:
                place, noted = (place[0], ""), noted._replace(again=wider or partial(self._clear, noted.bound))
            known = self._waiting.get(place)
            if known is not None:
                both = None if known.awaited is None or noted.awaited is None else known.awaited | noted.awaited
                noted = noted._replace(awaited=both, undecided=max(known.undecided, noted.undecided))
            self._waiting[place] = noted
        self._start()

    def stop(self) -> None:
        """Repeat what waits, now, and nothing more."""
        self._stopped.give()
        if self._finalizer is not None:
            self._finalizer.cancel()
        self.flush_at_exit(last=True)

    def flush_at_exit(self, *, last: bool) -> None:
        """The process is about to end: repeat what waits. Raises nothing."""
        for noted in list(self._waiting.values()):
            with contextlib.suppress(StrataError):
                noted.again()
        if last:
            self._waiting.clear()

    def go_on(self) -> None:
        """The process does not end after all: nothing was stopped."""

    def _start(self) -> None:
        begun = True
        try:
            with self._lock:
                if not self._working:
                    begun, self._working = False, True
            if not begun:
                begun = self._background.submit(object(), self._work)
        finally:
            if not begun:
                self._working = False  # too busy, or broken off: the next one starts it; two jobs do no harm

    def _work(self) -> None:
        pause = SOONEST
        try:
            while not self._stopped.wait(pause):
                with self._lock:
                    waiting = list(self._waiting.items())
                    if not waiting:
                        self._working = False
                        return
                ended = self._look(waiting)
                pause = SOONEST if ended else min(2 * pause, LATEST)
        except BaseException:
            self._working = False
            raise

    def _look(self, waiting: list[tuple[Place, Noted]]) -> bool:
        """Repeat what is to be repeated; whether anything was."""
        now = self._under_way(waiting[0][1].bound)  # one primary serves all schemas
        if now is None:
            return False
        repeated, time = False, self._clock.monotonic()
        for place, noted in waiting:
            left = now if noted.awaited is None else noted.awaited & now
            due = DECIDED_LONG_AGO < noted.undecided <= time
            if left == noted.awaited and not due:
                continue
            try:
                noted.again()
            except StrataError as error:
                self._log.debug("an invalidation waits", schema=place[0], error=type(error).__name__)
                continue
            repeated = True
            with self._lock:
                if self._waiting.get(place) is not noted:
                    continue  # invalidated again meanwhile: the next look sees to both
                undecided = DECIDED_LONG_AGO if due else min(noted.undecided, time + DECIDED)
                if left or undecided > DECIDED_LONG_AGO:
                    self._waiting[place] = noted._replace(awaited=left, undecided=undecided)
                else:
                    del self._waiting[place]
        return repeated

    def _under_way(self, bound: Bound) -> Transactions | None:
        """The transactions that are under way in L3; None where it cannot be asked."""
        try:
            return bound.rows.primary.read(bound.rows.table.under_way)
        except StrataError:
            return None
