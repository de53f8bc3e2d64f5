"""`get_many`, and `get_batch` of several schemas: partial hits of each tier, one round trip a tier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from strata import waits
from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.load import FAILED, Load, Loaded, answered, askable, fill_l1, nowhere, stale_of, unanswered
from strata.engine.own import instead, known_here, shown
from strata.engine.steps import Look, Steps, together
from strata.engine.whole import completed, in_l2
from strata.errors import WITHOUT_L2, EncodeError
from strata.l1.claims import Claim
from strata.l2.content import Found
from strata.model.unloaded import UNLOADED
from strata.schema import FieldNames

if TYPE_CHECKING:
    from strata.writebehind.dirty.slot import OwnWrite


class ManyReader:
    """Reads records by their keys. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get_many(self, bound: Bound, ids: Iterable[Any], *, whole: bool = False) -> dict[Any, Any]:
        """The records found, by id, in the order asked for."""
        wanted = dict(bound.plan.key_and_text(id) for id in listed(ids))
        return self._get({bound: wanted}, whole)[bound]

    def get_batch(self, asked: Sequence[tuple[Bound, Any]], default: Any, *, whole: bool = False) -> list[Any]:
        """The records of several schemas, or the default, in the order asked for: each tier is asked once for all."""
        keyed = [(bound, *bound.plan.key_and_text(id)) for bound, id in asked]
        wanted: dict[Bound, dict[Any, str]] = {}
        for bound, id, key_text in keyed:
            wanted.setdefault(bound, {})[id] = key_text
        found = self._get(wanted, whole)
        return [found[bound].get(id, default) for bound, id, _ in keyed]

    def _get(self, wanted: Mapping[Bound, Mapping[Any, str]], whole: bool) -> dict[Bound, dict[Any, Any]]:
        self._context.listen()
        for bound, texts in wanted.items():
            if bound.hooks.get_given:
                for id in texts:
                    bound.hooks.before_get(id)
        reads = together([self._read(bound, texts, whole) for bound, texts in wanted.items()])
        return {
            bound: self._given(bound, texts, found) for (bound, texts), found in zip(wanted.items(), reads, strict=True)
        }

    def _given(self, bound: Bound, wanted: Mapping[Any, str], found: Mapping[Any, Any]) -> dict[Any, Any]:
        records = {id: found[id] for id in wanted if found.get(id, ABSENT) is not ABSENT}
        bound.counters.misses += len(wanted) - len(records)
        if not bound.hooks.get_given:
            return records
        return {id: bound.hooks.after_get(record) for id, record in records.items()}

    def _read(self, bound: Bound, wanted: Mapping[Any, str], whole: bool) -> Steps[Mapping[Any, Any]]:
        found = yield from self._found(bound, wanted, past_l1=whole and in_l2(bound))
        return (yield from completed(self._context, bound, found, wanted)) if whole else found

    def _found(self, bound: Bound, wanted: Mapping[Any, str], *, past_l1: bool) -> Steps[dict[Any, Any]]:
        found: dict[Any, Any] = {}
        own: dict[Any, OwnWrite] = {}
        left: Mapping[Any, str] = wanted
        if bound.l1.entries or bound.l1.absences or bound.deferred:
            left = self._from_memory(bound, wanted, found, own, past_l1=past_l1)
        else:
            bound.counters.gets += len(left)
        if left:
            found |= yield from self._from_below(bound, left, own)
        return found

    def _from_below(self, bound: Bound, left: Mapping[Any, str], own: Mapping[Any, OwnWrite]) -> Steps[dict[Any, Any]]:
        try:
            loaded = yield from self._load(bound, {key_text: Claim(id) for id, key_text in left.items()})
            for id, key_text in left.items():
                self._context.met(bound, id, loaded[key_text].version)
            records = {
                id: shown(self._context, bound, id, key_text, own[id], loaded[key_text])
                if id in own
                else loaded[key_text].record
                for id, key_text in left.items()
            }
        except FAILED:
            known = {id: instead(bound, own.get(id)) for id in left}
            if None in known.values():
                raise
            records = {id: item.record for id, item in known.items() if item is not None}
        return {id: record for id, record in records.items() if record is not ABSENT}

    def _from_memory(
        self,
        bound: Bound,
        wanted: Mapping[Any, str],
        found: dict[Any, Any],
        own: dict[Any, OwnWrite],
        *,
        past_l1: bool,
    ) -> dict[Any, str]:
        """Note what this process knows by itself, and its own writes; returns what must be loaded."""
        left: dict[Any, str] = {}
        now = self._context.clock.monotonic()
        for id, key_text in waits.in_turns(wanted.items()):
            entry = None if past_l1 else bound.l1.lookup(id, now)
            if entry is not None:
                entry.hits += 1
                found[id] = bound.plan.thaw(entry.value)
                continue
            known, mine = known_here(self._context, bound, id, now)
            if known is None:
                left[id] = key_text
                if mine is not None:
                    own[id] = mine
            elif known.record is not ABSENT:
                found[id] = known.record
        return left

    def _load(self, bound: Bound, claims: dict[str, Claim]) -> Steps[Mapping[str, Loaded]]:
        context, left = self._context, dict(claims)
        loaded: dict[str, Loaded] = {}
        try:
            bound.l1.claims.enter(*claims.values())
            found = yield from self._from_l2(bound, claims, left, loaded)
            if left:
                loaded |= yield from Load(context, bound, left, found).steps()
        except FAILED:
            stale = {key_text: stale_of(context, bound, claim) for key_text, claim in left.items()}
            if None in stale.values():
                raise
            bound.counters.stale_served += len(stale)
            loaded |= stale  # type: ignore[arg-type]  # as was just seen
        finally:
            bound.l1.claims.release(*claims.values())
        return loaded

    def _from_l2(
        self, bound: Bound, claims: Mapping[str, Claim], left: dict[str, Claim], loaded: dict[str, Loaded]
    ) -> Steps[dict[str, Found] | None]:
        """What L2 said of each key, None where it was not asked or did not answer; what it answers is not `left`."""
        context = self._context
        began, found = context.clock.monotonic(), None
        try:
            if (l2 := askable(context, bound, claims)) is not None:
                found = yield Look(l2, list(claims), lease=bound.l3 is not None)
        except WITHOUT_L2:
            if bound.l3 is None:
                raise
            unanswered(context, bound, claims.values())
        fills = []
        for key_text, answer in waits.in_turns((found or {}).items()):
            claim = claims[key_text]
            if (known := answered(context, bound, claim, answer, began)) is None:
                continue
            loaded[key_text] = known
            del left[key_text]
            if known.record is not ABSENT:
                fills.append((claim, bound.plan.freeze(known.record), known.version, known.pending))
        bound.counters.l2_hits += len(fills)
        fill_l1(bound, fills, began)
        if bound.l3 is None:
            loaded |= {key_text: nowhere(bound, claim, began) for key_text, claim in left.items()}
            left.clear()
        return found


def listed(ids: Iterable[Any]) -> list[Any]:
    """The ids of a call that takes many. Raises `EncodeError` for what is no iterable of ids, such as a single one."""
    if not isinstance(ids, Iterable) or isinstance(ids, str | bytes | bytearray):
        raise EncodeError(f"ids is of type {type(ids).__name__}; it must be an iterable of ids, such as a list")
    return list(ids)


def pairs(wanted: Iterable[Any]) -> list[tuple[Any, Any]]:
    """The pairs of a schema and an id that were given. Raises `EncodeError` for what are none."""
    if not isinstance(wanted, Iterable) or isinstance(wanted, str | bytes | bytearray | Mapping):
        raise EncodeError(
            f"wanted is of type {type(wanted).__name__}; it must be an iterable of pairs of a schema and an id"
        )
    given = list(wanted)
    for pair in given:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise EncodeError(f"wanted holds a {type(pair).__name__}; it must hold pairs of a schema and an id")
    return [(schema, id) for schema, id in given]


def named_by(records: Iterable[Any], field: FieldNames) -> list[Any]:
    """The ids that a field of the records holds, or several, without those that have None. Raises `EncodeError`."""
    fields = field if isinstance(field, tuple) else (field,)
    if not fields or not all(isinstance(name, str) for name in fields):
        raise EncodeError(
            f"field is of type {type(field).__name__}; it must be the name of a field, or a tuple of some"
        )
    if not isinstance(records, Iterable) or isinstance(records, str | bytes | bytearray):
        raise EncodeError(
            f"records is of type {type(records).__name__}; it must be an iterable of records, such as a list"
        )
    ids: list[Any] = []
    for record in waits.in_turns(records):
        parts = tuple([_held(record, name) for name in fields])
        if None not in parts:
            ids.append(parts if isinstance(field, tuple) else parts[0])
    return ids


def _held(record: Any, name: str) -> Any:
    try:
        value = getattr(record, name)
    except AttributeError:
        raise EncodeError(f"a {type(record).__name__} has no field {name!r}") from None
    if value is UNLOADED:
        raise EncodeError(f"{type(record).__name__}.{name} is UNLOADED; ask for records that have it, or whole ones")
    return value
