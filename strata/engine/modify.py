"""`insert`, `update` and `modify`: what depends on the row as it is, in one step against every other writer.

The row is locked in L3 and decided on there (`changes.Decision`), so that it holds against SQL from outside too. What
is pending beneath is brought to L3 first. Only the columns that differ are written: of the others, deferred writes that
have not been handed off yet keep their word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strata import waits
from strata.bound import Bound
from strata.engine.changes import Decision, check_outside, decide_on
from strata.engine.commit import Commit
from strata.engine.context import ABSENT, Context
from strata.engine.write import Stamp, Writer
from strata.errors import (
    ConflictError,
    EncodeError,
    L2RefusedError,
    NotFoundError,
    StrataError,
)
from strata.l2.content import State
from strata.l3.diagnosis import NoRowError, already_there
from strata.model.unloaded import UNLOADED
from strata.waits.seats import Turn, Turns

if TYPE_CHECKING:
    from strata.l2.tier import L2Tier

RETRIES = 100  # of a change in L2 alone that others came before
TURN = 0.5  # seconds for which who changes something in L2 alone waits for others of its process
PAUSE = 0.002  # seconds that are waited before it is tried again, at most, and ten times as many after ten tries


def _turns() -> tuple[Turns, ...]:
    return tuple(Turns() for _ in range(64))  # by key; which of them share one does not matter


class Unchanged(StrataError):
    """Nothing is to be written; `record` is what is there. It ends the transaction as any error of ours, and gets no
    further than this module."""

    def __init__(self, record: Any) -> None:
        super().__init__("nothing is to be written")
        self.record = record


def _whole(bound: Bound, held: Any, record: Any) -> Any:
    return record if held is ABSENT or record is None else bound.plan.merge(held, record)


class Modifier:
    """Thread-safe: `_turns` is replaced in the child of a fork, in which the parent's operations have no turn."""

    def __init__(self, context: Context, writer: Writer) -> None:
        self._context = context
        self._writer = writer
        self._turns = _turns()

    def after_fork(self) -> None:
        """In the child."""
        self._turns = _turns()

    def insert(self, bound: Bound, id: Any, key_text: str, record: Any, life: float | None = None) -> Any:
        """Store a record that `Writer.prepare` gave, whose key no record has yet, with a life of its own where one is
        given; returns it as stored."""
        if bound.l3 is None:
            self._writer.refuse_partial(bound, record)
            return self.decided(bound, id, key_text, _Insert(bound, id, record), life)
        self._context.listen()
        stored = Commit(self._context).insert_all(bound, {key_text: (id, record)}, life)[0]
        bound.counters.sets += 1
        bound.hooks.after_set(bound.plan.copy(stored))
        return stored

    def update(self, bound: Bound, id: Any, fields: Mapping[str, Any], expect: Mapping[str, Any] | None) -> Any:
        """Write some columns of a record that is there; with `expect` only if it has these values."""
        id, key_text = bound.plan.key_and_text(id)
        record = self._part(bound, id, fields)
        expected = {} if expect is None else self._expected(bound, id, expect)
        if not expected and bound.l3 is not None and (bound.deferred or not _would_insert(bound, record)):
            try:
                return self._writer.set(bound, id, record)
            except NoRowError:
                raise missing(bound, id) from None
        prepared = self._writer.prepare(bound, id, record)
        return self.decided(bound, id, key_text, _Update(bound, id, prepared, expected))

    def modify(self, bound: Bound, id: Any, function: Callable[[Any], Any]) -> Any:
        """Write what `function` makes of the record; returns it as stored."""
        if not callable(function):
            raise EncodeError(f"modify takes a function of the record, not a {type(function).__name__}")
        id, key_text = bound.plan.key_and_text(id)
        return self.decided(bound, id, key_text, _Modify(bound, id, function, self._writer))

    def remove(self, bound: Bound, id: Any, fits: Callable[[Any], bool]) -> bool:
        """Delete a record of a schema without L3 if there is one, and it fits; returns whether that was so."""
        id, key_text = bound.plan.key_and_text(id)
        self._context.listen()
        try:
            self._above_l3(bound, id, key_text, _Removal(fits))
        except Unchanged:
            return False
        bound.counters.deletes += 1
        return True

    def decided(self, bound: Bound, id: Any, key_text: str, decision: Decision, life: float | None = None) -> Any:
        """Write what is decided on by what the lowest tier holds; returns it as stored."""
        self._context.listen()
        check_outside(bound, [key_text])
        try:
            if bound.l3 is not None:
                stored = Commit(self._context).decide(bound, id, key_text, decision, life)
            else:
                stored = self._above_l3(bound, id, key_text, decision, life)
        except Unchanged as nothing:
            return nothing.record
        bound.counters.sets += 1
        bound.hooks.after_set(bound.plan.copy(stored))
        return stored

    def _above_l3(self, bound: Bound, id: Any, key_text: str, decision: Decision, life: float | None = None) -> Any:
        if bound.l2 is not None:
            return self._in_l2(bound, bound.l2, id, key_text, decision, life)
        return self._in_l1(bound, id, key_text, decision, life)

    def _in_l2(self, bound: Bound, l2: L2Tier, id: Any, key_text: str, decision: Decision, life: float | None) -> Any:
        """Until nobody else has written in between, as by WATCH and MULTI; those of one process take turns, which costs
        less than to come too late. What is changed keeps what it has left of a life of its own."""
        turns, turn = self._turns[hash((bound.name, id)) % len(self._turns)], Turn()
        try:
            turns.take(turn, TURN)
            return self._swapped(bound, l2, id, key_text, decision, life)
        finally:
            turns.leave(turn)

    def _swapped(self, bound: Bound, l2: L2Tier, id: Any, key_text: str, decision: Decision, life: float | None) -> Any:
        now = self._context.clock.monotonic
        known: int | None = None  # what stands there, where that was no record, nor a deletion
        for tries in range(RETRIES):
            if tries:
                waits.sleep(waits.uniform(0, PAUSE * min(tries, 10)))
            began, since = now(), l2.marks.surely_since()  # of what is read: a marker that is set meanwhile outdates it
            found = l2.read(key_text, lease=False)
            there = found.state is State.VALUE
            stood = known if found.state in (State.BUSY, State.LOADING) else found.version
            held = found.record if there else ABSENT
            record = _whole(bound, held, decide_on(bound, key_text, decision, held))
            left = life if found.life is None else found.life - (now() - began)
            stamp = Stamp(self._context.stamp(), since)
            done, known = self._writer.swap(bound, id, key_text, record, stood, stamp, left)
            if done:
                return record
        raise L2RefusedError(
            f"a record of schema {bound.name!r} was changed by others {RETRIES} times meanwhile; try again, or keep it "
            "in a schema with L3, where who comes later waits"
        )

    def _in_l1(self, bound: Bound, id: Any, key_text: str, decision: Decision, life: float | None) -> Any:
        context, plan = self._context, bound.plan
        while True:
            now = context.clock.monotonic()
            entry = bound.l1.lookup(id, now)
            # The version first: an entry is renewed in place, and one that was has another by the time of the swap.
            stood = None if entry is None else entry.version
            left = entry.ends - now if entry is not None and entry.own else life
            held = ABSENT if entry is None else plan.thaw(entry.value)
            record = _whole(bound, held, decide_on(bound, key_text, decision, held))
            kept = None if record is None else plan.freeze(record)
            if bound.l1.swap(id, stood, kept, context.versions.stamp(), now, left):
                return record

    def _part(self, bound: Bound, id: Any, fields: Mapping[str, Any]) -> Any:
        check_written(bound, fields, "update")
        return bound.plan.part({**fields, **bound.plan.key.given(id)})

    def _expected(self, bound: Bound, id: Any, expect: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values as a record has them. Raises `EncodeError` for those that no record could have."""
        plan = bound.plan
        if not isinstance(expect, Mapping):
            raise EncodeError(f"expect takes a mapping of fields to values, not a {type(expect).__name__}")
        _check_names(bound, expect)
        given = plan.check(plan.part({**plan.key.given(id), **expect}))
        exact = plan.prepare(given, self._context.now() if plan.stamped else None)
        return {name: value if name in plan.stamped else getattr(exact, name) for name, value in expect.items()}


def check_written(bound: Bound, fields: Mapping[str, Any], call: str) -> None:
    """Raise `EncodeError` for fields that no update can write."""
    plan = bound.plan
    if not fields:
        raise EncodeError(f"{call} was given no field; name those that are to be written")
    _check_names(bound, fields)
    if changed := [name for name in plan.key.names if name in fields]:
        whole = "" if len(plan.key.names) == 1 else " a part of"
        raise EncodeError(
            f"{changed[0]!r} is{whole} the key of {plan.model.__name__}, which no update changes; delete the record "
            "and insert another"
        )


def _check_names(bound: Bound, fields: Mapping[str, Any]) -> None:
    for name in fields:
        if name not in bound.plan.column_names:
            raise EncodeError(
                f"{bound.plan.model.__name__} has no stored field {name!r}; it has {', '.join(bound.plan.column_names)}"
            )


def _would_insert(bound: Bound, part: Any) -> bool:
    """Whether a part lacks nothing of a record, so that to write it would make one where there is none."""
    return bound.plan.stamped.issuperset(bound.plan.unloaded(part))


@dataclass(frozen=True, slots=True)
class _Insert:
    bound: Bound
    id: Any
    record: Any
    inserts: bool = True
    changes: bool = False

    def __call__(self, held: Any, /) -> Any:
        if held is not ABSENT:
            raise already_there(self.bound.name, self.id)
        return self.record


@dataclass(frozen=True, slots=True)
class _Removal:
    fits: Callable[[Any], bool]
    inserts: bool = False
    changes: bool = False

    def __call__(self, held: Any, /) -> None:
        if held is ABSENT or not self.fits(held):
            raise Unchanged(held)


@dataclass(frozen=True, slots=True)
class _Update:
    bound: Bound
    id: Any
    record: Any
    expected: Mapping[str, Any]
    inserts: bool = False
    changes: bool = False

    def __call__(self, held: Any, /) -> Any:
        _check_there(self.bound, self.id, held)
        other = tuple(name for name, value in self.expected.items() if getattr(held, name) != value)
        if other:
            raise ConflictError(
                f"the record of schema {self.bound.name!r} is another than expected in {', '.join(other)}; read it "
                "again, and decide anew",
                schema=self.bound.name,
                key=self.id,
                fields=other,
            )
        return self.record


@dataclass(frozen=True, slots=True)
class _Modify:
    bound: Bound
    id: Any
    function: Callable[[Any], Any]
    writer: Writer
    inserts: bool = False
    changes: bool = True

    def __call__(self, held: Any, /) -> Any:
        bound, plan = self.bound, self.bound.plan
        _check_there(bound, self.id, held)
        given = plan.copy(held)
        made = waits.awaited(self.function(given))
        if made is None:
            _check_unchanged(bound, held, given)
            raise Unchanged(held)
        prepared = self.writer.prepare(bound, self.id, made)
        before, after = (plan.to_row(record, _PLAIN) for record in (held, prepared))
        names = [
            column.name
            for column, was, is_ in zip(plan.columns, before, after, strict=True)
            if is_ is not UNLOADED and not column.auto_now_add and _differ(was, is_)
        ]
        if not names:
            raise Unchanged(held)
        return plan.part(plan.key.given(self.id) | {name: getattr(prepared, name) for name in names})


def _check_unchanged(bound: Bound, held: Any, given: Any) -> None:
    """Raise `EncodeError` for a change that would be lost without a word."""
    try:
        same = not any(map(_differ, *(bound.plan.to_row(record, _PLAIN) for record in (held, given))))
    except Exception:  # noqa: BLE001 it holds by now what no record can
        same = False
    if not same:
        raise EncodeError(
            f"the function of modify has changed the {bound.plan.model.__name__} that it was given, and returned None, "
            "which stands for no change; return the record"
        )


def _check_there(bound: Bound, id: Any, held: Any) -> None:
    if held is ABSENT:
        raise missing(bound, id)


def missing(bound: Bound, id: Any, instead: str = "") -> NotFoundError:
    """The error of a write that needs a record which is not there; `instead`: what else than to insert it would do."""
    return NotFoundError(
        f"schema {bound.name!r} has no record of this key; insert it first{instead}",
        schema=bound.name,
        key=id,
    )


def _differ(one: Any, other: Any) -> bool:
    """Whether a row would hold another value: 1.0 is not 1.00 there, and true is not 1."""
    return repr(one) != repr(other)


class _Plain:
    """Stands for a cipher where rows are compared."""

    def encrypt(self, name: str, key: str, value: Any) -> Any:
        return value


_PLAIN: Any = _Plain()
