"""Whatever a column can hold comes back from every tier, codec and payload as it went in."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import functools
import gc
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from strata.codec import JSON, MsgPack
from strata.crypto import TableCipher
from strata.encryption_keys import EncryptionKeys, key_id_of
from strata.errors import DecodeError
from strata.model import UNLOADED, Encrypted, ModelPlan, OmitCache, OmitL1, PrimaryKey, compile_model

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
CIPHER = TableCipher(EncryptionKeys("k1", {"k1": bytes(32)}), "everything")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue 💥"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Leaf:
    name: str
    weight: float | None = None
    at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Twig:
    leaves: tuple[Leaf, ...]
    id: uuid.UUID
    price: Decimal
    color: Color | None = None


class Bough(msgspec.Struct, kw_only=True, rename="camel"):
    twig_of: dict[str, Twig]
    next_one: Bough | None = None


def _json() -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | finite | text
    return st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
bigint = st.integers(-(2**63), 2**63 - 1)
zones = st.timezones() | st.integers(-1439, 1439).map(lambda m: dt.timezone(dt.timedelta(minutes=m))) | st.just(dt.UTC)
moments = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=zones, allow_imaginary=False)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
leaves = st.builds(Leaf, text, st.none() | finite, st.none() | moments)
twigs = st.builds(
    Twig, st.lists(leaves, max_size=2).map(tuple), st.uuids(), decimals, st.none() | st.sampled_from(Color)
)
boughs = st.recursive(
    st.builds(Bough, twig_of=st.dictionaries(text, twigs, max_size=2)),
    lambda inner: st.builds(Bough, twig_of=st.just({}), next_one=inner),
    max_leaves=3,
)

# Each type of the contract, with nested ones in all their combinations, and what it can hold.
TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, text),
    (int, bigint),
    (float, st.floats()),
    (bool, st.booleans()),
    (dt.datetime, moments),
    (bytes, st.binary(max_size=20)),
    (uuid.UUID, st.uuids()),
    (Decimal, st.decimals().filter(lambda number: not number.is_snan())),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas()),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (Literal[1, 2], st.sampled_from([1, 2])),
    (Leaf, leaves),
    (Twig, twigs),
    (Bough, boughs),
    (dict, st.dictionaries(text, _json(), max_size=3)),
    (list, st.lists(_json(), max_size=3)),
    (set, st.sets(text | bigint, max_size=3)),
    (list[int], st.lists(st.integers(-(2**63), 2**64 - 1))),
    (list[float], st.lists(finite)),
    (list[int | float | None], st.lists(st.none() | st.integers(-(2**63), 2**64 - 1) | finite)),
    (list[bytes], st.lists(st.binary(max_size=5))),
    (list[Leaf | None], st.lists(st.none() | leaves, max_size=3)),
    (list[list[dt.datetime]], st.lists(st.lists(moments, max_size=2), max_size=2)),
    (tuple[int, str, Leaf], st.tuples(bigint, text, leaves)),
    (tuple[dt.date, ...], st.lists(st.dates()).map(tuple)),
    (tuple[Level | None, dt.datetime], st.tuples(st.none() | st.sampled_from(Level), moments)),
    (set[dt.time], st.sets(st.times())),
    (frozenset[uuid.UUID], st.frozensets(st.uuids(), max_size=3)),
    (dict[int, dt.timedelta], st.dictionaries(bigint, st.timedeltas(), max_size=3)),
    (dict[Color, list[Twig]], st.dictionaries(st.sampled_from(Color), st.lists(twigs, max_size=1), max_size=2)),
    (dict[uuid.UUID, Decimal | None], st.dictionaries(st.uuids(), st.none() | decimals, max_size=3)),
    (dict[dt.datetime, Any], st.dictionaries(moments.map(lambda at: at.astimezone(dt.UTC)), _json(), max_size=2)),
    (Annotated[str, Encrypted], text),
    (Annotated[str, OmitCache], text),
    (Annotated[list[int], OmitL1], st.lists(bigint)),
]
STYLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "frozen": {"frozen": True},
    "slots": {"slots": True},
    "kw_only": {"kw_only": True},
    "frozen slots kw_only": {"frozen": True, "slots": True, "kw_only": True},
    "struct": {},
    "frozen struct": {"frozen": True, "kw_only": True, "rename": "upper"},
    "pydantic": {},
    "frozen pydantic": {"frozen": True},
}


def make_model(fields: list[tuple[str, Any]], style: str) -> Any:
    """A model of the style with these fields."""
    if "pydantic" in style:
        config: Any = {"arbitrary_types_allowed": True, "allow_inf_nan": True, **STYLES[style]}
        typed: dict[str, Any] = {name: (annotation, ...) for name, annotation in fields}
        return pydantic.create_model("Made", __config__=config, **typed)
    make: Any = msgspec.defstruct if "struct" in style else dataclasses.make_dataclass
    return make("Made", fields, **STYLES[style])


@functools.cache
def plan_of(place: int, style: str) -> ModelPlan[Any]:
    """The plan of a model with a column of the type, and another that may be NULL."""
    annotation = TYPES[place][0]
    fields = [("key", Annotated[str, PrimaryKey]), ("value", annotation), ("maybe", annotation | None)]
    return compile_model(make_model(fields, style))


def same(one: Any, other: Any) -> bool:
    """Equality by type and value, in which NaN is itself and the order in a dict or set is nothing."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float | Decimal):
        return one == other or (one != one and other != other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if names := _names(one):
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


def in_utc(value: Any) -> Any:
    """The value with its times in UTC. (Python calls some times that come twice a year unequal to their instant.)"""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC)
    if isinstance(value, dict):
        return {in_utc(key): in_utc(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(in_utc, value))
    if names := _names(value):
        return type(value)(**{name: in_utc(getattr(value, name)) for name in names})
    return value


def _names(record: Any) -> list[str]:
    if isinstance(record, msgspec.Struct):
        return list(record.__struct_fields__)
    if isinstance(record, pydantic.BaseModel):
        return list(type(record).model_fields)
    return [item.name for item in dataclasses.fields(record)] if dataclasses.is_dataclass(record) else []


@pytest.mark.parametrize("place", range(len(TYPES)), ids=[str(annotation) for annotation, _ in TYPES])
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_value_comes_back_from_everywhere_as_it_went_in(place: int, data: st.DataObject) -> None:
    plan = plan_of(place, data.draw(st.sampled_from(sorted(STYLES))))
    values = TYPES[place][1]
    given = plan.model(key=data.draw(text) or "k", value=data.draw(values), maybe=data.draw(st.none() | values))
    stored = plan.prepare(plan.check(given), NOW)
    assert same(in_utc(given), stored)
    plan.check(stored)

    compiler = plan.compiler  # an immutable record is its own frozen form, but the long way must be right too
    frozen = compiler.freeze()(stored)
    gc.collect(0)
    assert not any(map(gc.is_tracked, frozen))
    assert same(without(stored, plan, "omit_cache", "omit_l1"), compiler.thaw()(frozen))
    assert same(stored, plan.thaw(plan.freeze(stored))) or plan.has_omitted_l1
    assert same(stored, plan.copy(stored)) and same(stored, compiler.copy()(stored))
    take = compiler.take()
    taken = None if take is None else take(given, stored.key, NOW)
    assert taken is None or (same(stored, compiler.thaw()(taken)) and not any(map(gc.is_tracked, taken)))

    for codec in (JSON(), MsgPack()):
        encoded = plan.encoder(codec)(stored)
        assert same(without(stored, plan, "omit_cache"), plan.decoder(codec)(encoded))

    row = plan.to_row(stored, CIPHER)
    assert same(stored, plan.from_row(row, CIPHER))
    assert same(stored, plan.from_row([as_jsonb(item) for item in row], CIPHER))
    names, values_back = plan.unpack_row(plan.pack_row(row))
    assert names == plan.column_names and same(row, values_back)
    plan.vet(values_back, lambda text: key_id_of(text) is not None)


@pytest.mark.parametrize("place", range(len(TYPES)), ids=[str(annotation) for annotation, _ in TYPES])
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_taken_in_one_step_is_what_the_long_way_would_take(place: int, data: st.DataObject) -> None:
    plan = plan_of(place, data.draw(st.sampled_from(["plain", "slots", "struct"])))
    take = plan.compiler.take()
    strange = st.one_of(*(values for _, values in TYPES), st.just(UNLOADED), st.none(), st.just(object()))
    keys = st.sampled_from(["k", "k", "k", "", "other", 1, None, UNLOADED])
    record = plan.model(key=data.draw(keys), value=data.draw(strange), maybe=data.draw(strange))
    taken = None if take is None else take(record, "k", NOW)
    if taken is not None:
        stored = plan.prepare(plan.check(record), NOW)
        assert plan.key_of(stored) == "k" and not plan.unloaded(stored)
        assert same(stored, plan.compiler.thaw()(taken))


@pytest.mark.parametrize("place", range(len(TYPES)), ids=[str(annotation) for annotation, _ in TYPES])
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_not_loaded_stays_so_and_is_filled_in_by_a_merge(place: int, data: st.DataObject) -> None:
    plan = plan_of(place, data.draw(st.sampled_from(sorted(STYLES))))
    whole = plan.prepare(plan.check(plan.model(key="k", value=data.draw(TYPES[place][1]), maybe=None)), NOW)
    hidden = data.draw(st.sets(st.sampled_from(["value", "maybe"])))
    partial = rebuilt(whole, hidden)
    partial = plan.check(partial)
    assert set(plan.unloaded(partial)) == hidden
    names, values = plan.unpack_row(plan.pack_row(plan.to_row(partial, CIPHER)))
    assert set(plan.column_names) - set(names) == hidden
    plan.vet(values, lambda text: key_id_of(text) is not None, names)
    back = plan.from_row(values, CIPHER, names)
    for found in (back, plan.prepare(partial, NOW), plan.copy(partial)):
        assert same(partial, found)
    assert same(whole, plan.merge(whole, back))


@settings(max_examples=300)
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode), place=st.integers(0, len(TYPES) - 1))
def test_no_bytes_make_a_codec_or_a_payload_raise_anything_but_decode_error(data: bytes, place: int) -> None:
    plan = plan_of(place, "plain")
    for read in (plan.decoder(JSON()), plan.decoder(MsgPack()), plan.unpack_row):
        with contextlib.suppress(DecodeError):
            read(data)


@settings(max_examples=200)
@given(column=text, key=text, plaintext=text)
def test_a_field_decrypts_to_what_was_encrypted(column: str, key: str, plaintext: str) -> None:
    sealed = CIPHER.encrypt(column, key, plaintext)
    assert CIPHER.decrypt(column, key, sealed) == plaintext


def without(record: Any, plan: ModelPlan[Any], *flags: str) -> Any:
    """The record with UNLOADED in the columns that a tier omits."""
    return rebuilt(record, {item.name for item in plan.columns if any(getattr(item, flag) for flag in flags)})


def rebuilt(record: Any, hidden: set[str]) -> Any:
    """The record with UNLOADED in some columns."""
    make = type(record).model_construct if isinstance(record, pydantic.BaseModel) else type(record)
    return make(**{n: UNLOADED if n in hidden else getattr(record, n) for n in ("key", "value", "maybe")})


def as_jsonb(value: Any) -> Any:
    """JSON text as PostgreSQL gives it back: keys in another order, numbers written out; other values as they are."""
    try:
        return _written(msgspec.json.Decoder(float_hook=Decimal).decode(value)) if value[0] in "{[" else value
    except (TypeError, IndexError, msgspec.DecodeError):
        return value


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(key)}: {_written(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return format(value, "f") if isinstance(value, Decimal) else msgspec.json.encode(value).decode()
