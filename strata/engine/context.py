"""What every operation needs besides its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from strata.bound import Bound
from strata.coherence.identity import Identity
from strata.coherence.marking import Marking
from strata.coherence.repairs import Repairs
from strata.engine.background import Background
from strata.engine.unfinished import Unfinished
from strata.errors import WITHOUT_L2, ClosedError, StrataError
from strata.l2.steps import CHUNK
from strata.observe.feed import Feed
from strata.protocol.messages import Announcer, MessageOp
from strata.protocol.versions import VersionClock
from strata.waits.clock import Clock
from strata.waits.locks import is_inside

if TYPE_CHECKING:
    from strata.coherence.bus import Bus
    from strata.coherence.ownership import Ownership
    from strata.l2.client import RedisServer
    from strata.l3.listener import Listener
    from strata.writebehind.dirty.slot import OwnWrite
    from strata.writebehind.pending import Pending
    from strata.writebehind.service import WriteBehind

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
    marking: Marking
    feed: Feed | None = None
    server: RedisServer | None = None
    bus: Bus | None = None
    writebehind: WriteBehind | None = None
    closed: bool = False
    listener: Listener | None = None
    ownership: Ownership | None = None

    def check_open(self) -> None:
        """Raise `ClosedError` once the store was closed: for what was begun before, and goes on after it."""
        self.check_not_closed()
        self.check_whole()

    def check_not_closed(self) -> None:
        """Raise `ClosedError` once the store was closed."""
        if self.closed:
            raise ClosedError("the store was closed; make another DataStore")

    def check_whole(self, *bounds: Bound) -> None:
        """Raise `StrataError` where a signal's handler calls that has interrupted a change which the call would have to
        wait for: of what is written behind, or of what L1 has of these schemas. Nothing was done then."""
        inside = self.writebehind is not None and self.writebehind.interrupted
        for bound in bounds:
            inside = inside or is_inside(bound.l1.claims.lock)
        if inside:
            raise StrataError(
                "this call comes from a signal's handler, which has interrupted the store in the midst of a change; "
                "have the handler raise (sys.exit), or note what is to be done, and call the store when it has returned"
            )

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

    def pending(self, bound: Bound, id: Any) -> OwnWrite | None:
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

    def met(self, bound: Bound, id: Any, version: int) -> None:
        """A read shows this version of a key: an older write of this process, which L3 does not have yet, is shown by
        none that comes after it."""
        if self.writebehind is not None and bound.deferred:
            own = self.writebehind.peek(bound, id)
            if own is not None and own.newest and own.oldest < version:
                self.writebehind.supersede(bound, id, version)

    def handed_off(self, bound: Bound, key_texts: Sequence[str]) -> dict[str, Pending] | None:
        """What any process has handed off and L3 may not have yet, by key text; None where the ledger does not answer,
        and only the own pending writes are visible. It must be asked before L3."""
        if self.writebehind is None or not bound.deferred:
            return {}
        try:
            return self.writebehind.ledger_read(bound, key_texts)
        except WITHOUT_L2:
            return None

    def handed_off_together(self, asked: Sequence[tuple[Bound, Sequence[str]]]) -> list[dict[str, Pending] | None]:
        """As `handed_off`, of several schemas, in one round trip."""
        if self.writebehind is None:
            return [{} for _ in asked]
        try:
            return list(self.writebehind.ledger_reads(asked))
        except WITHOUT_L2:
            return [None if bound.deferred else {} for bound, _ in asked]

    def listen(self) -> None:
        """From now on this instance hears of other instances' writes, and tells the recorder of its own doings.

        Raises `InvalidConfigError` where the Redis belongs to another database.
        """
        if self.ownership is not None and self.ownership.refused:
            self.ownership.ensure()  # nothing is read past a Redis that is another database's
        if self.feed is not None:
            self.feed.start()
        if not self.repairs.begun:
            self.repairs.begin()  # before the bus wakes them, who would take L2 for one that was replaced
        if self.bus is not None:
            self.bus.start()
        if self.listener is not None:
            self.listener.start()

    def drop(self, bound: Bound, keys: Mapping[str, Any]) -> None:
        """Drop what is cached of rows, ids by key text, in every instance. Raises `L2UnavailableError`."""
        bound.l1.forget_many(list(keys.values()))
        messages = self.messages(bound, [(key_text, MessageOp.INVALIDATE, None) for key_text in keys])
        if bound.l2 is not None:
            bound.l2.invalidate(self.announcer.channel, messages)
            bound.searches.drop()
        else:
            self.publish(*messages.values())

    def message(self, bound: Bound, key_text: str, op: MessageOp, version: int | None = None) -> bytes:
        """A message about one key of a schema."""
        return self.announcer.message(bound.name, key_text, op, version)

    def messages(
        self, bound: Bound, said: Sequence[tuple[str, MessageOp, int | None]], *, signed: bool = True
    ) -> dict[str, bytes]:
        """What is said of keys, each with its version, by key text: that of all keys of one command is said with the
        first of them, and nothing with the others."""
        if len(said) == 1:
            [(key_text, op, version)] = said
            return {key_text: self.announcer.message(bound.name, key_text, op, version, signed=signed)}
        step = self._at_once()
        messages = {key_text: b"" for key_text, _, _ in said}
        for start in range(0, len(said), step):
            alike: dict[MessageOp, list[tuple[str, int | None]]] = {}
            for key_text, op, version in said[start : start + step]:
                alike.setdefault(op, []).append((key_text, version))
            for op, versions in alike.items():
                messages[versions[0][0]] = self.announcer.about(bound.name, op, versions, signed=signed)
        return messages

    def _at_once(self) -> int:
        """How many keys go in one command: in a Cluster, which only a connection tells of, each goes by itself."""
        try:
            return 1 if self.server is not None and self.server.clustered else CHUNK
        except WITHOUT_L2:
            return 1

    @property
    def tells(self) -> bool:
        """Whether there are other instances that could be told of anything."""
        return self.server is not None

    def publish(self, *messages: bytes) -> None:
        """Tell other instances directly, for schemas without L2. Raises `L2UnavailableError`."""
        if self.server is not None:
            self.server.pipeline([("PUBLISH", self.announcer.channel, message) for message in messages if message])
