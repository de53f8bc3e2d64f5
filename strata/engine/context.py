"""What every operation needs besides its schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from strata.bound import Bound
from strata.clock import Clock
from strata.coherence.bus import Bus
from strata.coherence.identity import Identity
from strata.coherence.messages import Announcer, Op
from strata.coherence.ownership import Ownership
from strata.coherence.repairs import Repairs
from strata.engine.background import Background
from strata.engine.unfinished import Unfinished
from strata.errors import ClosedError, L2UnavailableError
from strata.l2.client import RedisServer
from strata.l3.listener import Listener
from strata.observe.feed import Feed
from strata.versions import VersionClock
from strata.writebehind import Own, Pending, WriteBehind

ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "ABSENT", "__slots__": ()})()
"""What a read returns where no tier has the record: never a value, so that a stored None cannot be mistaken for it."""


@dataclass(slots=True, eq=False)
class Context:
    """The parts that the schemas of one store share. `server` and `bus` are None without Redis, `writebehind` until
    a write-behind schema was registered, `listener` until one whose table is watched, `ownership` until one with L3.
    `lasting` is the seconds within which any commit has surely ended; `closed` is set once, by `DataStore.close`."""

    clock: Clock
    versions: VersionClock
    identity: Identity
    announcer: Announcer
    repairs: Repairs
    lasting: float
    background: Background
    unfinished: Unfinished
    feed: Feed | None = None
    server: RedisServer | None = None
    bus: Bus | None = None
    writebehind: WriteBehind | None = None
    closed: bool = False
    listener: Listener | None = None
    ownership: Ownership | None = None

    def check_open(self) -> None:
        """Raise `ClosedError` once the store was closed: for what was begun before, and goes on after it."""
        if self.closed:
            raise ClosedError("the store was closed; make another DataStore")

    def now(self) -> datetime:
        """The time that AutoNow and AutoNowAdd stamp."""
        return datetime.fromtimestamp(self.clock.wall(), UTC)

    @property
    def awaits_postgres(self) -> bool:
        """Whether a Redis that answers is not used for the sole reason that PostgreSQL has not told whose it is."""
        return self.ownership is not None and self.ownership.waits

    def ready(self) -> None:
        """Before a write is taken: whose the Redis is, who this process is, and what time it is."""
        if self.ownership is not None:
            self.ownership.ensure()
        self.identity.ensure()

    def stamp(self) -> int:
        """A new version."""
        self.ready()
        return self.versions.stamp()

    def pending(self, bound: Bound, id: Any) -> Own | None:
        """This process's own write of the key, which nobody below has yet.

        The write may be in the buffer and not yet in L1: once one read has seen it, no other may find what is older.
        """
        if self.writebehind is None or not bound.deferred:
            return None
        own = self.writebehind.peek(bound, id)
        entry = None if own is None else bound.l1.entries.get(id)
        if own is not None and entry is not None and entry.version < own.version:
            bound.l1.forget(id, below=own.version)
        return own

    def handed_off(self, bound: Bound, key_texts: Sequence[str]) -> dict[str, Pending]:
        """What any process has handed off and L3 may not have yet, by key text. It must be asked before L3."""
        if self.writebehind is None or not bound.deferred:
            return {}
        try:
            return self.writebehind.ledger_read(bound, key_texts)
        except L2UnavailableError:
            return {}  # what others hand off cannot be seen now; what this process wrote is in its buffer

    def listen(self) -> None:
        """From now on this instance hears of other instances' writes, and tells the recorder of its own doings.

        Raises `InvalidConfigError` where the Redis belongs to another database.
        """
        if self.ownership is not None and self.ownership.refused:
            self.ownership.ensure()  # nothing is read past a Redis that is another database's
        if self.feed is not None:
            self.feed.start()
        if self.bus is not None:
            self.bus.start()
        if not self.repairs.begun:
            self.repairs.begin()
        if self.listener is not None:
            self.listener.start()

    def message(self, bound: Bound, key_text: str, op: Op, version: int | None = None) -> bytes:
        """A message about one key of a schema."""
        return self.announcer.message(bound.name, key_text, op, version)

    @property
    def tells(self) -> bool:
        """Whether there are other instances that could be told of anything."""
        return self.server is not None

    def publish(self, *messages: bytes) -> None:
        """Tell other instances directly, for schemas without L2. Raises `L2UnavailableError`."""
        if self.server is not None:
            self.server.pipeline([("PUBLISH", self.announcer.channel, message) for message in messages])
