"""`set`, `delete` and `invalidate` in the three write modes.

Write-through, in this order: intent in L2 (acknowledged, and published, before COMMIT is sent), commit in L3, put
and publish in one script, then L1. A writer killed anywhere leaves nothing stale: the intent refuses fills until it
expires.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from strata.bound import Bound
from strata.coherence.guard import Claim
from strata.coherence.messages import Op
from strata.engine.context import Context
from strata.errors import (
    EncodeError,
    L2UnavailableError,
    L3UnavailableError,
    MissingPrimaryKeyError,
    StrataError,
)
from strata.l2.tier import L2Tier, Put
from strata.l3.table import adapting
from strata.policies import WriteMode

RETRIES = 5  # of a write to L2 alone that met a newer version: each try stamps above it


class Writer:
    """Writes single records. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def set(self, bound: Bound, id: Any, value: Any) -> Any:
        """Store the record by the schema's write mode; returns it with its stamps, private to the caller."""
        key_text = bound.plan.key_text(id)
        record = self.prepare(bound, id, value)
        self._context.listen()
        stored = self.write(bound, id, key_text, record)
        bound.counters.sets += 1
        bound.hooks.after_set(stored)
        return stored

    def delete(self, bound: Bound, id: Any) -> None:
        """Remove the record from all tiers by the schema's write mode."""
        key_text = bound.plan.key_text(id)
        self._context.listen()
        self.write(bound, id, key_text, None)
        bound.counters.deletes += 1

    def prepare(self, bound: Bound, id: Any, value: Any) -> Any:
        """The private, checked, stamped copy of a record that is to be stored. Raises before any tier is touched."""
        plan = bound.plan
        if type(value) is not plan.model:
            raise EncodeError(
                f"schema {bound.name!r} stores {plan.model.__name__}, not {type(value).__name__}; give it such a record"
            )
        if bound.hooks.before_set_given:
            value = bound.hooks.before_set(self._given(bound, value))
        plan.check(value)
        key = plan.key_of(value)
        if key != id:
            if key == "":
                raise MissingPrimaryKeyError(f"the key of the {plan.model.__name__} is empty; it must be the id given")
            raise EncodeError(
                f"the id given is not the {plan.key.name!r} of the {plan.model.__name__}; they must agree"
            )
        return plan.prepare(value, self._context.now() if plan.has_stamped else None)

    def _given(self, bound: Bound, value: Any) -> Any:
        """A copy for the hook to change; the caller's record stays as it is."""
        try:
            return copy.deepcopy(value)
        except Exception as error:
            raise EncodeError(
                f"a {bound.plan.model.__name__} cannot be copied for before_set ({type(error).__name__}); give its "
                "fields values that can"
            ) from error

    def invalidate(self, bound: Bound, id: Any) -> None:
        """Drop the record from L1 and L2 of every instance; the lowest tier and pending writes stay."""
        key_text = bound.plan.key_text(id)
        self._context.listen()
        if bound.table is not None:
            self._drop(bound, id, key_text)
            self._context.unfinished.note(bound, key_text, partial(self._drop, bound, id, key_text))
        elif bound.l2 is not None:
            bound.l1.forget(id)
            self._context.publish(self._context.message(bound, key_text, Op.INVALIDATE))

    def _drop(self, bound: Bound, id: Any, key_text: str) -> None:
        """Drop what is cached of a row."""
        bound.l1.forget(id)
        message = self._context.message(bound, key_text, Op.INVALIDATE)
        if bound.l2 is not None:
            bound.l2.invalidate(key_text, self._context.announcer.channel, message)
            bound.searches.drop()
        else:
            self._context.publish(message)

    def write(self, bound: Bound, id: Any, key_text: str, record: Any) -> Any:
        """One checked record, or None for its deletion, by the schema's write mode."""
        if bound.deferred:
            return self._behind(bound, id, key_text, record)
        if bound.table is not None:
            return _Through(self._context, bound, id, key_text, record).run()
        self.keep(bound, {key_text: (id, record)})
        return record

    def keep(self, bound: Bound, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """Ids with checked records, or None for their deletion, by key text, of a schema without L3."""
        for _, record in changes.values():
            if record is not None:
                self._refuse_partial(bound, record)
        if bound.l2 is not None:
            self._own(bound, bound.l2, changes)
            return
        for id, record in changes.values():
            if record is None:
                bound.l1.forget(id)
            else:
                bound.l1.write(id, bound.plan.freeze(record), self._context.versions.stamp())

    def _behind(self, bound: Bound, id: Any, key_text: str, record: Any) -> Any:
        deferred = self._context.writebehind
        assert deferred is not None
        self._context.ready()
        version = deferred.put(bound, id, key_text, record)
        if record is not None and not bound.plan.unloaded(record):
            bound.l1.write(id, bound.plan.freeze(record), version)
        else:
            bound.l1.forget(id, below=version)
        return None if record is None else bound.plan.copy(record)

    def _own(self, bound: Bound, l2: L2Tier, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """A schema whose lowest tier is L2: the newest version wins there, and what it overtakes is tried once more."""
        announcer, guard = self._context.announcer, bound.l1.guard
        claims = {key_text: Claim(id) for key_text, (id, _) in changes.items()}
        left = dict(changes)
        try:
            guard.enter(*claims.values())
            for _ in range(RETRIES):
                puts = [self._put(bound, key_text, record) for key_text, (_, record) in left.items()]
                in_the_way = l2.own(announcer.channel, puts)
                stored = [put for put in puts if put.key_text not in in_the_way]
                self._take(bound, [(claims[put.key_text], put.record, put.version) for put in stored])
                for put in stored:
                    del left[put.key_text]
                if not left:
                    return
                self._context.versions.observe(max(in_the_way.values()))
            raise L2UnavailableError(
                f"a record of schema {bound.name!r} was overtaken {RETRIES} times by versions from the future; "
                "check the clocks with `strata doctor`"
            )
        except L2UnavailableError:
            for id, _ in left.values():
                bound.l1.forget(id)  # the outcome may be unknown
            raise
        finally:
            guard.release(*claims.values())

    def _put(self, bound: Bound, key_text: str, record: Any) -> Put:
        version = self._context.stamp()
        op = Op.DELETE if record is None else Op.SET
        # Not signed: if the answer is lost, and the script is run later, this instance must hear of it as well.
        message = self._context.announcer.message(bound.name, key_text, op, version, signed=False)
        return Put(key_text, version, record, message)

    def _take(self, bound: Bound, stored: Sequence[tuple[Claim, Any, int]]) -> None:
        """L1 after own writes: the new records where the claims still hold, and nothing older in any case."""
        began, freeze = self._context.clock.monotonic(), bound.plan.freeze
        kept = bound.mode is not WriteMode.WRITE_THROUGH_L1_ASYNC
        fills = [
            (claim, freeze(record), version, False) for claim, record, version in stored if kept and record is not None
        ]
        entered = {claim.key for claim, *_ in fills} - set(bound.l1.fill_many(fills, began))
        for claim, _, version in stored:
            if claim.key not in entered:
                bound.l1.forget(claim.key, below=version)

    def _refuse_partial(self, bound: Bound, record: Any) -> None:
        missing = bound.plan.unloaded(record)
        if missing:
            raise EncodeError(
                f"{bound.plan.model.__name__}.{missing[0]} is UNLOADED and schema {bound.name!r} has no row to keep it "
                "from; read the whole record first"
            )


def as_written(bound: Bound, record: Any, written: Any) -> Any:
    """The record with the columns of which L3 holds other values: unloaded ones, AutoNowAdd of the first insert, and
    what the table rounds, computes or changes by trigger."""
    if not written.values:
        return record
    plan = bound.plan
    # With the key, to which a ciphertext is bound; it is never among the names.
    names, values = (plan.key.name, *written.names), (plan.key_of(record), *written.values)
    return plan.merge(record, bound.record(values, names))


def outcome_unknown(error: BaseException, unsure: bool) -> bool:
    """Whether a commit may be under way although the write failed; `unsure`: it was when an error from outside came."""
    if isinstance(error, L3UnavailableError):
        return error.outcome_unknown
    return unsure and not isinstance(error, StrataError)


class _Through:
    """One write-through write of one key, from intent to put."""

    def __init__(self, context: Context, bound: Bound, id: Any, key_text: str, record: Any) -> None:
        self._context = context
        self._bound = bound
        self._id = id
        self._key_text = key_text
        self._record = record
        self._op = Op.DELETE if record is None else Op.SET
        # Before any tier is touched: an Encrypted field without a key raises here.
        self._values = None if record is None else bound.plan.to_row(record, bound.cipher)
        self._token = bound.l2.token() if bound.l2 is not None else ""
        self._intending = False  # whether the intent may stand in L2
        self._unsure = False  # whether a commit may be under way whose end is not known

    def run(self) -> Any:
        """The record as L3 has it."""
        bound, l1 = self._bound, self._bound.l1
        l1.forget(self._id)
        claim = Claim(self._id)
        try:
            l1.guard.enter(claim)
            intended = self._intend()
            record, version = self._commit(intended)
            self._put(claim, record, version, intended)
            return record
        except BaseException as error:
            l1.forget(self._id)
            if not outcome_unknown(error, self._unsure):
                self._abandon()
            raise  # with the outcome unknown the intent is left to expire
        finally:
            bound.l1.guard.release(claim)

    def _intend(self) -> bool:
        """Announce the commit; whether everybody who is to know was told."""
        context, bound = self._context, self._bound
        message = context.message(bound, self._key_text, Op.INTENT)
        try:
            if bound.l2 is None:
                context.publish(message)
                return True
            if context.repairs.skips(bound, self._key_text):
                return False
            self._intending = True
            bound.l2.intend(self._token, context.lasting, context.announcer.channel, {self._key_text: message})
            bound.searches.committing(self._token, context.lasting)
            return True
        except L2UnavailableError:
            self._intending = False
            return False

    def _commit(self, intended: bool) -> tuple[Any, int]:
        stamp = self._context.stamp()
        if self._context.tells and not intended:
            written = adapting(lambda: self._commit_with_repair(stamp))
        else:
            written = adapting(lambda: self._commit_alone(stamp))
        self._unsure = False
        return written

    def _commit_alone(self, stamp: int) -> tuple[Any, int]:
        table, database = self._bound.table, self._bound.database
        assert database is not None and table is not None
        self._unsure = False
        with database.transaction() if table.locked else database.session() as conn:
            self._unsure = not table.locked  # a statement by itself is its own commit
            written = self._apply(conn, stamp)
            self._unsure = True
        return written

    def _commit_with_repair(self, stamp: int) -> tuple[Any, int]:
        """Redis cannot be told: the same transaction leaves a row from which it is repaired."""
        bound = self._bound
        assert bound.database is not None and bound.table is not None
        unannounced = self._context.repairs.unannounced(bound, [self._key_text])
        with unannounced, bound.database.transaction() as conn:
            record, version = self._apply(conn, stamp)
            bound.table.record_repair(conn, self._key_text, version)
        return record, version

    def _apply(self, conn: Any, stamp: int) -> tuple[Any, int]:
        bound, node = self._bound, self._context.versions.node
        assert bound.table is not None
        if self._values is None:
            return None, bound.table.delete(conn, self._id, stamp, node)
        written = bound.table.upsert(conn, self._values, stamp, node)
        return as_written(bound, self._record, written), written.version

    def _abandon(self) -> None:
        if self._intending and self._bound.l2 is not None:
            try:
                self._bound.l2.abandon(self._token, [self._key_text])
                self._bound.searches.committed(self._token)
            except L2UnavailableError:
                pass  # it expires

    def _leave_repair(self, version: int) -> None:
        """Without L2 nothing keeps others from reading, between intent and commit, what was before."""
        try:
            self._context.repairs.leave(self._bound, {self._key_text: version})
        except L3UnavailableError:
            pass  # whoever read it keeps it until its time is up

    def _put(self, claim: Claim, record: Any, version: int, intended: bool) -> None:
        context, bound = self._context, self._bound
        context.versions.observe(version)
        message = context.message(bound, self._key_text, self._op, version)
        stored = True
        try:
            if bound.l2 is None:
                if intended:
                    context.publish(message)
            elif intended:
                cached = None if record is None else bound.plan.cached(record)
                put = Put(self._key_text, version, cached, message)
                stored = bool(bound.l2.put(self._token, context.announcer.channel, [put]))
                bound.searches.committed(self._token)
        except L2UnavailableError:
            stored = False  # the intent keeps L2 empty until it expires
            if bound.l2 is None:
                self._leave_repair(version)
        if stored and record is not None and bound.mode is WriteMode.WRITE_THROUGH:
            value = bound.plan.freeze(record)
            if bound.l1.fill(claim, value, version, loaded=context.clock.monotonic()):
                bound.l1.guard.void(self._id)
                return
        bound.l1.forget(self._id)
