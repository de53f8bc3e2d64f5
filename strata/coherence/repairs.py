"""Writes that reached L3 while L2 was away: remembered in L3 by the write's own transaction, repaired afterwards.

The row (schema, id, version) in `_strata_repairs` is written with the record. Whoever reaches L2 first removes what
is older there, tells everybody, and deletes the row. Until then the process that wrote does not ask L2 for the key. And
a process that has read past an L2 that did not answer trusts it again only after it has seen to the repairs itself: it
may have been shown what another wrote meanwhile, and L2 may still hold what was before.

Rows changed outside of Strata come the same way: the trigger (`strata.l3.outside`) leaves the rows, one without a key
where anything of the schema may have changed. The rows are locked while they are worked on, so that of many processes
that are woken one does the work; the others wait for it, since they may trust L2 only afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from strata.bound import Bound
from strata.clock import Clock
from strata.coherence.messages import Announcer, Op
from strata.errors import MigrationError, StrataError
from strata.l2.tier import L2Tier, Put
from strata.l3.table import Repair
from strata.observe.log import SafeLogger

LIMIT = 10_000  # keys remembered in the process; beyond it L2 is not asked at all until they are repaired
BATCH = 500
_UNDER_WAY = 0
LAG = 60.0  # seconds by which a Redis that takes another's place may be behind it, or its loss be noticed late
INTERVAL = 0.5  # seconds between attempts while something is left


class Repairs:
    """Keys that L2 must not be asked for, and the thread that repairs them.

    `_lock` guards `_skipped` and `_thread`; `skips` reads without it, since the writer itself added its keys before
    it returned. After fork: `reset`; the rows are in L3, and the parent repairs its own.
    """

    def __init__(
        self,
        schemas: Mapping[str, Bound],
        announcer: Callable[[], Announcer],
        log: SafeLogger,
        clock: Clock,
        raise_floor: Callable[[Bound, Mapping[str, int]], None],
    ) -> None:
        self._schemas = schemas
        self._clock = clock
        self._raise_floor = raise_floor
        self._announcer = announcer
        self._log = log
        self.reset()

    def reset(self) -> None:
        """As new."""
        self._lock = threading.Lock()
        self._skipped: dict[tuple[str, str], int] = {}  # the turn at which the write of a key ended
        self._turn = 0
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stopped = False
        self._distrusted = 0  # how often L2 did not answer
        self._trusted = 0  # up to which of these times the repairs were seen to since
        self._replaced = 0  # how often another Redis may have taken the place of L2
        self._told = 0  # up to which of these times L2 was told again since
        self._unsure_since = 0.0  # when the first of all those times was that were not seen to

    @property
    def _sure(self) -> bool:
        return self._trusted == self._distrusted and self._told == self._replaced

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
        return any(bound.table and bound.l2 for bound in list(self._schemas.values()))

    def skips(self, bound: Bound, key_text: str) -> bool:
        """Whether L2 may hold something older for this key than what this process wrote to L3."""
        if not self._sure:
            return True
        if not self._skipped:
            return False
        return (bound.name, key_text) in self._skipped or len(self._skipped) >= LIMIT

    def concern(self, bound: Bound) -> bool:
        """Whether L2 may hold something older of this schema than what this process wrote to L3."""
        return self.skips(bound, "") or any(name == bound.name for name, _ in list(self._skipped))

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
        with self._lock:
            for key_text in key_texts:
                self._skipped[(bound.name, key_text)] = _UNDER_WAY
        try:
            yield
        finally:
            with self._lock:
                self._turn += 1
                for key_text in key_texts:
                    self._skipped[(bound.name, key_text)] = self._turn
            self.wake()

    def wake(self) -> None:
        """Look for rows to repair: L2 may be back."""
        with self._lock:
            if self._stopped or not self._concerned():
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="strata-repairs", daemon=True)
                self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """End the thread; rows that are left are repaired by others."""
        with self._lock:
            self._stopped = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join(2.0)

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait()
            self._wake.clear()
            while not self._stopped and not self._attempt():
                self._wake.wait(INTERVAL)
                self._wake.clear()

    def _attempt(self) -> bool:
        """Tell L2 again, and repair all rows there are; whether nothing is left to do."""
        distrusted, replaced = self._distrusted, self._replaced
        bounds = [bound for bound in list(self._schemas.values()) if bound.table is not None]
        try:
            if not self._sure:
                for bound in bounds:
                    self._tell_again(bound)
                with self._lock:
                    self._told = max(self._told, replaced)
        except StrataError as error:
            self._log.debug("what L2 was told waits", error=type(error).__name__)
            return False
        for bound in bounds:
            try:
                self._repair(bound)
            except MigrationError:
                continue  # without the table nobody can have left a row
            except StrataError as error:
                self._log.debug("repairs wait", schema=bound.name, error=type(error).__name__)
                return not self._skipped and self._trusted == distrusted
        with self._lock:
            self._trusted = max(self._trusted, distrusted)
        return True

    def _tell_again(self, bound: Bound) -> None:
        """A replica that became the master has not all that its master had acknowledged."""
        l2 = bound.l2
        if l2 is None:
            return
        l2.server.execute("PING")
        announcer = self._announcer()

        def message(key_text: str, version: int | None) -> bytes:
            return announcer.message(bound.name, key_text, Op.INVALIDATE if version is None else Op.SET, version)

        told = l2.tell_again(self._unsure_since - LAG, announcer.channel, message)
        bound.searches.drop()
        for key_text, version in told.items():
            bound.l1.forget(bound.plan.parse_key(key_text), below=version)

    def _repair(self, bound: Bound) -> None:
        table, database, l2 = bound.table, bound.database, bound.l2
        if table is None or database is None or l2 is None:
            return
        l2.server.execute("PING")
        before = {key: turn for key, turn in list(self._skipped.items()) if key[0] == bound.name and turn != _UNDER_WAY}
        while True:
            with database.transaction() as conn:
                rows = table.take_repairs(conn, BATCH)
                if rows:
                    noted = table.noted(conn, [row.key_text for row in rows]) if bound.deferred else ()
                    self._repair_keys(bound, l2, rows, noted)
                    table.repairs_done(conn, rows)
            if not rows:
                break
        self._repair_whole(bound, l2)
        with self._lock:
            for key, turn in before.items():
                if self._skipped.get(key) == turn:
                    del self._skipped[key]

    def _repair_keys(self, bound: Bound, l2: L2Tier, rows: Sequence[Repair], noted: Collection[str]) -> None:
        """`noted`: keys that may have been written in part, so that an older write still has a word on the others."""
        whole = {row.key_text: row.version - 1 for row in rows if row.key_text not in noted}
        if bound.deferred and whole:
            # First: else an older write of this key is handed off after the repair, and stands in L2 as the newest.
            self._raise_floor(bound, whole)
        announcer = self._announcer()
        puts = {
            row.key_text: Put(
                row.key_text, row.version, None, announcer.message(bound.name, row.key_text, Op.SET, row.version)
            )
            for row in sorted(rows, key=lambda row: row.version)
        }
        # A put without an intent stores nothing and removes what is older: just what a repair is.
        l2.put(l2.token(), announcer.channel, list(puts.values()))
        bound.searches.drop()
        for put in puts.values():
            # The bus does not bring this instance its own messages.
            bound.l1.forget(bound.plan.parse_key(put.key_text), below=put.version)

    def _repair_whole(self, bound: Bound, l2: L2Tier) -> None:
        """Empty the schema's part of L2, and everybody's L1, where anything may have changed."""
        assert bound.table is not None and bound.database is not None
        with bound.database.transaction() as conn:
            rows = bound.table.take_repairs(conn, BATCH, whole=True)
            if rows:
                conn.command("SET LOCAL idle_in_transaction_session_timeout = 0")  # L2 may have many keys
                self.clear(bound)
                bound.table.repairs_done(conn, rows)

    def clear(self, bound: Bound) -> None:
        """Empty the schema's part of L2, and everybody's L1. Raises `L2UnavailableError`."""
        announcer = self._announcer()
        bound.l1.clear()
        if bound.l2 is not None:
            bound.l2.purge_all(announcer.channel)
            bound.searches.drop()
            bound.l1.clear()
            bound.l2.server.execute("PUBLISH", announcer.channel, announcer.message(bound.name, "", Op.CLEAR))
