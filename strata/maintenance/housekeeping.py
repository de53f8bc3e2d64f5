"""What nobody comes for any more is taken away: tombstones, notes of partial writes, dead letters.

`docs/retention.md` lists what is kept where, and its bounds. One process an hour sees to it, whichever it is: a worker,
or where there is no fleet any process of the application whose bus beats, or which has deferred writes pending. A lease
in the ledger's Redis gives out the turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from strata import waits
from strata.bound import Bound
from strata.engine.context import Context
from strata.errors import StrataError
from strata.observe.log import SafeLogger
from strata.policies import Retention

if TYPE_CHECKING:
    from strata.l2.client import RedisServer
    from strata.l3.connection import Connection
    from strata.l3.pool import Database

FIRST = 15.0  # seconds after which a process asks for the first time whether it is its turn
INTERVAL = 60.0  # seconds from then on
HELD_MS = 60_000  # for which a turn is held: a process that failed, or died over it, is followed by another after that
DONE_MS = 3_600_000  # from one turn to the next
AT_ONCE = 5_000  # rows in one transaction, which keeps every writer of the schema out
YOUNG = timedelta(hours=1)  # for which every deletion is remembered, however many there are


class Housekeeping:
    """Thread-safe: `_due` is written by any thread, an extra turn that is asked for being harmless. After fork it is as
    true for the child."""

    def __init__(
        self,
        context: Context,
        schemas: Mapping[str, Bound],
        ledger: Callable[[], RedisServer],
        retention: Retention,
        log: SafeLogger,
    ) -> None:
        self._context = context
        self._schemas = schemas
        self._ledger = ledger
        self._retention = retention
        self._log = log
        self._due = context.clock.monotonic() + FIRST * waits.uniform(0.7, 1.3)

    def beat(self) -> None:
        """Now and then, see in the background whether it is this process's turn. Costs nothing, and never raises."""
        now = self._context.clock.monotonic()
        if now >= self._due:
            self._due = now + INTERVAL * waits.uniform(0.7, 1.3)
            if self._deferred():
                self._context.background.submit("housekeeping", self._work)

    def _work(self) -> None:
        self.keep()

    def hourly(self, name: str, chore: Callable[[], int]) -> int:
        """What the chore returns, or 0 where a process has done it within the hour. Raises what the chore raises."""
        ledger, me = self._ledger(), self._context.announcer.source
        lease = ledger.keys.own("chores", name)
        if not ledger.execute("SET", lease, me, "NX", "PX", HELD_MS):
            return 0
        done = chore()
        ledger.execute("SET", lease, me, "PX", DONE_MS)
        return done

    def keep(self) -> int:
        """Remove what is too old, or too much, of each schema that nobody saw to within the hour; returns how much.

        A schema that cannot be seen to now is left for later, and said.
        """
        gone = 0
        for bound in self._deferred():
            try:
                gone += self.hourly(f"housekeeping:{bound.name}", lambda bound=bound: self._keep(bound))  # type: ignore[misc]
            except StrataError as error:
                self._log.debug("housekeeping waits", schema=bound.name, error=type(error).__name__)
        return gone

    def _deferred(self) -> list[Bound]:
        return [bound for bound in list(self._schemas.values()) if bound.deferred]

    def _keep(self, bound: Bound) -> int:
        writebehind, table, database = self._context.writebehind, bound.rows.table, bound.rows.primary
        assert writebehind is not None
        gone = writebehind.wither(bound)
        now, ttl = datetime.fromtimestamp(waits.wall(), UTC), self._retention.tombstone_ttl
        old = now - timedelta(seconds=ttl) if ttl else None
        many = database.read(table.tombstones_beyond, self._retention.max_tombstones)
        if many is not None:
            many = min(many + timedelta(microseconds=1), now - YOUNG)
        before = max((end for end in (old, many) if end is not None), default=None)
        if before is not None:
            gone += _in_steps(database, lambda conn: table.forget_tombstones(conn, before, AT_ONCE))
        if old is not None:
            gone += _in_steps(database, lambda conn: table.forget_partials(conn, old, AT_ONCE))
        return gone


def _in_steps(database: Database, step: Callable[[Connection], int]) -> int:
    """In short transactions, since each keeps every writer of the schema out."""
    gone = 0
    while True:
        with database.transaction() as conn:
            count = step(conn)
        gone += count
        if count < AT_ONCE:
            return gone
