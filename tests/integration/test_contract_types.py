"""Every type of the contract, in every style of model, comes back equal from each tier and through write-behind."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import strata
from strata import (
    JSON,
    Codec,
    Collection,
    DataStore,
    Encrypted,
    MsgPack,
    PrimaryKey,
    RedisPolicy,
    SearchExpiry,
    WriteMode,
)
from strata.testing import inspect
from tests.behind import client, hand_off, idle, paced, persist
from tests.property.test_round_trips import STYLES, TYPES, in_utc, make_model, same
from tests.stores import MakeStore, schema
from tests.support import wait_until

CODECS: dict[str, Codec] = {"json": JSON(), "msgpack": MsgPack()}
KEYS: dict[str, tuple[type, st.SearchStrategy[Any]]] = {
    "str": (str, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)),
    "int": (int, st.integers(-(2**63), 2**63 - 1)),
    "uuid": (uuid.UUID, st.uuids()),
}
# Without the types that a tier leaves out: tests of these are in test_contract_fields.py.
STORED = [item for item in TYPES if "Omit" not in str(item[0])]
FRESH = RedisPolicy(ttl=600, search_expiry=SearchExpiry.ON_WRITE)
OTHERWISE = ("plain", "struct", "pydantic")  # styles whose records are made in another way each
ONCE = [Phase.generate]  # a failing record is not made smaller: each try asks every tier
SLOW = {"write_behind_flush_interval": 3600.0, "write_behind_flush_threshold": 10**9}


class Everywhere:
    """Two instances with one model, written through and written behind by hand."""

    def __init__(self, make: MakeStore, model: type, codec: Codec) -> None:
        self.writer, self.reader = (self._store(make, model, codec) for _ in range(2))
        self.writer.migrate()
        self._redis = client(self.writer.config.redis_addr)
        for store in (self.writer, self.reader):
            idle(store)

    def check(self, record: Any) -> None:
        """The record through every way there is."""
        expected, key = in_utc(record), record.key
        self._through(key, record, expected)
        self._behind(key, record, expected)

    def _through(self, key: Any, record: Any, expected: Any) -> None:
        name = "through"
        assert same(expected, self.writer.set(name, key, record))
        self._reads(name, key, expected)
        assert same(expected, self.writer.set_many(name, {key: record})[key])
        self._reads(name, key, expected)
        self.writer.tx().set(name, key, record).commit()
        self._reads(name, key, expected)
        for kept in (False, True):
            found = self.reader.search_cached(name)
            assert same(expected, found[0]), f"kept: {kept}"
        self.writer.delete(name, key)

    def _reads(self, name: str, key: Any, expected: Any) -> None:
        for store in (self.writer, self.reader):
            inspect(store).schemas[name].l1.clear()
            assert same(expected, store.get(name, key, force_l2=True)), "L2"
            assert same(expected, store.get(name, key)), "L1"
            assert same(expected, store.get(name, key, force_l3=True)), "L3"
            assert same(expected, store.search(name)[0]), "search"
            assert same(expected, next(store.search_iter(name))), "search_iter"
        self._redis.delete(*self._redis.keys(f"strata:{name}:*"))
        inspect(self.reader).schemas[name].l1.clear()
        assert same(expected, self.reader.get_many(name, [key])[key]), "get_many from L3"
        inspect(self.reader).schemas[name].l1.clear()
        assert same(expected, self.reader.get_many(name, [key])[key]), "get_many from L2"

    def _behind(self, key: Any, record: Any, expected: Any) -> None:
        name, own = "behind", inspect(self.writer).schemas["behind"].l1
        assert same(expected, self.writer.set(name, key, record))
        assert same(expected, self.writer.get(name, key)), "L1"
        own.clear()
        assert same(expected, self.writer.get(name, key)), "the dirty buffer"
        hand_off(self.writer)
        inspect(self.reader).schemas[name].l1.clear()
        assert same(expected, self.reader.get(name, key)), "L2, pending"
        inspect(self.reader).schemas[name].l1.clear()
        self._redis.delete(*self._redis.keys(f"strata:{name}:*"))
        assert same(expected, self.reader.get(name, key)), "the ledger"
        assert self.reader.count(name) == 0
        assert persist(self.reader, name) == 1
        assert same(expected, self.reader.get(name, key, force_l3=True)), "L3"
        for store in (self.reader, self.writer):
            inspect(store).schemas[name].l1.clear()
            assert same(expected, store.get(name, key)), "settled"
        self.writer.delete(name, key)
        self.writer.flush_dirty()

    def _store(self, make: MakeStore, model: type, codec: Codec) -> DataStore:
        store = make(codec=codec, encryption_key=b"k" * 32, **SLOW)
        paced(store)
        store.register(schema(model, name="through", l2=FRESH))
        store.register(schema(model, name="behind", write_mode=WriteMode.WRITE_BEHIND))
        return store


def model_of(style: str, key: type) -> type:
    """A model with a column of every type, and for each another that may be NULL."""
    fields: list[tuple[str, Any]] = [("key", Annotated[key, PrimaryKey])]
    fields += [(f"value_{place}", annotation) for place, (annotation, _) in enumerate(STORED)]
    fields += [(f"maybe_{place}", annotation | None) for place, (annotation, _) in enumerate(STORED)]
    made: type = make_model(fields, style)
    return made


def records_of(model: type, keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    values = {f"value_{place}": strategy for place, (_, strategy) in enumerate(STORED)}
    maybes = {f"maybe_{place}": st.none() | strategy for place, (_, strategy) in enumerate(STORED)}
    return st.builds(model, key=keys, **values, **maybes)


@pytest.mark.parametrize(
    ("codec", "style"),
    [  # each style, and each codec with what makes records in another way
        pytest.param(codec, style, marks=() if codec == "json" or style in OTHERWISE else pytest.mark.long)
        for codec in CODECS
        for style in STYLES
    ],
)
def test_every_type_and_optional_of_it_comes_back_equal_from_everywhere(
    make: MakeStore, codec: str, style: str
) -> None:
    kind = list(KEYS)[(list(STYLES).index(style) + list(CODECS).index(codec)) % len(KEYS)]
    annotation, keys = KEYS[kind]
    model = model_of(style, annotation)
    everywhere = Everywhere(make, model, CODECS[codec])

    @settings(max_examples=3, suppress_health_check=list(HealthCheck), database=None, phases=ONCE)
    @given(record=records_of(model, keys))
    def check(record: Any) -> None:
        everywhere.check(record)

    check()


class Color(enum.Enum):
    RED = "red"
    ODD = "\n🦊"


@dataclass(frozen=True, slots=True)
class Deep:
    at: dt.datetime
    inner: Deep | None = None
    price: Decimal = Decimal(0)


@dataclass
class Extreme:
    key: Annotated[str, PrimaryKey]
    text: str = ""
    whole: int = 0
    real: float = 0.0
    yes: bool = False
    at: dt.datetime = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    raw: bytes = b""
    number: Decimal = Decimal(0)
    day: dt.date = dt.date(2026, 1, 1)
    hour: dt.time = dt.time(0)
    length: dt.timedelta = dt.timedelta(0)
    color: Color = Color.RED
    word: Literal["", "a", "ü"] = ""
    anything: dict[str, Any] = field(default_factory=dict)
    some: list[Any] = field(default_factory=list)
    pair: tuple[int, str] = (0, "")
    many: tuple[Deep, ...] = ()
    group: set[int] = field(default_factory=set)
    deep: Deep | None = None
    secret: Annotated[str | None, Encrypted] = None
    maybe: int | None = None


def _deep(levels: int) -> Deep:
    deep = Deep(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    for _ in range(levels):
        deep = Deep(dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC), deep, Decimal("0.1"))
    return deep


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"leaf": [1, 2.5, None, True, "x"]}
    for _ in range(levels):
        value = {"down": [value]}
    return value


EXTREMES: dict[str, dict[str, Any]] = {
    "the largest BIGINT": {"whole": 2**63 - 1, "group": {2**63 - 1}, "pair": (2**63 - 1, "")},
    "the smallest BIGINT": {"whole": -(2**63), "some": [-(2**63)]},
    "zero, false and empty": {"maybe": 0},
    "a megabyte of text": {"text": "ä🦊" * 200_000, "secret": "s" * 1_000_000},
    "a megabyte of bytes": {"raw": bytes(range(256)) * 4096},
    "all kinds of blanks and quotes": {"text": " \t\r\n'\"\\`$1%s{}\x01\x7f\u2028\ufeff", "word": "ü"},
    "positive infinity": {"real": float("inf"), "number": Decimal("Infinity")},
    "negative infinity": {"real": float("-inf"), "number": Decimal("-Infinity")},
    "no number": {"real": float("nan"), "number": Decimal("NaN")},
    "the smallest float": {"real": 5e-324, "some": [5e-324, sys.float_info.max, -0.0]},
    "a hundred digits": {"number": Decimal("1234567890" * 9 + "." + "0123456789" * 1)},
    "a hundred places": {"number": Decimal("0." + "0" * 90 + "1234567890")},
    "trailing zeros": {"number": Decimal("1.500"), "deep": Deep(dt.datetime.now(dt.UTC), None, Decimal("2.50"))},
    "microseconds": {"at": dt.datetime(2026, 2, 3, 4, 5, 6, 789_123, dt.UTC), "hour": dt.time(23, 59, 59, 999_999)},
    "another time zone": {"at": dt.datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Asia/Kathmandu"))},
    "an hour that comes twice": {"at": dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))},
    "the first and the last day": {"day": dt.date.min, "deep": Deep(dt.datetime.max.replace(tzinfo=dt.UTC))},
    "the last moment": {"at": dt.datetime.max.replace(tzinfo=dt.UTC), "day": dt.date.max},
    "the first moment": {"at": dt.datetime.min.replace(tzinfo=dt.UTC)},
    "a negative length": {"length": dt.timedelta(days=-3, microseconds=1)},
    "the longest length": {"length": dt.timedelta.max},
    "the most negative length": {"length": dt.timedelta.min},
    "enums and literals": {"color": Color.ODD, "word": "a"},
    "deep JSON": {"anything": _nested(30), "some": [[[[[[]]]]]]},
    "deep dataclasses": {"deep": _deep(30), "many": tuple(_deep(2) for _ in range(5))},
    "JSON keys of all kinds": {"anything": {"": 1, "a.b": 2, "$": 3, "🦊": None, "\n": "", "id": {}}},
}


@pytest.fixture(params=CODECS)
def everywhere(request: pytest.FixtureRequest, make: MakeStore) -> Everywhere:
    return Everywhere(make, Extreme, CODECS[request.param])


def test_extreme_values_come_back_equal_from_everywhere(everywhere: Everywhere) -> None:
    wrong = {}
    for name, values in EXTREMES.items():
        try:
            everywhere.check(Extreme(name, **values))
        except Exception as error:  # all of them are told together
            wrong[name] = f"{type(error).__name__}: {str(error)[:300]}"
            everywhere.writer.delete_many("through", [name])
    assert wrong == {}


KEY_EXTREMES: dict[type, list[Any]] = {
    str: ["a:b", "x\ny", "🦊", "{slot}", "%s", "$1", "'; DROP TABLE through; --", " ", "0", "é", "e\u0301", "k" * 2000],
    int: [0, -1, 1, 2**63 - 1, -(2**63)],
    uuid.UUID: [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.uuid5(uuid.NAMESPACE_DNS, "strata")],
}


@pytest.mark.parametrize("kind", KEY_EXTREMES, ids=lambda kind: kind.__name__)
def test_keys_of_every_kind_and_extreme_work_everywhere(make: MakeStore, kind: type) -> None:
    model = dataclasses.make_dataclass("Keyed", [("key", Annotated[kind, PrimaryKey]), ("value", int)])
    everywhere = Everywhere(make, model, JSON())
    for place, key in enumerate(KEY_EXTREMES[kind]):
        everywhere.check(model(key, place))
    records = {key: model(key, place) for place, key in enumerate(KEY_EXTREMES[kind])}
    everywhere.writer.set_many("through", records)
    wait_until(lambda: everywhere.reader.get_many("through", records) == records)
    everywhere.writer.delete_many("through", records)
    wait_until(lambda: everywhere.reader.get_many("through", records) == {})


@dataclass
class Stamped:
    key: Annotated[int, PrimaryKey]
    word: str
    made: Annotated[dt.datetime | None, strata.AutoNowAdd] = None
    changed: Annotated[dt.datetime | None, strata.AutoNow] = None


@pytest.mark.parametrize("mode", list(WriteMode), ids=lambda mode: mode.value)
def test_stamps_are_the_stores_in_utc_and_the_first_one_stays(make: MakeStore, mode: WriteMode) -> None:
    store = make(**SLOW)
    handle: Collection[Stamped] = store.register(schema(Stamped, name="stamped", write_mode=mode))
    store.migrate()
    long_ago = dt.datetime(1999, 1, 1, tzinfo=dt.UTC)
    writes: list[Callable[[Stamped], Any]] = [
        lambda record: handle.set(1, record),
        lambda record: handle.set_many({1: record}),
        lambda record: store.tx().set("stamped", 1, record).commit(),
    ]
    before = dt.datetime.now(dt.UTC)
    handle.set(1, Stamped(1, "first", long_ago, long_ago))
    store.flush_dirty()
    first = handle.get(1, force_l3=True)
    assert first.made is not None and first.changed is not None
    assert before <= first.made <= dt.datetime.now(dt.UTC) and first.made.tzinfo is dt.UTC
    last: dt.datetime = first.changed
    for write in writes:
        given = Stamped(1, "again", long_ago, long_ago)
        write(given)
        assert (given.made, given.changed) == (long_ago, long_ago)
        store.flush_dirty()
        changed = []
        for found in (handle.get(1), handle.get(1, force_l2=True), handle.get(1, force_l3=True)):
            assert found.made == first.made
            assert found.changed is not None and found.changed > last
            changed.append(found.changed)
        last = changed[-1]
