"""Synchronous writes, of one key or of many over several schemas: all or nothing in L3, caches after the commit.

In this order: intents in L2 (acknowledged, and published, before COMMIT is sent), commit in L3, put and publish in one
script, then L1. A writer killed anywhere leaves nothing stale: the intent refuses fills until it expires. One change of
a table without locks is one statement, and so its own transaction.

For write-behind schemas the ledger's versions are read after the intents and before the commit, and the floor is raised
with the put, so that a pending write of another process neither overtakes nor is overtaken wrongly. A partial record
supersedes a pending write of its key as a whole, but carries only some of its columns: so what is pending goes to L3
first, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from strata import waits
from strata.bound import Bound
from strata.engine.changes import UNDECIDED, Decision, KeyChange, SchemaChanges, check_outside, decide_on
from strata.engine.context import ABSENT, Context
from strata.errors import WITHOUT_L2, WITHOUT_L3, AlreadyExistsError, DecodeError, L3UnavailableError, StrataError
from strata.l1.claims import ManyClaim
from strata.l2.values import Put
from strata.l3.diagnosis import BatchError, suppressed, unfit
from strata.l3.doubt import adapting
from strata.l3.values import Status
from strata.policies import WriteMode
from strata.protocol.messages import MessageOp
from strata.protocol.shards import shard_of
from strata.protocol.versions import ROW_NODE

TAKEN = (Status.APPLIED, Status.SUPERSEDED)  # L3 has the write, or a newer one


def as_written(conn: Any, bound: Bound, record: Any, written: Any) -> Any:
    """The record with the columns of which L3 holds other values: unloaded ones, AutoNowAdd of the first insert, and
    what the table rounds, computes or changes by trigger. Raises `DecodeError` where it cannot be read, before COMMIT
    where there is a transaction."""
    plan = bound.plan
    # With the key, to which a ciphertext is bound; it is never among the names.
    names = (*plan.key.names, *written.names)
    values = (*plan.key.parts(plan.key_of(record)), *written.values)
    try:
        return plan.merge(record, bound.record(values, names))
    except DecodeError as error:
        if conn.in_transaction:
            error.args = (f"{error}; nothing was written",)
        raise


def outcome_unknown(error: BaseException, unsure: bool) -> bool:
    """Whether a commit may be under way although the write failed; `unsure`: it was when an error from outside came."""
    if isinstance(error, L3UnavailableError):
        return error.outcome_unknown
    return unsure and not isinstance(error, StrataError)


class Commit:
    """Collects changes and commits them once. Not thread-safe; used by one caller."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.parts: dict[str, SchemaChanges] = {}
        self._unsure = False  # whether a commit may be under way whose end is not known

    def add(self, bound: Bound, id: Any, key_text: str, record: Any, life: float | None = None) -> None:
        """A record that `Writer.prepare` gave, or None. Raises `EncodeError` before any tier is touched."""
        part = self.parts.get(bound.name)
        if part is None:
            part = self.parts[bound.name] = SchemaChanges(bound)
        part.add(KeyChange(id, key_text, record, life=life))

    def insert_all(self, bound: Bound, records: Mapping[str, tuple[Any, Any]], life: float | None = None) -> list[Any]:
        """`run`, of whole records alone, by key text with their ids, of which there must be none; returns them as
        stored, in their order."""
        part = self.parts[bound.name] = SchemaChanges(bound, inserting=True)
        for key_text, (id, record) in waits.in_turns(records.items()):
            part.add(KeyChange(id, key_text, record, life=life))
        self.run()
        return [change.record for change in part.changes.values()]

    def decide(self, bound: Bound, id: Any, key_text: str, decide: Decision, life: float | None = None) -> Any:
        """`run`, of this alone; returns the record as stored."""
        part = self.parts[bound.name] = SchemaChanges(bound)
        change = part.changes[key_text] = KeyChange(id, key_text, UNDECIDED, decide=decide, life=life)
        self.run()
        return change.record

    def run(self, timeout: float | None = None) -> None:
        """Write everything to L3 in one transaction, then to the caches. Schemas without L3 are not for here."""
        parts = [self.parts[name] for name in sorted(self.parts)]
        if not parts:
            return
        for part in parts:
            check_outside(part.bound, part.changes)
        try:
            for part in parts:
                self._claim(part)
                self._intend(part)
                if part.bound.deferred:
                    self._meet_ledger(part)
            began = self._context.clock.monotonic()
            self._write(parts, timeout)
            with waits.shield():  # one that is committed is put, and told
                for part in parts:
                    self._put(part, began)
        except BaseException as error:
            for part in parts:
                part.bound.l1.forget_many([change.id for change in part.changes.values()])
            if outcome_unknown(error, self._unsure):
                self._doubt(parts)
            else:
                self._abandon(parts)
            raise
        finally:
            for part in parts:
                for claim in part.claims:
                    part.bound.l1.claims.release_many(claim)

    def _claim(self, part: SchemaChanges) -> None:
        lives: dict[float | None, list[Any]] = {}
        for change in waits.in_turns(part.changes.values()):
            lives.setdefault(change.life, []).append(change.id)
        for life, ids in lives.items():
            part.bound.l1.forget_many(ids)
            part.claims.append(ManyClaim(ids, life))
            part.bound.l1.claims.enter_many(part.claims[-1])
            waits.give_way()

    def _intend(self, part: SchemaChanges) -> None:
        context, bound = self._context, part.bound
        part.since = None if bound.l2 is None else bound.l2.since
        said = context.messages(bound, [(text, MessageOp.INTENT, None) for text in part.changes])
        try:
            if bound.l2 is None:
                context.publish(*said.values())
                part.intended = True
            elif not context.repairs.skips(bound, said):
                part.token = bound.l2.token()
                part.intending = True
                bound.l2.intend(part.token, context.lasting, context.announcer.channel, said)
                bound.searches.committing(part.token, context.lasting)
                part.intended = True
        except WITHOUT_L2:
            part.intending = False  # the transaction leaves rows for the repair

    def _meet_ledger(self, part: SchemaChanges) -> None:
        deferred = self._context.writebehind
        if deferred is None:
            return
        waiting: dict[str, Any] = {}
        try:
            waiting = deferred.ledger_read(part.bound, list(part.changes))
        except WITHOUT_L2:
            pass  # versions then decide to within the clocks' error
        for pending in waiting.values():
            self._context.versions.observe(pending.version)
        for change in part.changes.values():
            own = deferred.peek(part.bound, change.id)
            if own is not None:
                self._context.versions.observe(own.version)
                # Reads compare it with what is below from now on: nobody may ever be told that the commit happened.
                deferred.supersede(part.bound, change.id, own.version + 1)
            text = change.key_text
            if change.open or (change.record is not None and part.bound.plan.unloaded(change.record)):
                part.partial.add(text)
            elif not part.inserting:
                continue
            if beneath := deferred.beneath(part.bound, change.id, text, waiting.get(text)):
                part.beneath[text] = beneath
                if text in waiting:
                    part.handed_off[text] = waiting[text].version

    def _write(self, parts: Sequence[SchemaChanges], timeout: float | None) -> None:
        adapting(lambda: self._transact(parts, timeout))
        self._unsure = False

    def _transact(self, parts: Sequence[SchemaChanges], timeout: float | None) -> None:
        database = parts[0].bound.rows.primary
        self._unsure = False
        if timeout is None and self._is_one_statement(parts):
            with database.session() as conn, waits.shield():  # it is its own commit
                self._unsure = True
                self._write_part(conn, parts[0])
            return
        with ExitStack() as stack:
            for part in parts:
                if self._untold(part):
                    stack.enter_context(self._context.repairs.unannounced(part.bound, part.changes))
            conn = stack.enter_context(database.transaction(timeout))
            for part in parts:
                self._lock(conn, part)
            for part in parts:
                self._write_part(conn, part)
            self._unsure = True

    def _untold(self, part: SchemaChanges) -> bool:
        """Whether Redis could not be told, so that rows are to be left from which it is repaired."""
        return not part.intended and self._context.tells

    def _is_one_statement(self, parts: Sequence[SchemaChanges]) -> bool:
        first, *others = parts
        if others or len(first.changes) > 1 or self._untold(first) or first.decision is not None:
            return False
        table = first.bound.rows.table
        return table.alone if first.rows else not table.locked

    def _lock(self, conn: Any, part: SchemaChanges) -> None:
        if part.bound.rows.table.locked:
            shards: dict[int, bool] = {}
            for change in part.changes.values():
                shard = shard_of(change.key_text)
                alone = change.record is None or change.open or change.key_text in part.beneath
                shards[shard] = shards.get(shard, False) or alone
            part.bound.rows.table.lock_shards(conn, shards)

    def _write_part(self, conn: Any, part: SchemaChanges) -> None:
        context, bound = self._context, part.bound
        table = bound.rows.table
        if part.beneath:
            self._write_beneath(conn, part)
        if (decision := part.decision) is not None:
            self._decide(conn, part, decision)
        stamp = context.stamp()  # one for all, since versions are compared of one key only
        changes = []
        for change in part.ordered:
            if change.record is None:
                change.version = table.delete(conn, change.id, stamp, ROW_NODE)
            else:
                changes.append(change)
        rows = [part.rows[change.key_text] for change in changes]
        stamps = [stamp] * len(changes)
        if part.inserting:
            answers = table.insert_many(conn, rows, stamps, ROW_NODE)
        elif decision is not None and decision.inserts:
            answers = self._insert(conn, bound, decision, rows, stamps)
        elif decision is not None and decision.changes:
            answers = [table.change(conn, row, stamp, ROW_NODE) for row, stamp in zip(rows, stamps, strict=True)]
        elif conn.in_transaction:
            answers = table.set_many(conn, rows, stamps, ROW_NODE)
        else:
            answers = [table.upsert(conn, row, stamp, ROW_NODE) for row, stamp in zip(rows, stamps, strict=True)]
        for change, written in waits.in_turns(zip(changes, answers, strict=True)):
            change.version = written.version
            if written.values:
                change.record = as_written(conn, bound, change.record, written)
        if self._untold(part):
            self._record_repairs(conn, part)

    def _record_repairs(self, conn: Any, part: SchemaChanges) -> None:
        """Of what has a new version."""
        version_of = partial(self._context.repairs.bound_of, part.bound)
        changed = {text: version_of(change.version) for text, change in part.changes.items() if change.version}
        if changed:
            part.bound.rows.table.record_repairs(conn, changed)

    def _decide(self, conn: Any, part: SchemaChanges, decision: Decision) -> None:
        bound = part.bound
        for change in part.changes.values():
            row = bound.rows.table.hold(conn, change.id)
            held = ABSENT if row is None else bound.record(row.values)
            change.record = decide_on(bound, change.key_text, decision, held)
            part.rows[change.key_text] = bound.plan.to_row(change.record, bound.cipher)
            # One of all columns supersedes what is older, as any other, if it was not made of what was there.
            in_part = decision.changes or bound.plan.unloaded(change.record)
            (part.partial.add if in_part else part.partial.discard)(change.key_text)

    def _insert(
        self, conn: Any, bound: Bound, decision: Decision, rows: Sequence[tuple[Any, ...]], stamps: Sequence[int]
    ) -> Any:
        try:
            return bound.rows.table.insert_many(conn, rows, stamps, ROW_NODE)
        except AlreadyExistsError:
            decision(rows[0])  # which came just now, and raises
            raise

    def _write_beneath(self, conn: Any, part: SchemaChanges) -> None:
        """Bring what is pending under partial records to L3, at its own versions, for these to be laid over it.

        The put's floor then makes the ledger's entries leave, which L3 has in all the columns that still matter.
        """
        table = part.bound.rows.table
        left = [list(pending) for pending in part.beneath.values()]
        part.brought.clear()
        try:
            while left:  # no key twice in one call; more than one round where ledger and buffer both have a write
                laid = [pending.pop(0) for pending in left]
                applied = table.apply(conn, laid)
                if any(answer.status is Status.SWALLOWED for answer in applied):
                    raise suppressed(table.name)
                for change, answer in zip(laid, applied, strict=True):
                    if answer.status in TAKEN:
                        part.brought[change.key_text, change.version] = answer.version
                left = [pending for pending in left if pending]
        except BatchError as error:
            raise unfit(error)  # noqa: B904 the cause is set

    def _abandon(self, parts: Sequence[SchemaChanges]) -> None:
        for part in parts:
            if part.intending and part.bound.l2 is not None:
                try:
                    part.bound.l2.abandon(part.token, list(part.changes))
                    part.bound.searches.committed(part.token)
                except WITHOUT_L2:
                    pass  # they expire

    def _doubt(self, parts: Sequence[SchemaChanges]) -> None:
        """The commit may have happened, or happen yet: intents stay, and keys are invalidated until that is over."""
        context = self._context
        for part in parts:
            for text, change in part.changes.items():
                context.unfinished.undecided(part.bound, text, partial(context.drop, part.bound, {text: change.id}))

    def _put(self, part: SchemaChanges, began: float) -> None:
        """The caches, in which the records are as new as `began`, the time before the commit."""
        context, bound = self._context, part.bound
        changes = list(part.changes.values())
        context.versions.observe(max([change.version for change in changes]))
        if bound.deferred:
            self._raise_floor(part, changes)
        stored = self._put_l2(part, changes)
        if bound.deferred and context.writebehind is not None:
            # Not before the put: where Redis has lost the intent, L2 may show until then what is older than own writes.
            # What it wrote before has still a word on columns that this did not carry, unless it came to L3 with it.
            ended = [(change.id, change.version) for change in changes if change.key_text not in part.partial]
            for change in changes:
                own = context.writebehind.peek(bound, change.id)
                held = part.brought.get((change.key_text, own.version)) if own is not None else None
                if own is not None and held is not None and context.versions.believed(held):
                    ended.append((change.id, own.version))
            context.writebehind.persisted(bound, ended)
        kept = bound.mode is not WriteMode.WRITE_THROUGH_L1_ASYNC
        fills, gone, claims = [], [], {claim.life: claim for claim in part.claims}
        for claim in part.claims:
            # Of a later commit, whose intent stands in L2, perhaps nobody hears: it was told of before this one.
            claim.brief = self._untold(part)
        for change in waits.in_turns(changes):
            if kept and change.record is not None and change.key_text in stored:
                fills.append((claims[change.life], change.id, bound.plan.freeze(change.record), change.version, False))
            else:
                gone.append(change.id)
        if fills:
            gone += bound.l1.fill_many(fills, began)
        if gone:
            bound.l1.forget_many(gone)

    def _raise_floor(self, part: SchemaChanges, changes: Sequence[KeyChange]) -> None:
        """Before the put: an older write that is handed off between them would stand in L2, and in nobody's ledger.

        Where the ledger does not answer, rows in L3 are left, from which floor and L2 are repaired.
        """
        context, bound = self._context, part.bound
        deferred = context.writebehind
        if deferred is None:
            return
        for change in changes:
            deferred.supersede(bound, change.id, change.version)
        try:
            # Of those under partial records L3 has just what was brought to it: what came since is still due.
            whole = {text: change.version for text, change in part.changes.items() if text not in part.partial}
            ended = {text: version for text, version in part.handed_off.items() if (text, version) in part.brought}
            deferred.raise_floor(bound, ended | whole, part.partial)
        except WITHOUT_L2:
            if part.intended:
                self._leave_repairs(part, changes)

    def _leave_repairs(self, part: SchemaChanges, changes: Sequence[KeyChange]) -> None:
        try:
            self._context.repairs.leave(part.bound, {change.key_text: change.version for change in changes})
        except WITHOUT_L3:
            pass  # L3's versions refuse what is older; L2 shows it until then

    def _put_l2(self, part: SchemaChanges, changes: Sequence[KeyChange]) -> set[str]:
        context, bound = self._context, part.bound
        said = context.messages(
            bound,
            [
                (change.key_text, MessageOp.DELETE if change.record is None else MessageOp.SET, change.version)
                for change in changes
            ],
        )
        try:
            if bound.l2 is None:
                if part.intended:
                    context.publish(*said.values())
            elif part.intended:
                puts = [self._put_of(part, change, said[change.key_text]) for change in waits.in_turns(changes)]
                stored = bound.l2.put(part.token, context.announcer.channel, puts)
                bound.searches.committed(part.token)
                return stored
        except WITHOUT_L2:
            self._leave_repairs(part, changes)  # the intents may be gone, and then nobody was told
            return set()
        return {change.key_text for change in changes if change.record is not UNDECIDED}

    def _put_of(self, part: SchemaChanges, change: KeyChange, message: bytes) -> Put:
        unread, record = change.record is UNDECIDED, change.record
        cached = None if unread or record is None else part.bound.plan.cached(record)
        return Put(change.key_text, change.version, cached, message, life=change.life, unread=unread, since=part.since)
