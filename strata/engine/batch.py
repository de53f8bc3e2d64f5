"""Synchronous writes of many keys, over one or several schemas: all or nothing in L3, caches after the commit.

The same steps as a single write-through write: intents, commit, puts, L1. For write-behind schemas the ledger's
versions are read after the intents and before the commit, and the floor is raised with the put, so that a pending
write of another process neither overtakes nor is overtaken wrongly. A partial record supersedes a pending write of its
key as a whole, but carries only some of its columns: so what is pending goes to L3 first, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from strata.bound import Bound
from strata.coherence.guard import Claim
from strata.coherence.messages import Op
from strata.engine.context import Context
from strata.engine.write import as_written, outcome_unknown
from strata.errors import L2UnavailableError, L3UnavailableError
from strata.l2.tier import Put
from strata.l3.failures import BatchError, unfit
from strata.l3.table import Change as Pending
from strata.l3.table import adapting
from strata.policies import WriteMode
from strata.shards import shard_of


@dataclass(slots=True)
class Change:
    """One key's last word in the batch: a checked, stamped record, or None for its deletion."""

    id: Any
    key_text: str
    record: Any
    version: int = 0


@dataclass(slots=True)
class Part:
    """The changes of one schema, by key text."""

    bound: Bound
    changes: dict[str, Change] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    rows: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    token: str = ""
    intended: bool = False
    intending: bool = False  # whether the intent may stand in L2
    partial: set[str] = field(default_factory=set)  # keys of records that do not carry all columns
    beneath: dict[str, list[Pending]] = field(default_factory=dict)  # deferred writes under partial records, by key

    def add(self, change: Change) -> None:
        """A later change of a key takes the earlier one's place, keeping what it did not load."""
        earlier = self.changes.pop(change.key_text, None)
        both = earlier is not None and earlier.record is not None and change.record is not None
        if both and self.bound.plan.unloaded(change.record):
            change.record = self.bound.plan.merge(earlier.record, change.record)  # type: ignore[union-attr]
        self.changes[change.key_text] = change
        if change.record is not None:
            self.rows[change.key_text] = self.bound.plan.to_row(change.record, self.bound.cipher)

    def ordered(self, deleted: bool) -> list[Change]:
        """Those that are deletions, or those that are not, sorted by key, so that batches do not deadlock."""
        chosen = [change for change in self.changes.values() if (change.record is None) is deleted]
        return sorted(chosen, key=lambda change: change.id)


class Batch:
    """Collects changes and commits them once. Not thread-safe; used by one caller."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.parts: dict[str, Part] = {}
        self._unsure = False  # whether a commit may be under way whose end is not known

    def add(self, bound: Bound, id: Any, key_text: str, record: Any) -> None:
        """A record that `Writer.prepare` gave, or None. Raises `EncodeError` before any tier is touched."""
        part = self.parts.setdefault(bound.name, Part(bound))
        part.add(Change(id, key_text, record))

    def commit(self, timeout: float | None = None) -> None:
        """Write everything to L3 in one transaction, then to the caches. Schemas without L3 are not for here."""
        parts = [self.parts[name] for name in sorted(self.parts)]
        if not parts:
            return
        try:
            for part in parts:
                self._claim(part)
                self._intend(part)
                self._meet_ledger(part)
            self._write(parts, timeout)
            for part in parts:
                self._put(part)
        except BaseException as error:
            for part in parts:
                for change in part.changes.values():
                    part.bound.l1.forget(change.id)
            if not outcome_unknown(error, self._unsure):
                self._abandon(parts)
            raise
        finally:
            for part in parts:
                part.bound.l1.guard.release(*part.claims)

    def _claim(self, part: Part) -> None:
        ids = [change.id for change in part.changes.values()]
        for id in ids:
            part.bound.l1.forget(id)
        part.claims = [Claim(id) for id in ids]
        part.bound.l1.guard.enter(*part.claims)

    def _intend(self, part: Part) -> None:
        context, bound = self._context, part.bound
        said = {text: context.message(bound, text, Op.INTENT) for text in part.changes}
        try:
            if bound.l2 is None:
                context.publish(*said.values())
                part.intended = True
            elif not any(context.repairs.skips(bound, text) for text in said):
                part.token = bound.l2.token()
                part.intending = True
                bound.l2.intend(part.token, context.lasting, context.announcer.channel, said)
                bound.searches.committing(part.token, context.lasting)
                part.intended = True
        except L2UnavailableError:
            part.intending = False  # the transaction leaves rows for the repair

    def _meet_ledger(self, part: Part) -> None:
        deferred = self._context.writebehind
        if not part.bound.deferred or deferred is None:
            return
        waiting: dict[str, Any] = {}
        try:
            waiting = deferred.ledger_read(part.bound, list(part.changes))
        except L2UnavailableError:
            pass  # versions then decide to within the clocks' error
        for pending in waiting.values():
            self._context.versions.observe(pending.version)
        for change in part.changes.values():
            own = deferred.peek(part.bound, change.id)
            if own is not None:
                self._context.versions.observe(own.version)
            if change.record is not None and part.bound.plan.unloaded(change.record):
                text = change.key_text
                part.partial.add(text)
                if beneath := deferred.beneath(part.bound, change.id, text, waiting.get(text)):
                    part.beneath[text] = beneath

    def _write(self, parts: Sequence[Part], timeout: float | None) -> None:
        adapting(lambda: self._transact(parts, timeout))
        self._unsure = False

    def _transact(self, parts: Sequence[Part], timeout: float | None) -> None:
        database = parts[0].bound.database
        assert database is not None
        self._unsure = False
        with ExitStack() as stack:
            for part in parts:
                if self._context.tells and not part.intended:
                    stack.enter_context(self._context.repairs.unannounced(part.bound, part.changes))
            conn = stack.enter_context(database.transaction(timeout))
            for part in parts:
                self._lock(conn, part)
            for part in parts:
                self._write_part(conn, part)
            self._unsure = True

    def _lock(self, conn: Any, part: Part) -> None:
        if part.bound.table is not None and part.bound.table.locked:
            shards: dict[int, bool] = {}
            for change in part.changes.values():
                shard = shard_of(change.key_text)
                alone = change.record is None or change.key_text in part.beneath
                shards[shard] = shards.get(shard, False) or alone
            part.bound.table.lock_shards(conn, shards)

    def _write_part(self, conn: Any, part: Part) -> None:
        context, bound = self._context, part.bound
        table, node = bound.table, context.versions.node
        assert table is not None
        self._write_beneath(conn, part)
        for change in part.ordered(deleted=True):
            change.version = table.delete(conn, change.id, context.stamp(), node)
        changes = part.ordered(deleted=False)
        rows = [part.rows[change.key_text] for change in changes]
        stamps = [context.stamp() for _ in changes]
        for change, written in zip(changes, table.set_many(conn, rows, stamps, node), strict=True):
            change.version = written.version
            change.record = as_written(bound, change.record, written)
        if context.tells and not part.intended:
            for change in part.changes.values():
                table.record_repair(conn, change.key_text, context.repairs.bound_of(bound, change.version))

    def _write_beneath(self, conn: Any, part: Part) -> None:
        """Bring what is pending under partial records to L3, at its own versions, for these to be laid over it.

        The put's floor then makes the ledger's entries leave, which L3 has in all the columns that still matter.
        """
        table = part.bound.table
        assert table is not None
        left = [list(pending) for pending in part.beneath.values()]
        try:
            while left:  # no key twice in one call; more than one round where ledger and buffer both have a write
                table.apply(conn, [pending.pop(0) for pending in left])
                left = [pending for pending in left if pending]
        except BatchError as error:
            raise unfit(error)  # noqa: B904 the cause is set

    def _abandon(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if part.intending and part.bound.l2 is not None:
                try:
                    part.bound.l2.abandon(part.token, list(part.changes))
                    part.bound.searches.committed(part.token)
                except L2UnavailableError:
                    pass  # they expire

    def _put(self, part: Part) -> None:
        context, bound = self._context, part.bound
        changes = list(part.changes.values())
        context.versions.observe(max(change.version for change in changes))
        self._raise_floor(part, changes)
        stored = self._put_l2(part, changes)
        began = context.clock.monotonic()
        kept = bound.mode is not WriteMode.WRITE_THROUGH_L1_ASYNC
        fills, gone = [], []
        for change, claim in zip(changes, part.claims, strict=True):
            if kept and change.record is not None and change.key_text in stored:
                fills.append((claim, bound.plan.freeze(change.record), change.version, False))
            else:
                gone.append(change.id)
        for id in [*gone, *bound.l1.fill_many(fills, began)]:
            bound.l1.forget(id)

    def _raise_floor(self, part: Part, changes: Sequence[Change]) -> None:
        """Before the put: an older write that is handed off between them would stand in L2, and in nobody's ledger.

        Where the ledger does not answer, rows in L3 are left, from which floor and L2 are repaired.
        """
        context, bound = self._context, part.bound
        deferred = context.writebehind
        if not bound.deferred or deferred is None:
            return
        for change in changes:
            deferred.supersede(bound, change.id, change.version)
        try:
            deferred.raise_floor(bound, {change.key_text: change.version for change in changes}, part.partial)
        except L2UnavailableError:
            if part.intended:
                self._leave_repairs(part, changes)

    def _leave_repairs(self, part: Part, changes: Sequence[Change]) -> None:
        try:
            self._context.repairs.leave(part.bound, {change.key_text: change.version for change in changes})
        except L3UnavailableError:
            pass  # L3's versions refuse what is older; L2 shows it until then

    def _put_l2(self, part: Part, changes: Sequence[Change]) -> set[str]:
        context, bound = self._context, part.bound
        puts = []
        for change in changes:
            op = Op.DELETE if change.record is None else Op.SET
            message = context.message(bound, change.key_text, op, change.version)
            cached = None if change.record is None else bound.plan.cached(change.record)
            puts.append(Put(change.key_text, change.version, cached, message))
        try:
            if bound.l2 is None:
                if part.intended:
                    context.publish(*(put.message for put in puts))
            elif part.intended:
                stored = bound.l2.put(part.token, context.announcer.channel, puts)
                bound.searches.committed(part.token)
                return stored
        except L2UnavailableError:
            if bound.l2 is None:
                self._leave_repairs(part, changes)
            return set()
        return {put.key_text for put in puts}
