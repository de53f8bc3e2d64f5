"""`set` and `delete` in the three write modes; what is written through is `Commit`'s."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from strata import waits
from strata.bound import Bound
from strata.engine.commit import Commit
from strata.engine.context import Context
from strata.errors import (
    WITHOUT_L2,
    EncodeError,
    L2UnavailableError,
    MissingPrimaryKeyError,
    WriteBehindFullError,
)
from strata.l1.claims import Claim, ManyClaim
from strata.l1.tier import Fill
from strata.l2.values import Put
from strata.policies import WriteMode
from strata.protocol.messages import MessageOp
from strata.writebehind.dirty.slot import Buffered

if TYPE_CHECKING:
    from strata.l2.tier import L2Tier

RETRIES = 5  # of a write to L2 alone that met a newer version: each try stamps above it


class Stamp(NamedTuple):
    """As of when a record was made: its version, and `SchemaMarkers.since` then."""

    version: int
    since: int | None


class Prepared(NamedTuple):
    """A record that is to be written, None for its deletion: checked, stamped and private; and as L1 keeps it, where
    that is known, since the record is whole."""

    id: Any
    record: Any
    frozen: Any = None


def check_kind(bound: Bound, value: Any) -> None:
    """Raise `EncodeError` for what is no record of the schema."""
    model = bound.plan.model
    if type(value) is not model:
        raise EncodeError(
            f"schema {bound.name!r} stores {model.__name__}, not {type(value).__name__}; give it such a record"
        )


class Writer:
    """Writes single records. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def set(self, bound: Bound, id: Any, value: Any, life: float | None = None) -> Any:
        """Store the record by the schema's write mode, with a life of its own where one is given; returns it with its
        stamps, private to the caller."""
        id, key_text = bound.plan.key_and_text(id)
        prepared = self.prepared(bound, id, value)
        self._context.listen()
        stored = self._write(bound, key_text, prepared, life)
        bound.counters.sets += 1
        bound.hooks.after_set(stored)
        return stored

    def delete(self, bound: Bound, id: Any) -> None:
        """Remove the record from all tiers by the schema's write mode."""
        id, key_text = bound.plan.key_and_text(id)
        self._context.listen()
        self.write(bound, id, key_text, None)
        bound.counters.deletes += 1

    def prepare(self, bound: Bound, id: Any, value: Any) -> Any:
        """The private, checked, stamped copy of a record that is to be stored. Raises before any tier is touched."""
        plan = bound.plan
        value = plan.check(self._hooked(bound, value))
        key = plan.key_of(value)
        if key != id:
            if key == "":
                raise MissingPrimaryKeyError(f"the key of the {plan.model.__name__} is empty; it must be the id given")
            raise EncodeError(
                f"the id given is not the {plan.key.spelled} of the {plan.model.__name__}; they must agree"
            )
        return self._stamped(bound, value)

    def prepared(self, bound: Bound, id: Any, value: Any) -> Prepared:
        """As `prepare`; what is as it should be, in one step."""
        plan = bound.plan
        if plan.take is not None and not bound.hooks.before_set_given and bound.tagger is None:
            frozen = plan.take(value, id, self._context.now() if plan.stamped else None)
            if frozen is not None:
                return Prepared(id, plan.thaw(frozen), frozen)
        return Prepared(id, self.prepare(bound, id, value))

    def accept(self, bound: Bound, value: Any) -> Any:
        """A record that is to be inserted, checked, in which the key that the database is to assign may be None."""
        return bound.plan.check_new(self._hooked(bound, value))

    def prepare_as(self, bound: Bound, id: Any, accepted: Any) -> Any:
        """As `prepare`, of what `accept` gave, which gets this key."""
        plan = bound.plan
        fields = {name: getattr(accepted, name) for name in plan.column_names}
        return self._stamped(bound, plan.part(fields | plan.key.given(id)))

    def _stamped(self, bound: Bound, checked: Any) -> Any:
        plan = bound.plan
        record = plan.prepare(checked, self._context.now() if plan.stamped else None)
        if bound.tagger is not None and not plan.unloaded(record):
            bound.tagger.checked(record)
        return record

    def _hooked(self, bound: Bound, value: Any) -> Any:
        """A record of the schema, or what `before_set` gave in its place."""
        check_kind(bound, value)
        return bound.hooks.before_set(self._given(bound, value)) if bound.hooks.before_set_given else value

    def prepare_part(self, bound: Bound, id: Any, fields: Mapping[str, Any]) -> Any:
        """As `prepare`, of a record of nothing but its key and these values, which are sound."""
        plan = bound.plan
        part = plan.part({**plan.key.given(id), **fields})
        if bound.hooks.before_set_given:
            return self.prepare(bound, id, part)
        return plan.prepare(part, self._context.now()) if plan.stamped else part

    def _given(self, bound: Bound, value: Any) -> Any:
        """A copy for the hook to change; the caller's record stays as it is."""
        try:
            return copy.deepcopy(value)
        except Exception as error:
            raise EncodeError(
                f"a {bound.plan.model.__name__} cannot be copied for before_set ({type(error).__name__}); give its "
                "fields values that can"
            ) from error

    def write(self, bound: Bound, id: Any, key_text: str, record: Any, life: float | None = None) -> Any:
        """One checked record, or None for its deletion, by the schema's write mode."""
        return self._write(bound, key_text, Prepared(id, record), life)

    def _write(self, bound: Bound, key_text: str, prepared: Prepared, life: float | None) -> Any:
        if bound.deferred:
            return self._behind(bound, key_text, prepared, life)
        if bound.l3 is not None:
            commit = Commit(self._context)
            commit.add(bound, prepared.id, key_text, prepared.record, life)
            commit.run()
            return commit.parts[bound.name].changes[key_text].record
        self.keep(bound, {key_text: prepared}, life)
        return prepared.record

    def keep(self, bound: Bound, changes: Mapping[str, Prepared], life: float | None = None) -> None:
        """What is to be written, by key text, in a schema without L3."""
        for _, record, frozen in changes.values():
            if record is not None and frozen is None:
                self.refuse_partial(bound, record)
        if bound.l2 is not None:
            self._own(bound, bound.l2, changes, life)
            return
        for id, record, frozen in changes.values():
            if record is None:
                bound.l1.forget(id)
            else:
                began, kept = self._context.clock.monotonic(), bound.plan.freeze(record) if frozen is None else frozen
                bound.l1.write(id, kept, self._context.versions.stamp(), began, life=life)

    def _behind(self, bound: Bound, key_text: str, prepared: Prepared, life: float | None) -> Any:
        plan, deferred = bound.plan, self._context.writebehind
        id, record, frozen = prepared
        assert deferred is not None
        self._context.ready()
        began = self._context.clock.monotonic()
        # What is handed off within the call may be refused by L2, which is then not to be in L1 either.
        claim = Claim(id) if deferred.at_once else None
        try:
            if claim is not None:
                bound.l1.claims.enter(claim)
            in_part = record is not None and frozen is None and bool(plan.unloaded(record))
            held, thaw = (record, None) if frozen is None else (frozen, plan.thaw)
            ends = None if life is None else began + life
            version = deferred.put(bound, id, key_text, Buffered(0, held, in_part, ends=ends, thaw=thaw))
            if record is None:
                bound.l1.forget(id, below=version)
            elif in_part:
                bound.l1.forget(id)
            else:
                kept = plan.freeze(record) if frozen is None else frozen
                bound.l1.write(id, kept, version, began, claim, life)
        except BaseException as error:
            bound.l1.forget(id)  # it may be pending all the same, or in L3
            if isinstance(error, WriteBehindFullError):
                # It went around the ledger, and a commit may be under way of which nobody else will tell.
                drop = partial(self._context.drop, bound, {key_text: id})
                self._context.unfinished.undecided(bound, key_text, drop)
            raise
        finally:
            if claim is not None:
                bound.l1.claims.release(claim)
        return plan.copy(record) if frozen is None and record is not None else record  # the buffer has the other

    def _own(self, bound: Bound, l2: L2Tier, changes: Mapping[str, Prepared], life: float | None) -> None:
        """A schema whose lowest tier is L2: the newest version wins there, and what it overtakes is tried once more.

        What is overtaken again, by another version, was written before that: the other came since the first try.
        """
        context, claims = self._context, bound.l1.claims
        mine = ManyClaim([change.id for change in changes.values()], life)
        left, met = dict(changes), dict[str, int]()
        try:
            claims.enter_many(mine)
            for _ in range(RETRIES):
                since = l2.marks.surely_since()
                mine.stamp = context.stamp()
                puts = self._puts(bound, left, life, Stamp(mine.stamp, since))
                began = context.clock.monotonic()
                in_the_way = l2.own(context.announcer.channel, puts)
                stored = [put for put in puts if put.key_text not in in_the_way]
                self._take(bound, [(mine, left[put.key_text], put.version) for put in stored], began)
                for put in stored:
                    del left[put.key_text]
                for key_text in [text for text, version in in_the_way.items() if met.get(text, version) != version]:
                    bound.l1.forget(left.pop(key_text).id)
                if in_the_way:
                    context.versions.observe(max(in_the_way.values()))
                if not left:
                    return
                met.update(in_the_way)
            raise L2UnavailableError(
                f"a record of schema {bound.name!r} was overtaken {RETRIES} times by versions from the future; "
                "check the clocks with `strata doctor`"
            )
        except WITHOUT_L2:
            bound.l1.forget_many([change.id for change in left.values()])  # the outcome may be unknown
            raise
        finally:
            claims.release_many(mine)

    def swap(
        self,
        bound: Bound,
        id: Any,
        key_text: str,
        record: Any,
        stood: int | None,
        stamp: Stamp,
        life: float | None = None,
    ) -> tuple[bool, int | None]:
        """Write a checked record of a schema whose lowest tier is L2, as `L2Tier.swap` does, as of a stamp."""
        assert bound.l2 is not None
        swap = bound.l2.swap
        [put] = self._puts(bound, {key_text: Prepared(id, record)}, life, stamp)
        return self._alone(bound, id, put, lambda put: swap(self._context.announcer.channel, put, stood))

    def own(self, bound: Bound, id: Any, key_text: str, record: Any, stamp: Stamp, life: float | None = None) -> bool:
        """Write a checked record of a schema whose lowest tier is L2, as of a stamp that was taken before; whether
        nothing newer stands there."""
        assert bound.l2 is not None
        own = bound.l2.own

        def put_own(put: Put) -> tuple[bool, int | None]:
            in_the_way = own(self._context.announcer.channel, [put]).get(key_text)
            return in_the_way is None, in_the_way

        [put] = self._puts(bound, {key_text: Prepared(id, record)}, life, stamp)
        return self._alone(bound, id, put, put_own)[0]

    def _alone(
        self, bound: Bound, id: Any, put: Put, write: Callable[[Put], tuple[bool, int | None]]
    ) -> tuple[bool, int | None]:
        """Write one record to L2 alone, and what was written to L1; whether it was, and what stands there else."""
        claim = Claim(id, put.life)
        try:
            bound.l1.claims.enter(claim)
            began = self._context.clock.monotonic()
            done, stands = write(put)
            assert bound.l2 is not None
            if done and bound.l2.marks.outdated(put.record, put.since):
                bound.l1.forget(id)  # it was made of what was invalidated meanwhile
            elif done:
                self._take(bound, [(claim, Prepared(id, put.record), put.version)], began)
            elif stands is not None:
                self._context.versions.observe(stands)
            return done, stands
        except WITHOUT_L2:
            bound.l1.forget(id)  # the outcome may be unknown
            raise
        finally:
            bound.l1.claims.release(claim)

    def _puts(self, bound: Bound, changes: Mapping[str, Prepared], life: float | None, stamp: Stamp) -> list[Put]:
        version, since = stamp
        said = self._context.messages(
            bound,
            [
                (key_text, MessageOp.DELETE if change.record is None else MessageOp.SET, version)
                for key_text, change in changes.items()
            ],
            # If the answer is lost, and the script is run later, this instance must hear of it as well.
            signed=False,
        )
        return [
            Put(key_text, version, change.record, said[key_text], life=life, since=since)
            for key_text, change in changes.items()
        ]

    def _take(self, bound: Bound, stored: Sequence[tuple[Claim | ManyClaim, Prepared, int]], began: float) -> None:
        """L1 after own writes: the new records where the claims still hold, and nothing older in any case."""
        freeze = bound.plan.freeze
        kept = bound.mode is not WriteMode.WRITE_THROUGH_L1_ASYNC and bound.l1.store is not None
        fills: list[Fill] = [
            (claim, change.id, freeze(change.record) if change.frozen is None else change.frozen, version, False)
            for claim, change, version in waits.in_turns(stored)
            if kept and change.record is not None
        ]
        out = {*bound.l1.fill_many(fills, began)}
        if len(fills) < len(stored) or out:
            entered = {id for _, id, *_ in fills} - out
            bound.l1.forget_each([(change.id, version) for _, change, version in stored if change.id not in entered])

    def refuse_partial(self, bound: Bound, record: Any) -> None:
        """Raise `EncodeError` for a record of a schema without L3 that is not whole."""
        missing = bound.plan.unloaded(record)
        if missing:
            raise EncodeError(
                f"{bound.plan.model.__name__}.{missing[0]} is UNLOADED and schema {bound.name!r} has no row to keep it "
                "from; read the whole record first"
            )
