"""One key of the dirty buffer: the write that L3 is not known to have, and what is known of it elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from strata.protocol.added import Added
from strata.protocol.entry import Ages, oldest
from strata.writebehind.dirty.journal import Segment
from strata.writebehind.ledger.shard import Shard, home_of


class Buffered(msgspec.Struct, gc=False, eq=False):
    """A pending write, which nobody changes once the buffer has it: that stamps a new one, whose `version` is 0 before.
    `held` is the record, None for a deletion, or where there is a `thaw`, which makes it of that, what L1 has of it: so
    the collector has nothing to walk through. `partial`: it has columns that were not loaded. `ages`: columns that
    earlier writes gave, over which this one was laid, with their versions. `added` is what is added to columns, and
    `default` the record to which, where there is none, or where it was `deleted`, at that version. `ends`: when a life
    of its own ends in L2 (monotonic), infinity being never, None where it has the life of all. `span` is the one that
    wrote it, "" where nothing is traced."""

    version: int
    held: Any
    partial: bool
    ages: Ages = ()
    added: Added = ()
    default: Any = None
    deleted: int = 0
    ends: float | None = None
    span: str = ""
    thaw: Callable[[Any], Any] | None = None

    @property
    def record(self) -> Any:
        """The record, None for a deletion."""
        return self.held if self.thaw is None else self.thaw(self.held)

    @property
    def deletes(self) -> bool:
        """Whether it is a deletion."""
        return self.held is None

    @property
    def plain(self) -> bool:
        """Whether it is a whole record and nothing else, that has the life of all."""
        if self.held is None or self.partial or self.ages or self.added:
            return False
        return self.ends is None and self.default is None and not self.deleted

    @property
    def oldest(self) -> int:
        """The version of its oldest column, or of the first that it adds."""
        return min([oldest(self.version, self.ages), *(series.first for series in self.added)])

    def restamped(self, version: int) -> Buffered:
        """All of it, as of this version."""
        added = tuple(series.restamped(version) for series in self.added)
        return replace(self, version=version, ages=(), added=added)


class LastEvent(NamedTuple):
    """The number of the last event of a key, and when it was asked for (monotonic)."""

    number: int = 0
    at: float = math.inf


class Addition(msgspec.Struct, gc=False):
    """What is added to columns of a record: `deltas` by column; `part`, the record with the stamps of the write alone;
    `default`, to which it is added where there is none; the record as the caller knows it, if it does, and what was
    `seen` of the key (`Tallies.seen`) before it was read; and the span that adds it."""

    deltas: dict[str, Any]
    part: Any
    default: Any = None
    known: Any = None
    seen: LastEvent = LastEvent()
    span: str = ""


class HeldRow(msgspec.Struct, frozen=True, gc=False):
    """What L3 has held since the stamp `at`; its version, and the one up to which it has what was added here."""

    record: Any
    version: int
    counted: int
    at: int


class OwnWrite(msgspec.Struct, frozen=True, gc=False):
    """What reads of a key get from the buffer; `newest`: nothing newer was met. Where something newer was met, it is
    the least that a read may show: the newer one may be lost with the process, or the Redis, that has it. `born` is
    when the process wrote it, or what it took the place of (monotonic). `doubted`: nothing newer may have been met only
    because this process does not hear the others just now; it is shown where the tiers below hold nothing newer, or
    cannot be asked. `oldest`: the version of its oldest column. `added` is what it adds to
    columns, `default` to which record where there is none, or where it was `deleted`, at that version."""

    version: int
    record: Any
    partial: bool
    newest: bool
    born: float
    oldest: int
    doubted: bool = False
    added: Added = ()
    default: Any = None
    deleted: int = 0

    @property
    def in_parts(self) -> bool:
        """Whether something newer may be below, of some columns."""
        return self.partial or self.oldest < self.version


class Slot(msgspec.Struct, gc=False, eq=False):
    """One key. `item` is replaced as a whole, never changed, so that it can be read without the lock.

    `sent` is the version that the ledger has, `sent_at` when it was asked last (monotonic); `persisted` the version
    that L3 has, `born` when the write that it lacks came (monotonic), `superseded` the newest one met elsewhere,
    `given_up` the one that was given up; `shown` the newest that left the buffer's hands. `home` is written by whoever
    asks for `shard` first, always to the same. `segment` belongs to the journal.
    """

    schema: str
    key: Any
    key_text: str
    item: Buffered
    born: float
    sent: int = 0
    sent_at: float = 0.0
    persisted: int = 0
    home: Shard | None = None
    superseded: int = 0
    given_up: int = 0
    shown: int = 0
    segment: Segment | None = None

    @property
    def shard(self) -> Shard:
        """Where it goes."""
        if self.home is None:
            self.home = home_of(self.schema, self.key_text)
        return self.home

    def own_write(self) -> OwnWrite | None:
        """What reads get, unless it was given up."""
        item = self.item
        if self.given_up == item.version:
            return None
        oldest = item.oldest if item.ages or item.added else item.version
        return OwnWrite(
            item.version,
            item.record,
            item.partial,
            self.superseded <= oldest,
            self.born,
            oldest,
            added=item.added,
            default=item.default,
            deleted=item.deleted,
        )

    def leaving(self) -> tuple[Slot, Buffered]:
        """It with its write, which is about to leave the buffer's hands; under the buffer's lock."""
        self.shown = self.item.version
        return self, self.item

    def holds(self, version: int) -> bool:
        """Whether it is this one that reads get, and nothing newer was met."""
        item = self.item
        if item.version != version or self.given_up == version:
            return False
        return self.superseded <= (item.oldest if item.ages or item.added else version)

    @property
    def overtaken(self) -> bool:
        """Whether a newer version was met elsewhere."""
        return self.superseded > self.item.version


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """What became of a write, by its version: whether there was room for it, and whether it was refused since it
    changes some columns of a record that is pending deletion. Of what is added: what is to be written, and the record
    as it is known with it."""

    version: int
    room: bool = True
    orphan: bool = False
    item: Buffered | None = None
    known: Any = None
