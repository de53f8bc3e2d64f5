"""`WriteBehind`: deferred writes of one store, from `set` to L3."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from strata.bound import Bound
from strata.clock import Clock
from strata.coherence.messages import Announcer
from strata.coherence.repairs import Repairs
from strata.config import Config
from strata.errors import (
    ConstraintError,
    DecodeError,
    EncodeError,
    FlushTimeoutError,
    InvalidConfigError,
    L2UnavailableError,
    L3UnavailableError,
    MigrationError,
    WriteBehindFullError,
    WriteBehindMaxRetryError,
)
from strata.l2.client import RedisServer
from strata.l3.table import Change
from strata.observe.log import SafeLogger
from strata.observe.metrics import SafeMetrics
from strata.policies import Durability
from strata.shards import SHARDS
from strata.versions import VersionClock
from strata.writebehind import changes, directory, endings
from strata.writebehind.apply import NO_ROW
from strata.writebehind.buffer import Buffered, Own
from strata.writebehind.deadletters import DeadLetters
from strata.writebehind.entry import Entry, Op, decode
from strata.writebehind.ledger import Ledger
from strata.writebehind.pace import Pace
from strata.writebehind.parts import Parts, Shared
from strata.writebehind.replay import restored
from strata.writebehind.shard import Shard, home_of, shards_of
from strata.writebehind.undertaker import Blame

LAG_SECONDS = 1.0  # for which an answer of the ledger about its size will do
ROOM = 0.05  # seconds between looks for room in a full buffer
CLOSE_GRACE = 2.0  # seconds that each thread gets to end


class Pending(NamedTuple):
    """A write of some process that L3 does not have yet; `partial`: it carries some of the columns only."""

    version: int
    deleted: bool
    partial: bool
    names: tuple[str, ...]
    values: tuple[Any, ...]


class PendingStats(NamedTuple):
    """What the ledger holds of a schema: entries, seconds since the oldest of them was written, dead letters."""

    pending: int
    oldest_age: float
    dead: int

    @classmethod
    def together(cls, parts: Iterable[PendingStats]) -> PendingStats:
        """Several schemas as one."""
        every = list(parts)
        age = max((part.oldest_age for part in every), default=0.0)
        return cls(sum(part.pending for part in every), age, sum(part.dead for part in every))

    def fields(self) -> dict[str, Any]:
        """By the names that `Stats` has for them."""
        return {"pending": self.pending, "oldest_age": self.oldest_age, "dead_letters": self.dead}


class WriteBehind:
    """Thread-safe. Threads and connections start with the first write. After fork: `after_fork`.

    `_parts`, everything that has state, is replaced as a whole in the child of a fork, and by nobody else. At exit
    the thread that ends the process flushes, over plain connections, since threads may not be started any more.
    """

    def __init__(
        self,
        config: Config,
        ledger_server: RedisServer,
        *,
        same_server_as_l2: bool,
        clock: Clock,
        versions: VersionClock,
        announcer: Announcer,
        logger: SafeLogger,
        metrics: SafeMetrics,
        publisher: RedisServer | None = None,
        repairs: Repairs | None = None,
        pace: Pace | None = None,
    ) -> None:
        if config.write_behind_durability is Durability.JOURNAL and config.journal_dir is not None:
            directory.check(Path(config.journal_dir))
        self._config = config
        self._schemas: dict[str, Bound] = {}  # written by `register`, under the store's lock
        self._log = logger
        self._clock = clock
        self._durability = config.write_behind_durability
        self._shared = Shared(
            config=config,
            ledger=Ledger(ledger_server, pace or Pace(), versions.reference_ms),
            publisher=publisher or (ledger_server if same_server_as_l2 else None),
            same_server=same_server_as_l2,
            schemas=self._schemas,
            versions=versions,
            announcer=announcer,
            repairs=repairs,
            clock=clock,
            log=logger,
            metrics=metrics,
        )
        self._ledger = self._shared.ledger
        self._parts = Parts(self._shared)
        self._finalizer: Any = None
        # When the ledger was asked last, and what it said: replaced as a whole by any thread, twice being harmless.
        self._lag: tuple[float, dict[str, PendingStats]] = (-math.inf, {})
        self.dead_letters = DeadLetters(self._ledger, self._schemas, self._rewrite)

    def register(self, bound: Bound) -> None:
        """Make a schema known, before its first write."""
        self._schemas[bound.name] = bound
        journal = self._parts.journal
        if journal is not None and journal.has_orphans():
            self._parts.flusher.wake()

    # -- writing ------------------------------------------------------------------------------------------------

    def put(self, bound: Bound, key: Any, key_text: str, record: Any) -> int:
        """Take one write, None being a deletion; returns its version.

        Raises `WriteBehindFullError` where there is no room for it, and L3 and Redis do not answer either;
        `ConstraintError` or `EncodeError` where it had to be written to L3 at once, and was refused.
        """
        partial = record is not None and bool(bound.plan.unloaded(record))
        if self._finalizer is None:
            self._finalizer = endings.watch(self)
        put = self._parts.buffer.write(bound.name, key, key_text, record, partial)
        if put.orphan:
            self._refuse(bound, key, key_text, Buffered(put.version, record, partial))
        elif not put.room:
            self._overflow(bound, key, key_text, Buffered(put.version, record, partial))
        elif self._durability is not Durability.MEMORY and not self._durable(bound, key):
            self._hand_over(bound, key, key_text)
        return put.version

    def peek(self, bound: Bound, key: Any) -> Own | None:
        """This process's pending write of the key."""
        parts = self._parts
        if not parts.flusher.started:
            parts.flusher.wake()  # a process that wrote may be gone: whoever uses the schema looks after the ledger
        return parts.buffer.peek(bound.name, key)

    def supersede(self, bound: Bound, key: Any, version: int) -> None:
        """A newer write of the key was met, on the bus or of this process's own."""
        self._parts.buffer.supersede(bound.name, key, version)

    def purged(self, bound: Bound, key: Any, version: int) -> None:
        """Writes of the key up to this version were given up."""
        self._parts.buffer.give_up(bound.name, key, version)

    # -- the ledger ---------------------------------------------------------------------------------------------

    def ledger_read(self, bound: Bound, key_texts: Sequence[str]) -> dict[str, Pending]:
        """The pending writes of any process, by key text, in one round trip. Raises `L2UnavailableError`."""
        by_shard: dict[Shard, list[str]] = {}
        for key_text in key_texts:
            by_shard.setdefault(home_of(bound.name, key_text), []).append(key_text)
        found: dict[str, Pending] = {}
        for group, raws in zip(by_shard.values(), self._ledger.read(list(by_shard.items())), strict=True):
            for key_text, raw in zip(group, raws, strict=True):
                pending = None if raw is None else self._pending(bound, raw)
                if pending is not None:
                    found[key_text] = pending
        return found

    def beneath(self, bound: Bound, key: Any, key_text: str, pending: Pending | None) -> list[Change]:
        """What a synchronous partial write of the key must find in L3 before it: the ledger's entry, as
        `ledger_read` found it, and this process's own write. L3 judges by their versions whether it lacks them."""
        found: list[Change] = []
        if pending is not None and pending.deleted:
            found.append(Change(key, key_text, pending.version, delete=True))
        elif pending is not None:
            whole = not pending.partial and pending.names == bound.plan.column_names
            names = None if whole else pending.names
            found.append(Change(key, key_text, pending.version, False, names, pending.values))
        slot = self._parts.buffer.slot(bound.name, key)
        if slot is not None and slot.given_up < slot.item.version:
            found.append(changes.of_item(bound, key, key_text, slot.item))
        return found

    def raise_floor(self, bound: Bound, versions: Mapping[str, int], partial: Collection[str] = ()) -> None:
        """Synchronous writes reached L3 at these versions, by key text; those of `partial` with some columns only.

        Raises `L2UnavailableError`.
        """
        by_shard: dict[Shard, list[tuple[str, int]]] = {}
        parse = bound.plan.parse_key
        self._parts.outcomes.persisted(bound, [(parse(key_text), version) for key_text, version in versions.items()])
        for key_text, version in versions.items():
            by_shard.setdefault(home_of(bound.name, key_text), []).append((key_text, version))
        self._ledger.done(list(by_shard.items()), partial)

    def hear_floor(self, bound: Bound, versions: Mapping[str, int]) -> None:
        """As `raise_floor`, of versions that were found noted; those of the far future say nothing of what L3 has.

        Raises `L2UnavailableError`.
        """
        believed = self._shared.versions.believed
        self.raise_floor(bound, {text: version for text, version in versions.items() if believed(version)})

    def pending_stats(self) -> dict[str, PendingStats]:
        """What the ledger holds, by schema. Raises `L2UnavailableError`."""
        return {name: self._stats(name) for name in list(self._schemas)}

    def lag(self, *, ask: bool = True) -> dict[str, PendingStats]:
        """As `pending_stats`, asked for at most once a second, and the last known where the ledger does not answer."""
        asked, known = self._lag
        now = self._clock.monotonic()
        if ask and now >= asked + LAG_SECONDS:
            with contextlib.suppress(L2UnavailableError, InvalidConfigError):
                known = self.pending_stats()
            self._lag = now, known
        return known

    # -- the fleet ----------------------------------------------------------------------------------------------

    def persist(self, schema: str, shard: int) -> int:
        """Write what is due in one shard to L3; returns how many records. The body of the task `strata.persist`."""
        if schema not in self._schemas:
            self._log.warning("a schema is not registered here; its writes wait for another worker", schema=schema)
            return 0
        if type(shard) is not int or not 0 <= shard < SHARDS:
            self._log.warning("a task names a shard that there is not", schema=schema)
            return 0
        try:
            return self._parts.persist(Shard(schema, shard))
        except L2UnavailableError as error:
            self._log.warning("the ledger did not answer; the shard is drained later", schema=schema, error=str(error))
            return 0

    def redrive(self) -> int:
        """A worker is here, and looks after overdue entries; called once a second. Returns how many shards were."""
        return self._parts.redrive()

    # -- life ---------------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether this process has threads, or writes that L3 does not have."""
        return self._parts.begun

    def dirty_count(self) -> int:
        """How many writes of this process L3 does not have, as far as it knows."""
        return len(self._parts.buffer)

    def dirty_age(self) -> float:
        """Seconds since the oldest write of this process that L3 does not have came; 0 without such."""
        return self._parts.buffer.age(self._clock.monotonic())

    def flush(self, timeout: float) -> None:
        """Return when L3 has what this process wrote so far. Raises `FlushTimeoutError`."""
        left = self._parts.flush().run(timeout) if len(self._parts.buffer) else 0
        if left:
            raise FlushTimeoutError(
                f"{left} deferred writes were not in PostgreSQL after {timeout:g} s; they go on waiting", remaining=left
            )

    def close(self, timeout: float) -> None:
        """Flush, and end the threads. Raises `FlushTimeoutError` for what is neither in L3 nor safe in the ledger."""
        parts = self._parts
        try:
            if parts.replay is not None:
                parts.replay.end(CLOSE_GRACE)
            if len(parts.buffer):
                parts.flush().run(timeout, settle_for_ledger=True)
        finally:
            parts.stop(CLOSE_GRACE)
            if self._finalizer:
                self._finalizer.cancel()
        unsafe = parts.buffer.unsent
        if unsafe:
            raise FlushTimeoutError(
                f"{unsafe} deferred writes reached neither PostgreSQL nor the ledger within {timeout:g} s and are lost "
                "with this process; check both servers",
                remaining=unsafe,
            )

    @property
    def flushes_on_sigterm(self) -> bool:
        """Whether the user has asked for it."""
        return self._config.flush_on_sigterm

    def flush_at_exit(self, *, last: bool) -> None:
        """The process is about to end: what is pending goes to L3, or at least to the ledger. `last`: nothing more is
        written. Raises nothing."""
        timeout = self._ledger.pace.exit
        if last:
            endings.quietly(lambda: self.close(timeout))
        elif len(self._parts.buffer):
            endings.quietly(lambda: self._parts.flush().run(timeout, settle_for_ledger=True))

    def after_fork(self) -> None:
        """In the child: an empty buffer, since the parent keeps its own, and no threads yet."""
        self._ledger.reset_tokens()
        self._parts.abandon()
        self._parts = Parts(self._shared)
        self._finalizer = None

    # -- inside -------------------------------------------------------------------------------------------------

    def _durable(self, bound: Bound, key: Any) -> bool:
        """Whether the journal has the write; where it cannot take it, the ledger must."""
        replay = self._parts.replay
        if replay is None:
            return False
        try:
            replay.note(bound, key)
        except OSError as error:
            self._log.error("the journal took no write; it goes to the ledger at once", error=type(error).__name__)
            return False
        return True

    def _hand_over(self, bound: Bound, key: Any, key_text: str) -> None:
        """The ledger, or else L3, has the write when `set` returns."""
        parts = self._parts
        try:
            parts.beat()
            parts.handoff.run_for(bound.name, key)
        except L2UnavailableError as error:
            slot = parts.buffer.slot(bound.name, key)
            if slot is None:
                return  # L3 has it meanwhile
            current = slot.item
            try:
                parts.direct.one(bound, key, key_text, current)
            except (L3UnavailableError, MigrationError):
                raise L2UnavailableError(
                    "neither the ledger nor PostgreSQL took the write; it is tried again as long as this process lives",
                    outcome_unknown=True,
                ) from error
            except (ConstraintError, EncodeError):
                # The caller hears of it now, and not once more by OnWriteError.
                parts.buffer.drop(bound.name, key, current.version)
                raise
            parts.buffer.confirm(bound.name, [(key, current.version)])

    def _overflow(self, bound: Bound, key: Any, key_text: str, item: Buffered) -> None:
        """The buffer is full: to L3 at once; where that fails, wait for room or for L3, then raise."""
        parts = self._parts
        self._shared.metrics.count("strata_write_behind_full", schema=bound.name)
        deadline = self._clock.monotonic() + self._ledger.pace.full
        while True:
            try:
                parts.direct.one(bound, key, key_text, item)
                return
            except L3UnavailableError as error:
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    raise WriteBehindFullError(
                        f"{parts.buffer.unsent} deferred writes wait for Redis, and PostgreSQL does not answer either; "
                        "the write was not taken"
                    ) from error
                time.sleep(min(left, ROOM))
                if parts.buffer.put(bound.name, key, key_text, item).room:
                    return

    def _refuse(self, bound: Bound, key: Any, key_text: str, item: Buffered) -> None:
        """A partial record over a pending deletion: a dead letter, and OnWriteError."""
        shard = home_of(bound.name, key_text)
        row = bound.plan.pack_row(bound.plan.to_row(item.record, bound.cipher))
        now = int(self._clock.wall() * 1000)
        entry = Entry(item.version, Op.PARTIAL, now, self._shared.announcer.source, row)
        try:
            self._parts.undertaker.bury(bound, shard, key_text, entry, Blame(NO_ROW))
        except L2UnavailableError:
            error = WriteBehindMaxRetryError(f"a deferred write to schema {bound.name!r} failed: {NO_ROW}", attempts=1)
            bound.hooks.write_error(key, error)

    def _pending(self, bound: Bound, raw: bytes) -> Pending | None:
        try:
            entry = decode(raw)
            if not self._shared.versions.believed(entry.version):
                return None  # whoever persists it makes it a dead letter
            if entry.op is Op.DELETE:
                return Pending(entry.version, True, False, (), ())
            names, values = bound.plan.unpack_row(entry.row)
        except DecodeError as error:
            self._log.warning("a pending write needs a newer process", schema=bound.name, error=type(error).__name__)
            return None
        return Pending(entry.version, False, entry.op is Op.PARTIAL, names, values)

    def _rewrite(self, bound: Bound, key_text: str, entry: Entry) -> None:
        """A dead letter becomes a pending write of this process, at its own version, unless that is one of the far
        future, which nobody believes: then it is written as of now. Raises `L2UnavailableError`."""
        key = bound.plan.parse_key(key_text)
        item = restored(bound, entry)
        parts, versions = self._parts, self._shared.versions
        parts.beat()
        versions.reference.ensure()
        parts.buffer.drop(bound.name, key, entry.version)  # given up, and perhaps not told of yet
        if versions.believed(entry.version):
            parts.buffer.put(bound.name, key, key_text, item)
        else:
            parts.buffer.write(bound.name, key, key_text, item.record, item.partial)
        parts.handoff.run_for(bound.name, key)

    def _stats(self, name: str) -> PendingStats:
        shards = shards_of(name)
        server = self._ledger.server
        asked_for = (("HLEN", "dirty"), ("ZCARD", "deaths"))
        counts = server.pipeline(
            [(command, self._ledger.key(shard, part)) for shard in shards for command, part in asked_for]
        )
        firsts = server.pipeline([("ZRANGE", self._ledger.key(shard, "due"), 0, 0) for shard in shards])
        asked = [(shard, first[:1]) for shard, first in zip(shards, firsts, strict=True) if first]
        since = [decode(raw).since for [raw] in self._ledger.read(asked) if raw is not None]
        age = max(0.0, self._clock.wall() - min(since) / 1000) if since else 0.0
        return PendingStats(sum(counts[::2]), age, sum(counts[1::2]))
