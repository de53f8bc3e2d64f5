"""Writes that reached L3 and of which Redis could not be told: remembered in L3 by the write's own transaction.

The row (schema, id, version) in `_strata_repairs` is written with the record, and takes the place of the key's older
one, so that there is about one a key, however long nobody can look. Whoever reaches Redis first removes what is older
in L2, tells everybody, and deletes the row. Until then the process that wrote does not ask L2 for the key. And
a process that has read past an L2 that did not answer trusts it again only after it has seen to the repairs itself: it
may have been shown what another wrote meanwhile, and L2 may still hold what was before.

The writer may be the only one that cannot reach Redis, or is not allowed to tell. So about once a second one instance,
whichever it is, looks whether there are rows: one query a second for all of them (`strata.coherence.pulse` gives out
the turns). Where nobody can tell, no instance's beats succeed, and all are unsure. An instance trusts L2 from its first
proof on that it could tell, and look: rows may be there that nobody has seen to yet. So it is again once it has stood
still, or was cut off: when its heartbeats are overdue.

Rows changed outside of Strata come the same way: the trigger (`strata.l3.outside`) leaves the rows, one without a key
where anything of the schema may have changed. One process at a time works on a schema's rows, so that of many that are
woken one does the work; the others wait for it, since they may trust L2 only afterwards. The rows themselves are not
locked meanwhile: no writer waits for Redis, and a long transaction of another program holds up nobody.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from strata.bound import Bound
from strata.coherence.mender import Mender
from strata.coherence.pulse import Pulse
from strata.errors import WITHOUT_L2, MigrationError, StrataError
from strata.observe.log import SafeLogger
from strata.runtime.daemon import Daemon
from strata.waits.clock import Clock
from strata.waits.locks import memory_lock

if TYPE_CHECKING:
    from strata.l3.pool import Database

LIMIT = 10_000  # keys remembered in the process; beyond it L2 is not asked at all until they are repaired
LAG = 60.0  # seconds by which a Redis that takes another's place may be behind it, or its loss be noticed late
INTERVAL = 0.5  # seconds between attempts while something is left


class _Write:
    """A transaction whose writes reach L3 without L2. `ended` is set once, by its own thread."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended = False


class Repairs:
    """Keys that L2 must not be asked for, and the thread that repairs them. `pulse` is None without Redis.

    `_lock` guards `_skipped`, the counts and `_unsure_since`; `skips` reads without it, since the writer itself added
    its keys before it returned. `_due` passes from the bus's thread to this one, `_busy` and `_blind` back; each is
    replaced as a whole. `_lapse` is set by any reader, after what it stands for; `begun` by any, twice being harmless;
    `_wanted` by any, and cleared by this thread before it looks, so that what comes meanwhile is looked for again.
    After fork: `reset`; the rows are in L3, and the parent repairs its own.
    """

    def __init__(
        self,
        schemas: Mapping[str, Bound],
        pulse: Pulse | None,
        mender: Mender,
        log: SafeLogger,
        clock: Clock,
    ) -> None:
        self._schemas = schemas
        self._pulse = pulse
        self._mender = mender
        self._clock = clock
        self._log = log
        self.daemon = Daemon("strata-repairs", self._step, log)
        self.reset()

    def reset(self) -> None:
        """As new."""
        self._lock = memory_lock()
        # The writes of each key of which L2 is not repaired yet: those under way, and the newest one.
        self._skipped: dict[tuple[str, str], tuple[_Write, ...]] = {}
        self.daemon.reset()
        self._due: tuple[str, ...] = ()  # schemas in whose repairs it is our turn to look
        self._wanted = False  # whether all rows are to be seen to, rather than looked for
        self._busy = False
        self._blind = False  # L3 did not answer the last look: others should have the turns
        self.begun = False
        self._distrusted = 0  # how often L2 did not answer
        self._trusted = 0  # the last failure that a finished pass of repairs covers
        # How often another Redis may have taken the place of L2; the first one is such a one.
        self._replaced = 0 if self._pulse is None else 1
        self._told = 0  # the last failover after which L2 was told again
        self._unsure_since = self._clock.monotonic()  # time of the oldest unhandled failure
        self._lapse = -math.inf  # when heartbeats were last found to be overdue, as the trust in L1 says it

    @property
    def _sure(self) -> bool:
        return self._trusted == self._distrusted and self._told == self._replaced

    def begin(self) -> None:
        """At the first use: L2 is trusted once it was seen that this instance can change it, and tell of it, and that
        no repairs wait."""
        self.begun = True
        if self._pulse is None:
            return
        replaced = self._replaced
        try:
            self._pulse.prove()
            waiting = bool(self._waiting(list(self._schemas)))
        except WITHOUT_L2:
            waiting = True
        except StrataError:
            waiting = False  # to trust L2 takes no L3, which may be away
        if waiting:
            self.wake()
            return
        with self._lock:
            self._told = max(self._told, replaced)

    def turns(self) -> tuple[str, ...]:
        """The schemas in whose repairs this instance could look now."""
        if self._busy or self._blind or self._due:
            return ()
        return tuple(bound.name for bound in list(self._schemas.values()) if bound.l3 is not None)

    def look(self, names: Sequence[str]) -> None:
        """It is this instance's turn to look in the repairs of these schemas; and every now and then, while L3 does not
        answer it, to try whether that still is so."""
        if self._blind and not self._busy:
            names = list(self._schemas)
        if names:
            self._due = tuple(names)
            self.daemon.wake()

    def distrust(self) -> None:
        """L2 did not answer a read, which went on to L3."""
        with self._lock:
            if self._sure:
                self._unsure_since = self._clock.monotonic()
            self._distrusted += 1
        self.wake()

    def replaced(self) -> None:
        """Another Redis may have taken the place of L2; to trust it again takes no L3, which may be away."""
        with self._lock:
            if not self._concerned():
                return
            if self._sure:
                self._unsure_since = self._clock.monotonic()
            self._replaced += 1
        self.wake()

    def _concerned(self) -> bool:
        return self._pulse is not None and any(bound.l3 for bound in list(self._schemas.values()))

    def skips(self, bound: Bound, key_texts: Iterable[str] = ()) -> bool:
        """Whether L2 may hold something older for any of these keys than what this process wrote to L3."""
        if not self._sure or self._overdue(bound):
            return True
        if not self._skipped:
            return False
        return len(self._skipped) >= LIMIT or any((bound.name, text) in self._skipped for text in key_texts)

    def _overdue(self, bound: Bound) -> bool:
        """Whether this process, which was in touch, no longer is: seen once, by the first read after it stood still."""
        until = bound.l1.trust.until
        if until == self._lapse or not -math.inf < until <= self._clock.monotonic():
            return False
        self.replaced()
        self._lapse = until
        return True

    def concern(self, bound: Bound) -> bool:
        """Whether L2 may hold something older of this schema than what this process wrote to L3."""
        return self.skips(bound) or any(name == bound.name for name, _ in list(self._skipped))

    @staticmethod
    def bound_of(bound: Bound, version: int) -> int:
        """The version below which L2 is to be cleared of a key that was written at `version`: where it was written
        behind, L2 may hold this very version as pending, or without what L3 added to it."""
        return version + 1 if bound.deferred else version

    @contextmanager
    def unannounced(self, bound: Bound, key_texts: Collection[str]) -> Iterator[None]:
        """For the length of a transaction in which writes reach L3 without L2; their repair rows travel in it.

        Only a look at the rows that begins after its end is sure to find them.
        """
        write = _Write()
        try:
            with self._lock:
                for place in ((bound.name, key_text) for key_text in key_texts):
                    under_way = [known for known in self._skipped.get(place, ()) if not known.ended]
                    self._skipped[place] = (*under_way, write)
            yield
        finally:
            write.ended = True
            self.wake()

    def leave(self, bound: Bound, versions: Mapping[str, int]) -> None:
        """Commits that had ended, of these versions by key text, could not be told of: leave their rows now.

        Raises `L3UnavailableError`.
        """
        with self.unannounced(bound, versions), bound.rows.primary.transaction() as conn:
            bound.rows.table.record_repairs(
                conn, {key_text: self.bound_of(bound, version) for key_text, version in versions.items()}
            )

    def wake(self) -> None:
        """See to all rows there are: Redis may be back. To be called without any lock held."""
        if self._concerned():
            self._wanted = True
            self.daemon.wake()

    def stop(self) -> None:
        """End the thread; rows that are left are repaired by others."""
        self.daemon.stop()
        self.daemon.join(2.0)

    def _step(self) -> float | None:
        """Look where it is our turn, and see to all rows where that is wanted; again soon where some are left."""
        self._busy = True
        try:
            due, self._due = self._due, ()
            if due:
                self._look(due)
            if self._wanted:
                self._wanted = False
                if not self._attempt():
                    self._wanted = True
            return INTERVAL if self._wanted else None
        except BaseException:
            self._wanted = True
            raise
        finally:
            self._busy = self._wanted

    def _look(self, names: Sequence[str]) -> None:
        """Whether there are rows of these schemas, and if there are, repair them."""
        try:
            waiting = self._waiting(names)
            self._blind = False
        except StrataError as error:
            self._blind = True
            self._log.debug("repairs could not be looked for", error=type(error).__name__)
            return
        for bound in waiting:
            try:
                self._repair(bound)
            except StrataError as error:
                self._log.debug("repairs wait", schema=bound.name, error=type(error).__name__)

    def _waiting(self, names: Iterable[str]) -> list[Bound]:
        """Those of the schemas of which there are rows. Raises as L3 does."""
        by_database: dict[Database, dict[str, Bound]] = {}
        for name in names:
            bound = self._schemas.get(name)
            if bound is not None and bound.l3 is not None:
                by_database.setdefault(bound.rows.primary, {})[bound.rows.table.mark] = bound
        waiting: list[Bound] = []
        for database, bounds in by_database.items():
            table = next(iter(bounds.values())).rows.table  # whichever: it asks for all of them
            try:
                with database.connection() as conn:
                    waiting += [bounds[mark] for mark in table.waiting_repairs(conn, list(bounds))]
            except MigrationError:
                pass  # without the table nobody can have left a row
        return waiting

    def _attempt(self) -> bool:
        """Tell L2 again, and repair all rows there are; whether nothing is left to do."""
        distrusted, replaced = self._distrusted, self._replaced
        bounds = [bound for bound in list(self._schemas.values()) if bound.l3 is not None]
        try:
            if self._pulse is not None:
                self._pulse.prove()
            if not self._sure:
                self._mender.tell_all_again(bounds, self._unsure_since - LAG)
        except StrataError as error:
            self._log.debug(
                "sending recent invalidations again failed; it is tried once more", error=type(error).__name__
            )
            return False
        repaired = self._repair_all(bounds)
        with self._lock:
            self._told = max(self._told, replaced)  # even so: it takes no L3, which may be away
            if repaired:
                self._trusted = max(self._trusted, distrusted)
            return repaired or (not self._skipped and self._trusted == distrusted)

    def _repair_all(self, bounds: Sequence[Bound]) -> bool:
        for bound in bounds:
            try:
                self._repair(bound)
            except MigrationError:
                continue  # without the table nobody can have left a row
            except StrataError as error:
                self._log.debug("repairs wait", schema=bound.name, error=type(error).__name__)
                return False
        return True

    def _repair(self, bound: Bound) -> None:
        if self._pulse is None:
            return
        before = {
            key: writes
            for key, writes in list(self._skipped.items())
            if key[0] == bound.name and all(write.ended for write in writes)
        }
        self._mender.mend(bound)
        with self._lock:
            for key, writes in before.items():
                if self._skipped.get(key) is writes:
                    del self._skipped[key]

    def clear(self, bound: Bound) -> None:
        """Empty the schema's part of L2, and everybody's L1. Raises `L2UnavailableError`."""
        self._mender.clear(bound)
