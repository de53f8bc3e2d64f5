"""What is done about the repairs that were left of a schema: L2 loses what is older, and everybody is told."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from strata.bound import Bound
from strata.coherence.marking import Marking
from strata.coherence.pulse import Pulse
from strata.errors import WITHOUT_L2, DecodeError, StrataError
from strata.l2.values import Put
from strata.l3.values import FIRST
from strata.protocol.messages import Announcer, MessageOp

if TYPE_CHECKING:
    from strata.l3.pool import Database
    from strata.l3.table import Table
    from strata.l3.values import Repair

BATCH = 500


class Mender:
    """Thread-safe: it keeps no state. `pulse` is None without Redis. Methods raise `L2UnavailableError`, and as L3
    does."""

    def __init__(
        self,
        pulse: Pulse | None,
        announcer: Announcer,
        raise_floor: Callable[[Bound, Mapping[str, int]], None],
        persisted: Callable[[Bound, Mapping[str, int]], None],
        marking: Marking,
    ) -> None:
        self._pulse = pulse
        self._announcer = announcer
        self._raise_floor = raise_floor
        self._persisted = persisted
        self._marking = marking

    def mend(self, bound: Bound) -> None:
        """See to all rows that there are of a schema with L3."""
        table, database = bound.rows.table, bound.rows.primary
        last: Repair | None = FIRST
        while last is not None:
            last = self._some(bound, table, database, last)
        self._whole(bound, table, database)

    def tell_all_again(self, bounds: Iterable[Bound], since: float) -> None:
        """A replica that became the master has not all that its master had acknowledged."""
        self._marking.tell_again(since)
        for bound in bounds:
            self._tell_again(bound, since)

    def _tell_again(self, bound: Bound, since: float) -> None:
        l2 = bound.l2
        if l2 is None:
            return
        announcer = self._announcer

        def message(key_text: str, version: int | None) -> bytes:
            return announcer.message(
                bound.name, key_text, MessageOp.INVALIDATE if version is None else MessageOp.SET, version
            )

        told = l2.tell_again(since, announcer.channel, message)
        bound.searches.drop()
        for key_text, version in told.items():
            bound.l1.forget(bound.plan.parse_key(key_text), below=version)  # what this process itself has told

    def _some(self, bound: Bound, table: Table, database: Database, after: Repair) -> Repair | None:
        """A page of the keys' rows; returns the last one, None where no other follows."""
        with database.transaction() as conn:
            rows = table.take_repairs(conn, BATCH, after)
            if rows:
                noted = table.noted(conn, [row.key_text for row in rows]) if bound.deferred else ()
                self._keys(bound, rows, noted)
                table.repairs_done(conn, rows)
        return rows[-1] if len(rows) == BATCH else None

    def _keys(self, bound: Bound, rows: Sequence[Repair], noted: Collection[str]) -> None:
        """`noted`: keys that may have been written in part, so that an older write still has a word on the others."""
        rows = [row for row in rows if _is_key(bound, row.key_text)]
        whole = {row.key_text: row.version - 1 for row in rows if row.key_text not in noted}
        ledger_is_away: StrataError | None = None
        if bound.deferred and whole:
            # First: else an older write of this key is handed off after the repair, and stands in L2 as the newest.
            try:
                self._raise_floor(bound, whole)
            except WITHOUT_L2 as error:
                ledger_is_away = error  # nothing is handed off meanwhile; the rows stay, and are repaired once more
        announcer = self._announcer
        puts = {
            row.key_text: Put(
                row.key_text, row.version, None, announcer.message(bound.name, row.key_text, MessageOp.SET, row.version)
            )
            for row in sorted(rows, key=lambda row: row.version)
        }
        self._tell(bound, announcer, list(puts.values()))
        if bound.deferred and whole:
            self._persisted(bound, whole)  # not before: L2 may have shown what is older than own writes
        bound.searches.drop()
        for put in puts.values():
            # The bus does not bring this instance its own messages.
            bound.l1.forget(bound.plan.parse_key(put.key_text), below=put.version)
        if ledger_is_away is not None:
            raise ledger_is_away

    def _tell(self, bound: Bound, announcer: Announcer, puts: Sequence[Put]) -> None:
        l2 = bound.l2
        if l2 is None:
            self._publish(announcer.channel, puts)
            return
        try:
            # A put without an intent stores nothing, and removes what is older: just what a repair is.
            l2.put("", announcer.channel, puts)
        except WITHOUT_L2:
            if l2.server.clustered:
                self._publish(announcer.channel, puts)  # the node of one key is away, and every L1 can be told
            raise

    def _publish(self, channel: str, puts: Sequence[Put]) -> None:
        assert self._pulse is not None
        self._pulse.server.pipeline([("PUBLISH", channel, put.message) for put in puts])

    def _whole(self, bound: Bound, table: Table, database: Database) -> None:
        """Empty the schema's part of L2, and everybody's L1, where anything may have changed."""
        with database.transaction() as conn:
            rows = table.take_whole_repairs(conn, BATCH)
            if rows:
                conn.command("SET LOCAL idle_in_transaction_session_timeout = 0")  # L2 may have many keys
                self.clear(bound)
                table.repairs_done(conn, rows)

    def clear(self, bound: Bound) -> None:
        """Empty the schema's part of L2, and everybody's L1. Raises `L2UnavailableError`."""
        announcer = self._announcer
        bound.l1.clear()
        if self._pulse is None:
            return
        if bound.l2 is not None:
            bound.l2.purge_all(announcer.channel)
            bound.searches.drop()
            bound.l1.clear()
        self._pulse.server.execute("PUBLISH", announcer.channel, announcer.message(bound.name, "", MessageOp.CLEAR))


def _is_key(bound: Bound, key_text: str) -> bool:
    """Whether a row is about a key of the schema: another tool may have left any text, which concerns nobody."""
    try:
        bound.plan.parse_key(key_text)
    except DecodeError:
        bound.counters.unreadable += 1
        return False
    return True
