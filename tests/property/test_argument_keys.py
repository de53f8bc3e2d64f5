"""The key of a call is another for every other call, and the same however, and wherever, it is made."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import subprocess
import sys
import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata.errors import EncodeError
from strata.memo.arguments import FAILED, WHOLE, Arguments
from strata.model.keys import MAX_KEY_BYTES

ROOT = Path(__file__).parents[2]


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: Any
    y: Any = None


class Pair(msgspec.Struct, frozen=True):
    x: Any
    y: Any = None


def price(a: Any, b: Any = 10, *rest: Any, c: Any = None, **more: Any) -> int:
    return 0


def plain(a: Any, b: Any = 10) -> int:
    return 0


KEYS, PLAIN = Arguments(price, "price()"), Arguments(plain, "plain()")


def key(*args: Any, **kwargs: Any) -> str:
    return KEYS.text(args, kwargs)


class Told:
    """A value as it is told apart by a key: with its type, at every depth."""

    def __init__(self, value: Any) -> None:
        self._form = _form(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Told) and self._form == other._form

    def __hash__(self) -> int:
        return hash(self._form)


def _form(value: Any) -> Any:
    kind = type(value)
    if kind in (list, tuple):
        return kind, tuple(map(_form, value))
    if kind in (set, frozenset):
        return kind, frozenset(map(_form, value))
    if kind is dict:
        return kind, frozenset((_form(name), _form(item)) for name, item in value.items())
    if kind in (Point, Pair):
        return kind, _form(value.x), _form(value.y)
    if isinstance(value, dt.datetime):
        return kind, value.isoformat(), value.fold
    if kind is dt.time:
        return kind, value.isoformat(), value.fold
    return kind, repr(value)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(['"', '",b="', "#", "a=1", ""])
atoms = (
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=8)
    | st.decimals(allow_nan=False)
    | st.uuids() | st.dates() | st.times() | st.datetimes() | st.datetimes(timezones=st.timezones()) | st.timedeltas()
    | st.sampled_from([*Size, Level.LOW, Access.READ, Access.READ | Access.WRITE])
)  # fmt: skip
hashable = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3) | st.builds(Point, inner, inner)
        | st.builds(Pair, inner)
    ),
    max_leaves=6,
)  # fmt: skip
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(hashable, inner, max_size=3) | st.sets(hashable, max_size=3)
        | st.builds(Point, inner, inner)
    ),
    max_leaves=8,
)  # fmt: skip
calls = st.tuples(
    st.lists(values, min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(["c", "d", "e"]), values, max_size=3),
)


@given(calls, calls)
def test_two_calls_have_one_key_where_they_are_the_same_and_only_there(one: Any, other: Any) -> None:
    def told(args: list[Any], kwargs: dict[str, Any]) -> Told:
        filled = [*args, 10] if len(args) == 1 else args
        return Told([filled, {"c": None} | kwargs])

    assert (key(*one[0], **one[1]) == key(*other[0], **other[1])) == (told(*one) == told(*other))


ALIKE = [
    0, False, 0.0, -0.0, "0", b"0", Decimal(0), Decimal("0.0"), None, "None", "", b"", (), [], {}, set(), frozenset(),
    1, True, 1.0, "1", b"1", Decimal(1), Decimal("1.0"), Level.LOW, Size.SMALL, Access.READ, "Size.SMALL", (1,), [1],
    {1}, frozenset({1}), {1: 1}, {1: True}, {True: 1}, {"1": 1}, (True,), (1.0,), ("1",), [[1]], ((1,),), [(1,)],
    (1, 2), (12,), ("1,2",), ("1", "2"), ('1","2',), [1, 2], {1, 2}, {1: 2}, {(1, 2): 3}, {(1,): (2, 3)},
    Point(1), Point(True), Point((1, None)), Pair(1), Point(Pair(1)), {"x": 1, "y": None}, Point, Pair, int, "int",
    uuid.UUID(int=1), str(uuid.UUID(int=1)), dt.date(2026, 1, 1), dt.datetime(2026, 1, 1), "2026-01-01", dt.time(1),
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.timedelta(1), dt.timedelta(seconds=1), 86400,
    dt.datetime(2026, 10, 25, 2, 30), dt.datetime(2026, 10, 25, 2, 30, fold=1), 10**700, str(10**700), 10**5000,
    float("inf"), float("-inf"), Decimal("Infinity"), "inf", "x" * 500, "x" * 501, ["x" * 500], "\0", "\\0", "ä", "a",
]  # fmt: skip


def test_what_looks_alike_is_told_apart() -> None:
    found: dict[str, Any] = {}
    for value in ALIKE:
        made = key(value)
        assert made not in found, (value, found.get(made))
        found[made] = value


def test_nan_has_a_key_although_it_is_not_equal_to_itself() -> None:
    assert key(float("nan")) == key(float("nan")) != key(Decimal("NaN"))


@given(values, values)
def test_a_key_does_not_depend_on_how_arguments_are_passed(a: Any, b: Any) -> None:
    assert key(a, b) == key(a=a, b=b) == key(a, b=b)
    assert key(a) == key(a, 10) == key(a, b=10, c=None)


@given(st.dictionaries(hashable, values, max_size=5), st.sets(hashable, max_size=5), st.randoms())
def test_a_key_does_not_depend_on_the_order_of_what_has_none(mapping: Any, members: Any, chance: Any) -> None:
    items, others = list(mapping.items()), list(members)
    chance.shuffle(items)
    chance.shuffle(others)
    assert key(mapping, members) == key(dict(items), set(others))
    named = {f"k{place}": value for place, (_, value) in enumerate(items)}
    assert key(1, **named) == key(1, **dict(reversed(named.items())))


@given(values, values)
def test_the_quick_way_makes_the_same_key_or_none(a: Any, b: Any) -> None:
    names: dict[str, Any] = {}

    def bind(value: Any) -> str:
        names[f"n{len(names)}"] = value
        return f"n{len(names) - 1}"

    expression = PLAIN.expression(bind)
    try:
        quick = eval(expression, names, {"a": a, "b": b})
    except FAILED:
        return
    assert len(quick) > WHOLE or quick == PLAIN.text((a, b), {})


@given(values)
def test_a_key_is_a_key_of_redis_and_of_every_tier(value: Any) -> None:
    made = key(value)
    assert made and "\0" not in made and len(made.encode()) <= MAX_KEY_BYTES


def test_short_keys_can_be_read_and_long_ones_begin_so() -> None:
    assert key(7, "ann", 1.5, c=[Size.LARGE], d=True) == (
        'a=7,b="ann",rest=(1.5),c=[tests.property.test_argument_keys.Size.LARGE],more={"d":True}'
    )
    assert Arguments(lambda: 0, "f()").text((), {}) == "()"
    made = key("SELECT " + "x" * 500)
    assert made.startswith('a="SELECT xxx') and made[128] == "#" and len(made) == 128 + 1 + 64


ELSEWHERE = """
from tests.property.test_argument_keys import ALIKE, key
import sys
sys.set_int_max_str_digits(0)
for value in ALIKE:
    print(ascii(key(value)))
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_another_process_makes_the_same_keys(seed: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.splitlines() == [ascii(key(value)) for value in ALIKE]


class Wide(int):
    pass


@dataclass
class Narrow:
    x: int


class Undecorated(Narrow):
    pass


def local() -> Any:
    @dataclass
    class Local:
        x: int

    return Local(1)


def within() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


deep: Any = ()
for _ in range(100_000):
    deep = (deep,)

UNWRITTEN = {
    "an object": (object(), "is of type object"),
    "a function": (price, "is of type function"),
    "an int of another class": (Wide(3), "is of type Wide"),
    "one that is no dataclass itself": (Undecorated(1), "is of type Undecorated"),
    "one whose class has no name of its own": (local(), "not of a module"),
    "one inside": ([{"a": object()}], "is of type object"),
    "one that lacks a field": (Narrow.__new__(Narrow), "without some of its fields"),
    "one without end": (within(), "holds itself"),
    "one that is too deep": (deep, "nested too deeply"),
    "a time whose offset depends on the day": (dt.time(1, tzinfo=ZoneInfo("Europe/Berlin")), "no offset of its own"),
}


@pytest.mark.parametrize("case", UNWRITTEN)
def test_an_argument_that_has_no_text_is_named_with_what_would_be_right(case: str) -> None:
    value, said = UNWRITTEN[case]
    with pytest.raises(EncodeError, match=rf"argument 'b' of price\(\) .*{said}.*give cached a key="):
        key(1, value)


def test_text_that_is_none_is_refused() -> None:
    with pytest.raises(EncodeError, match="lone surrogate"):
        key("\ud800" * WHOLE)


def test_a_call_that_the_function_does_not_take_is_a_type_error() -> None:
    for args, kwargs in (((), {}), ((1,), {"a": 2}), ((), {"b": 1})):
        with pytest.raises(TypeError):
            KEYS.text(args, kwargs)


@given(st.lists(atoms, min_size=2, max_size=6))
def test_arguments_do_not_run_into_each_other(items: list[Any]) -> None:
    cuts = [Told(items[:at]) for at in range(1, len(items))]
    keys = {key(tuple(items[:at]), tuple(items[at:])) for at in range(1, len(items))}
    assert len(keys) == len(cuts)
    assert len({key(list(part)) for part in itertools.permutations(items[:3])}) == len(
        {Told(list(part)) for part in itertools.permutations(items[:3])}
    )
