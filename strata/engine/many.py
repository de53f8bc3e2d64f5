"""`get_many`, and `get_batch` of several schemas: partial hits of each tier, one round trip a tier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from strata import waits
from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.load import FAILED, HAVE_OWN, Load, Loaded, answered, askable, fill_l1, nowhere, stale_of, unanswered
from strata.engine.own import instead, known_here, shown
from strata.engine.steps import Look, Steps, together
from strata.engine.whole import completed, in_l2
from strata.errors import WITHOUT_L2, EncodeError
from strata.l1.claims import Claim, ManyClaim
from strata.l1.tier import Fill
from strata.l2.content import NO_VALUES, Found, Plain
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
        wanted = bound.plan.keys_and_texts(listed(ids))
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

    def _given(self, bound: Bound, wanted: Mapping[Any, str], found: dict[Any, Any]) -> dict[Any, Any]:
        records = found if [*found] == [*wanted] else {id: found[id] for id in wanted if id in found}
        bound.counters.misses += len(wanted) - len(records)
        if not bound.hooks.get_given:
            return records
        return {id: bound.hooks.after_get(record) for id, record in records.items()}

    def _read(self, bound: Bound, wanted: Mapping[Any, str], whole: bool) -> Steps[dict[Any, Any]]:
        found = yield from self._found(bound, wanted, past_l1=whole and in_l2(bound))
        return _those_there((yield from completed(self._context, bound, found, wanted))) if whole else found

    def _found(self, bound: Bound, wanted: Mapping[Any, str], *, past_l1: bool) -> Steps[dict[Any, Any]]:
        found: dict[Any, Any] = {}
        own: dict[Any, OwnWrite] = {}
        left: Mapping[Any, str] = wanted
        if bound.l1.entries or bound.l1.absences or bound.deferred:
            left = self._from_memory(bound, wanted, found, own, past_l1=past_l1)
        else:
            bound.counters.gets += len(left)
        if not left:
            return found
        below = yield from self._from_below(bound, left, own)
        return found | below if found else below

    def _from_below(self, bound: Bound, left: Mapping[Any, str], own: Mapping[Any, OwnWrite]) -> Steps[dict[Any, Any]]:
        context = self._context
        try:
            plain, loaded = yield from self._load(bound, left)
            if len(plain.records) == len(left) and not bound.deferred:
                return dict(zip(left, plain.records.values(), strict=True))
            items: dict[str, Loaded] = dict(loaded)
            for (key_text, record), version in zip(plain.records.items(), plain.versions, strict=True):
                items[key_text] = Loaded(record, version)
            records = {}
            for id, key_text in left.items():
                item = items[key_text]
                context.met(bound, id, item.version)
                records[id] = shown(context, bound, id, key_text, own[id], item) if id in own else item.record
        except FAILED:
            known = {id: instead(bound, own.get(id)) for id in left}
            if None in known.values():
                raise
            return _those_there({id: item.record for id, item in known.items() if item is not None})
        return _those_there(records)

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
        now, lookup, thaw = self._context.clock.monotonic(), bound.l1.lookup, bound.plan.thaw
        nothing_else = not bound.deferred and bound.l1.absences is None
        for id, key_text in waits.in_turns(wanted.items()):
            entry = None if past_l1 else lookup(id, now)
            if entry is not None:
                entry.hits += 1
                found[id] = thaw(entry.value)
                continue
            if nothing_else:
                left[id] = key_text
                continue
            known, mine = known_here(self._context, bound, id, now)
            if known is None:
                left[id] = key_text
                if mine is not None:
                    own[id] = mine
            elif known.record is not ABSENT:
                found[id] = known.record
        if nothing_else:
            bound.counters.gets += len(left)
        return left

    def _load(self, bound: Bound, wanted: Mapping[Any, str]) -> Steps[tuple[Plain, Mapping[str, Loaded]]]:
        """What L2 has plainly, and what else there is of each key. One claim does for all keys, and those of which L2
        has no plain value get their own out of it."""
        context, l1 = self._context, bound.l1
        # Where nothing is kept that could be too old, there is nothing to claim.
        keeps = l1.store is not None or bound.freshness.fail_safe
        together, claims = ManyClaim(wanted.keys() if keeps else ()), dict[str, Claim]()
        texts = list(wanted.values())
        plain = NO_VALUES
        loaded: dict[str, Loaded] = {}
        try:
            l1.claims.enter_many(together)
            began = context.clock.monotonic()
            answers, silent = None, False
            try:
                if (l2 := askable(context, bound, texts)) is not None:
                    answers = yield Look(l2, texts, lease=bound.l3 is not None)
            except WITHOUT_L2:
                if bound.l3 is None:
                    raise
                silent = True
            if answers is not None:
                plain = answers.plain
                self._hit(bound, together, wanted, plain, began)
            left = {text: id for id, text in wanted.items() if text not in plain.records}
            if left:
                if silent:
                    unanswered(context, bound, together)
                found = None if answers is None else answers.others
                own = {text: left[text] for text, answer in (found or {}).items() if answer.state in HAVE_OWN}
                claims |= l1.claims.apart(together, own)
                each = dict.fromkeys(left, together) | claims
                loaded |= self._answered(bound, left, each, found, began)
                left = {text: id for text, id in left.items() if text not in loaded}
            if left:
                loaded |= yield from Load(context, bound, left, {text: each[text] for text in left}, found).steps()
        except FAILED:
            left = {text: id for id, text in wanted.items() if text not in plain.records and text not in loaded}
            stale = {text: stale_of(context, bound, claims.get(text) or Claim(id)) for text, id in left.items()}
            if None in stale.values():
                raise
            bound.counters.stale_served += len(stale)
            loaded |= stale  # type: ignore[arg-type]  # as was just seen
        finally:
            l1.claims.release_many(together)
            l1.claims.release(*claims.values())
        return plain, loaded

    def _hit(self, bound: Bound, claim: ManyClaim, wanted: Mapping[Any, str], plain: Plain, began: float) -> None:
        if not plain.records:
            return
        bound.counters.l2_hits += len(plain.records)
        self._context.versions.observe(int(max(plain.digits)))
        if bound.l1.store is not None:
            freeze = bound.plan.freeze
            ids = [id for id, text in wanted.items() if text in plain.records]
            values = zip(ids, plain.records.values(), plain.versions, strict=True)
            fills: list[Fill] = [
                (claim, id, freeze(record), version, False) for id, record, version in waits.in_turns(values)
            ]
            fill_l1(bound, fills, began)

    def _answered(
        self,
        bound: Bound,
        keys: Mapping[str, Any],
        claims: Mapping[str, Claim | ManyClaim],
        found: Mapping[str, Found] | None,
        began: float,
    ) -> dict[str, Loaded]:
        """What L2's answers are the end of, of those that are no plain values; without L3 that is all."""
        loaded: dict[str, Loaded] = {}
        fills: list[Fill] = []
        for text, answer in waits.in_turns((found or {}).items()):
            claim, key = claims[text], keys[text]
            known = answered(self._context, bound, claim, key, answer, began)
            if known is not None:
                loaded[text] = known
                if known.record is not ABSENT:
                    fills.append((claim, key, bound.plan.freeze(known.record), known.version, known.pending))
        bound.counters.l2_hits += len(fills)
        fill_l1(bound, fills, began)
        if bound.l3 is None:
            loaded |= {text: nowhere(bound, claims[text], id, began) for text, id in keys.items() if text not in loaded}
        return loaded


def _those_there(records: Mapping[Any, Any]) -> dict[Any, Any]:
    return {id: record for id, record in records.items() if record is not ABSENT}


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
