"""`insert` and `insert_many`: records whose keys no record has yet, given, or assigned by the database.

A key is drawn before its record is written (`strata.l3.drawing`), and from then on the record is as one that came with
it. What is drawn can be taken all the same: by a deferred write that L3 does not have yet, or by one that came between.
Then others are drawn, twice as many each time, so that it does not take long to come by all that is pending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from strata import waits
from strata.bound import Bound
from strata.engine.commit import Commit
from strata.engine.context import Context
from strata.engine.modify import Modifier
from strata.engine.write import Writer, check_kind
from strata.errors import AlreadyExistsError, EncodeError, L3UnavailableError
from strata.l3.diagnosis import already_there

T = TypeVar("T")

TRIES = 16
SKIPPED = 1 << TRIES  # keys that are drawn for nothing at a time, at most


class _New(NamedTuple):
    """A record that is to be inserted: prepared, or, where the database is to assign its key, accepted, and None."""

    id: Any
    record: Any


class Inserter:
    """Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, writer: Writer, modifier: Modifier) -> None:
        self._context = context
        self._writer = writer
        self._modifier = modifier

    def insert(self, bound: Bound, record: Any, life: float | None = None) -> Any:
        """Store a record whose key no record has yet, with a life of its own where one is given; returns it as
        stored."""
        return self._assigning(bound, [self._new(bound, record)], lambda keyed: self._one(bound, keyed[0], life))

    def insert_many(self, bound: Bound, records: Iterable[Any]) -> list[Any]:
        """Store records whose keys no record has yet, all or nothing in L3; returns them as stored, in their order."""
        new = [self._new(bound, record) for record in waits.in_turns(_listed(records))]
        _check_once(bound, new)
        if bound.l3 is None:
            return [self._one(bound, item) for item in new]
        return self._assigning(bound, new, lambda keyed: self._all(bound, keyed)) if new else []

    def _new(self, bound: Bound, record: Any) -> _New:
        """Raises before any tier is touched."""
        plan, writer = bound.plan, self._writer
        check_kind(bound, record)
        try:
            id = plan.key_of(record)
        except AttributeError:
            plan.check_new(record)  # it has no key, which this says
            raise
        if id is not None or not plan.key.generated:
            id, _ = plan.key_and_text(id)
            return _New(id, writer.prepare(bound, id, record))
        accepted = writer.accept(bound, record)
        id = plan.key_of(accepted)  # which before_set may have given it
        if id is None:
            return _New(None, accepted)
        id, _ = plan.key_and_text(id)
        return _New(id, writer.prepare_as(bound, id, accepted))

    def _one(self, bound: Bound, item: _New, life: float | None = None) -> Any:
        id, key_text = bound.plan.key_and_text(item.id)
        return self._modifier.insert(bound, id, key_text, item.record, life)

    def _all(self, bound: Bound, keyed: Sequence[_New]) -> list[Any]:
        named = bound.plan.key_text
        stored = Commit(self._context).insert_all(bound, {named(id): (id, record) for id, record in keyed})
        bound.counters.sets += len(stored)
        for record in waits.in_turns(stored):
            bound.hooks.after_set(record)
        return stored

    def _assigning(self, bound: Bound, new: Sequence[_New], write: Callable[[Sequence[_New]], T]) -> T:
        """What `write` returns of the records with their keys, tried again while it meets keys that were drawn."""
        self._context.listen()
        without = sum(item.id is None for item in new)
        for tries in range(TRIES):
            drawn = self._drawn(bound, new, without, tries) if without else []
            left = iter(drawn)
            keyed = [
                item if item.id is not None else self._keyed(bound, next(left), item) for item in waits.in_turns(new)
            ]
            try:
                return write(keyed)
            except AlreadyExistsError as error:
                if error.key not in drawn or tries == TRIES - 1:
                    raise
            except L3UnavailableError as error:
                if error.outcome_unknown:
                    error.keys = tuple(item.id for item in keyed)
                raise
        raise AssertionError  # the last try returned or raised

    def _keyed(self, bound: Bound, id: Any, item: _New) -> _New:
        return _New(id, self._writer.prepare_as(bound, id, item.record))

    def _drawn(self, bound: Bound, new: Sequence[_New], without: int, tries: int) -> list[Any]:
        """Keys for those without, which none of the others has."""
        rows, given = bound.rows, {item.id for item in new}
        drawn: list[Any] = []
        try:
            with rows.primary.session() as conn:
                if tries > 1:
                    rows.table.draw(conn, min(without << tries, SKIPPED))
                while len(drawn) < without:
                    drawn += [id for id in rows.table.draw(conn, without - len(drawn)) if id not in given]
        except L3UnavailableError as error:
            error.outcome_unknown = False  # nothing but a number was taken
            raise
        return drawn


def _listed(records: Any) -> list[Any]:
    if not isinstance(records, Iterable) or isinstance(records, str | bytes | bytearray | Mapping):
        raise EncodeError(f"insert_many takes an iterable of records, such as a list, not a {type(records).__name__}")
    return list(records)


def _check_once(bound: Bound, new: Sequence[_New]) -> None:
    """Raise `AlreadyExistsError` for a key that two of the records have."""
    seen = set()
    for id, _ in new:
        if id is not None and id in seen:
            raise already_there(bound.name, id)
        seen.add(id)
