"""`WriteBehind`: deferred writes of one store, from `set` to L3."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from strata.bound import Bound
from strata.errors import (
    WITHOUT_L2,
    FlushTimeoutError,
    L3UnavailableError,
    WriteBehindMaxRetryError,
)
from strata.l3.diagnosis import NoRowError
from strata.l3.values import Change
from strata.policies import Durability
from strata.protocol.entry import Entry, EntryOp
from strata.protocol.shards import SHARDS
from strata.runtime.daemon import Daemon
from strata.writebehind import endings
from strata.writebehind.dirty import changes, directory
from strata.writebehind.dirty.slot import Accepted, Addition, Buffered, OwnWrite
from strata.writebehind.dirty.tally import Tallies
from strata.writebehind.ledger.lag import PendingStats
from strata.writebehind.ledger.shard import Shard, by_home, home_of, shards_of
from strata.writebehind.pending import Pending, pending_of, read_pending, together
from strata.writebehind.persist.dead_letters import DeadLetters
from strata.writebehind.persist.giving_up import Reason
from strata.writebehind.persist.persister import NO_ROW
from strata.writebehind.process import Process, Shared
from strata.writebehind.writer.replay import restored

CLOSE_GRACE = 2.0  # seconds that each thread gets to end


class WriteBehind:
    """Thread-safe. Threads and connections start with the first write. After fork: `after_fork`.

    `_process`, everything that has state, is replaced as a whole in the child of a fork, and by nobody else;
    `_finalizer` is set by the first writer, two of which do no harm. At exit the thread that ends the process flushes,
    over plain connections, since threads may not be started any more.
    """

    def __init__(self, shared: Shared) -> None:
        config = shared.config
        if config.write_behind_durability is Durability.JOURNAL and config.journal_dir is not None:
            directory.check(Path(config.journal_dir))
        self._shared = shared
        self._schemas = shared.schemas
        self._ledger = shared.ledger
        self._log = shared.log
        self._durability = config.write_behind_durability
        self.lag = shared.lag
        self._span = shared.tracer.current
        self._process = Process(shared, self._settle)
        self._finalizer: Any = None
        # Whether this outlives its store. Set by who writes, cleared by the flusher: each does its own step first, and
        # looks at the other's afterwards.
        self._held = False
        self.dead_letters = DeadLetters(shared.ledger, shared.schemas, self._rewrite, self._set_aside)

    def register(self, bound: Bound) -> None:
        """Make a schema known, before its first write."""
        self._schemas[bound.name] = bound
        journal = self._process.journal
        if journal is not None and journal.has_orphans():
            self._process.flusher.wake()

    # -- writing ------------------------------------------------------------------------------------------------

    def put(self, bound: Bound, key: Any, key_text: str, item: Buffered) -> int:
        """Take one write, which has no version and no span yet; returns its version.

        Raises `WriteBehindFullError` where there is no room for it, and L3 and Redis do not answer either;
        `ConstraintError` or `EncodeError` where it had to be written to L3 at once, and was refused; `ClosedError`
        where the process is about to end.
        """
        if self._finalizer is None:
            self._finalizer = endings.watch(self)
        item.span = self._span()
        put = self._process.buffer.write(bound.name, key, key_text, item)
        if not self._held:
            self._hold()
        if not put.orphan:
            put = self._process.intake.see_to(bound, key, key_text, put, item)
        if put.orphan:
            self._refuse(bound, key, key_text, replace(item, version=put.version))
        return put.version

    def add(self, bound: Bound, key: Any, key_text: str, what: Addition) -> Any:
        """Take what is added to columns of a record, which has no span yet; returns the record as far as it is known
        then, None where it is not. Raises as `put` does, and `NoRowError` where the record was deleted."""
        if self._finalizer is None:
            self._finalizer = endings.watch(self)
        process = self._process
        what.span = self._span()
        added = process.buffer.add(bound.name, key, key_text, what)
        if not self._held:
            self._hold()
        if added.orphan:
            raise NoRowError(f"a record of schema {bound.name!r} was deleted, and nothing can be added to it")
        assert added.item is not None
        try:
            process.intake.see_to(bound, key, key_text, added, added.item)
        except BaseException:
            process.buffer.tallies.forget((bound.name, key))  # whatever became of it, the next one counts without it
            raise
        return added.known

    def add_on(self, bound: Bound, key: Any, what: Addition) -> Accepted | None:
        """As `add`, in short, of a key to which was added before; None, nothing being done, where that takes a closer
        look. Its `part` is None where no column is stamped."""
        if self._durability is not Durability.MEMORY:
            return None
        what.span = self._span()
        return self._process.buffer.add_on(bound.name, key, what)

    def touch(self, bound: Bound, key: Any, ends: float | None) -> bool:
        """What L2 gets of this process's pending write of the key, if there is one, ends then; whether L2 is yet to get
        it, since the ledger is away. Of what it has got, the caller is to tell it."""
        process = self._process
        if not process.buffer.touch(bound.name, key, ends):
            return False
        if process.replay is not None:
            with contextlib.suppress(OSError):  # the life before is lost with the process, and the write is not
                process.replay.note(bound, key)
        try:
            # A hand-off under way may be of the life before: it has ended when this one has the turn.
            process.handoff.run_for(bound.name, key)
        except WITHOUT_L2:
            return True
        return False

    @property
    def at_once(self) -> bool:
        """Whether `put` hands off."""
        return self._durability is Durability.LEDGER

    def peek(self, bound: Bound, key: Any) -> OwnWrite | None:
        """This process's pending write of the key."""
        process = self._process
        if not process.flusher.daemon.started:
            process.flusher.wake()  # a process that wrote may be gone: whoever uses the schema looks after the ledger
        return process.buffer.peek(bound.name, key)

    def holds(self, bound: Bound, key: Any, version: int) -> bool:
        """Whether a version is this process's pending write of the key, which is shown, and nothing newer was met."""
        return self._process.buffer.holds(bound.name, key, version)

    @property
    def tallies(self) -> Tallies:
        """What `add` knows by itself."""
        return self._process.buffer.tallies

    def persist_own(self, bound: Bound, key: Any) -> None:
        """Bring this process's pending write of the key to L3, of which something newer was met. Raises
        `L3UnavailableError`."""
        process = self._process
        shown = process.buffer.shown(bound.name, key)
        try:
            left = shown is not None and process.bypass.overtaken(bound, [shown]).left
        except WITHOUT_L2:
            left = False  # L3 has refused it; to give it up waits for the ledger, in the buffer
        if left:
            raise L3UnavailableError(f"a deferred write to schema {bound.name!r} could not be persisted")

    def supersede(self, bound: Bound, key: Any, version: int) -> None:
        """A newer write of the key was met, on the bus or of this process's own."""
        self._process.buffer.supersede(bound.name, key, version)

    def purged(self, bound: Bound, key: Any, version: int) -> None:
        """The write of the key at this version was given up."""
        self._process.buffer.give_up(bound.name, key, version)

    # -- the ledger ---------------------------------------------------------------------------------------------

    def ledger_read(self, bound: Bound, key_texts: Sequence[str]) -> dict[str, Pending]:
        """The pending writes of any process, by key text, in one round trip. Raises `L2UnavailableError`."""
        return read_pending(self._shared, [(bound, key_texts)])[0]

    def ledger_reads(self, asked: Sequence[tuple[Bound, Sequence[str]]]) -> list[dict[str, Pending]]:
        """The same of several schemas, in one round trip; nothing of those that are not written behind."""
        return read_pending(self._shared, [(bound, key_texts if bound.deferred else ()) for bound, key_texts in asked])

    def beneath(self, bound: Bound, key: Any, key_text: str, pending: Pending | None) -> list[Change]:
        """What a synchronous partial write of the key must find in L3 before it: the ledger's entry, as
        `ledger_read` found it, and this process's own write. L3 judges by their versions whether it lacks them."""
        found: list[Change] = []
        if pending is not None:
            found += pending.steps
        if (own := self._own(bound, key, key_text)) is not None:
            found += own.steps
        return found

    def with_own(self, bound: Bound, key: Any, key_text: str, pending: Pending | None) -> Pending | None:
        """What the ledger was found to hold of a key, together with what this process has not handed off."""
        own = self._own(bound, key, key_text)
        return pending if own is None else together(pending, own)

    def _own(self, bound: Bound, key: Any, key_text: str) -> Pending | None:
        """This process's own write of the key, as one that is pending, unless it was given up."""
        shown = self._process.buffer.shown(bound.name, key)
        if shown is None or shown[0].given_up == shown[1].version:
            return None
        change = changes.of_item(bound, key, key_text, shown[1])
        return pending_of(bound, change, partial=shown[1].partial)

    def raise_floor(self, bound: Bound, versions: Mapping[str, int], partial: Collection[str] = ()) -> None:
        """Synchronous writes reached L3 at these versions, by key text; those of `partial` with some columns only.

        Raises `L2UnavailableError`.
        """
        self._ledger.done(by_home(bound.name, versions.items()), partial)

    def persisted(self, bound: Bound, versions: Sequence[tuple[Any, int]]) -> None:
        """L3 has these versions, and L2 nothing older, so that reads need what this process has written no more."""
        self._process.outcomes.persisted(bound, versions)

    def hear_floor(self, bound: Bound, versions: Mapping[str, int]) -> None:
        """As `raise_floor`, of versions that were found noted; those of the far future say nothing of what L3 has.

        Raises `L2UnavailableError`.
        """
        believed = self._shared.versions.believed
        self.raise_floor(bound, {text: version for text, version in versions.items() if believed(version)})

    def hear_persisted(self, bound: Bound, versions: Mapping[str, int]) -> None:
        """As `persisted`, of the same."""
        believed, parse = self._shared.versions.believed, bound.plan.parse_key
        self.persisted(bound, [(parse(text), version) for text, version in versions.items() if believed(version)])

    def pending_stats(self) -> dict[str, PendingStats]:
        """What the ledger holds, by schema. Raises `L2UnavailableError`."""
        return self.lag.ask()

    # -- the fleet ----------------------------------------------------------------------------------------------

    def persist(self, schema: str, shard: int) -> int:
        """Write what is due in a schema to L3, in this shard first; returns how many records. The body of the task
        `strata.persist`."""
        if not isinstance(schema, str) or schema not in self._schemas:
            self._log.warning("a schema is not registered here; its writes wait for another worker", schema=schema)
            return 0
        if type(shard) is not int or not 0 <= shard < SHARDS:
            self._log.warning("a task names a shard that there is not", schema=schema)
            return 0
        try:
            return self._process.persist(Shard(schema, shard))
        except WITHOUT_L2 as error:  # which is said for all that need it
            self._log.debug("the ledger did not answer; the shard is drained later", schema=schema, error=str(error))
            return 0

    def redrive(self) -> int:
        """A worker is here, and looks after overdue entries; called once a second. Returns how many shards were."""
        return self._process.work()

    # -- life ---------------------------------------------------------------------------------------------------

    @property
    def daemons(self) -> list[Daemon]:
        """The threads, started or not."""
        return self._process.daemons

    @property
    def interrupted(self) -> bool:
        """Whether the caller is a signal's handler that has interrupted a change of the buffer, or of the journal."""
        process = self._process
        return process.buffer.interrupted or (process.journal is not None and process.journal.interrupted)

    def dirty_count(self) -> int:
        """How many writes of this process L3 does not have, as far as it knows."""
        return len(self._process.buffer)

    @property
    def workers_seen(self) -> bool | None:
        """Whether a worker that persists was there when somebody looked last; None where nobody did."""
        return self._process.workers.seen

    def dirty_age(self) -> float:
        """Seconds since the oldest write of this process that L3 does not have came; 0 without such."""
        return self._process.buffer.age(self._shared.clock.monotonic())

    def flush(self, timeout: float) -> None:
        """Return when L3 has what this process wrote so far. Raises `FlushTimeoutError`."""
        left = self._process.flush().run(timeout) if len(self._process.buffer) else 0
        if left:
            raise FlushTimeoutError(
                f"{left} deferred writes were not in PostgreSQL after {timeout:g} s; they go on waiting", remaining=left
            )

    def close(self, timeout: float) -> None:
        """Flush, and end the threads. Raises `FlushTimeoutError` for what is neither in L3 nor safe in the ledger."""
        process = self._process
        try:
            if process.replay is not None:
                process.replay.end(CLOSE_GRACE)
            if len(process.buffer):
                process.flush().run(timeout, settle_for_ledger=True)
        finally:
            process.stop(CLOSE_GRACE)
            if self._finalizer:
                self._finalizer.cancel()
            endings.let_go(self)
        unsafe = process.buffer.unsent
        if unsafe:
            raise FlushTimeoutError(
                f"{unsafe} deferred writes reached neither PostgreSQL nor the ledger within {timeout:g} s and are lost "
                "with this process; check both servers",
                remaining=unsafe,
            )

    @property
    def flushes_on_sigterm(self) -> bool:
        """Whether the user has asked for it."""
        return self._shared.config.flush_on_sigterm

    def flush_at_exit(self, *, last: bool) -> None:
        """The process is about to end: what is pending goes to L3, or at least to the ledger. `last`: nothing more is
        written; otherwise what is, until `go_on`, waits. Raises nothing."""
        timeout = self._ledger.timing.exit
        if last:
            endings.quietly(lambda: self._close_at_exit(timeout))
            return
        self._process.buffer.shut(timeout)
        if len(self._process.buffer):
            endings.quietly(lambda: self._process.flush().run(timeout, settle_for_ledger=True))

    def _close_at_exit(self, timeout: float) -> None:
        try:
            self.close(timeout)
        except FlushTimeoutError as error:
            self._log.warning("the process ended with writes left", reason=str(error))

    def go_on(self) -> None:
        """The process does not end after all, or not yet: writes are taken again."""
        self._process.buffer.gate.open()

    def after_fork(self) -> None:
        """In the child: an empty buffer, since the parent keeps its own, and no threads yet."""
        self._ledger.reset_tokens()
        self.lag.reset()
        self._process.abandon()
        self._process = Process(self._shared, self._settle)
        self._finalizer = None
        self._held = False

    # -- inside -------------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """A store that is dropped without `close` leaves this behind until nothing is pending."""
        endings.hold(self)
        self._held = True

    def _settle(self) -> None:
        """After each round of the flusher."""
        if not len(self._process.buffer):
            endings.let_go(self)
            self._held = False
        if len(self._process.buffer):
            self._hold()

    def _refuse(self, bound: Bound, key: Any, key_text: str, item: Buffered) -> None:
        """A partial record over a pending deletion: a dead letter, and OnWriteError."""
        shard = home_of(bound.name, key_text)
        row = bound.plan.pack_row(bound.plan.to_row(item.record, bound.cipher))
        now = int(self._shared.clock.wall() * 1000)
        entry = Entry(item.version, EntryOp.PARTIAL, now, self._shared.announcer.source, row)
        try:
            self._process.giving_up.bury(bound, shard, key_text, entry, Reason(NO_ROW))
        except WITHOUT_L2:
            error = WriteBehindMaxRetryError(f"a deferred write to schema {bound.name!r} failed: {NO_ROW}", attempts=1)
            bound.hooks.write_error(key, error)

    def _rewrite(self, bound: Bound, key_text: str, entry: Entry) -> None:
        """A dead letter becomes a pending write of this process, at its own version, unless that is one of the far
        future, which nobody believes: then it is written as of now. Raises `L2UnavailableError`."""
        key = changes.key_of(bound, key_text)
        item = restored(bound, key, key_text, entry)
        process, versions = self._process, self._shared.versions
        process.beat()
        versions.reference.ensure()
        process.buffer.drop(bound.name, key, entry.version)  # given up, and perhaps not told of yet
        if versions.believed(entry.version):
            process.buffer.put(bound.name, key, key_text, item)
        else:
            process.buffer.write(bound.name, key, key_text, Buffered(0, item.record, item.partial))
        bound.l1.forget(key)  # nobody tells this process of what it hands off itself
        process.handoff.run_for(bound.name, key)

    def wither(self, bound: Bound) -> int:
        """Take out dead letters of a schema that are too old, or too many; returns how many. Raises
        `L2UnavailableError`."""
        return self._process.giving_up.wither(bound, shards_of(bound.name))

    def _set_aside(self, bound: Bound, shard: Shard, key_text: str, raw: bytes, reason: str) -> int:
        return self._process.giving_up.set_aside(bound, shard, key_text, raw, reason)
