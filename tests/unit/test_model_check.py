"""What a column cannot hold is an EncodeError that names class, field and what would be right, and never the value."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, make_dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from strata.errors import EncodeError, MissingPrimaryKeyError
from strata.model import UNLOADED, AutoNow, AutoNowAdd, Ignore, PrimaryKey, compile_model

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
BIG = 1 << 63
SECRET = "hunter2"


class Color(enum.Enum):
    RED = "red"


class Text(enum.StrEnum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


class Tagged(str):
    """As markup libraries have it."""


class Frozen(datetime):
    """As libraries that freeze the clock have it."""


@dataclass
class Line:
    product: str
    count: int = 1
    sold: datetime | None = None
    price: float = 0.0


@dataclass
class LongLine(Line):
    note: str = ""


def model_of(annotation: Any) -> Any:
    return make_dataclass("Made", [("id", Annotated[str, PrimaryKey]), ("value", annotation)])


def check(annotation: Any, value: Any) -> None:
    model = model_of(annotation)
    compile_model(model).check(model("k", value))


def prepared(annotation: Any, value: Any) -> Any:
    model = model_of(annotation)
    plan = compile_model(model)
    plan.check(model("k", value))
    return plan.prepare(model("k", value), NOW).value


REFUSED: list[tuple[Any, Any]] = [
    (str, 1),
    (str, b"x"),
    (str, "nul\0"),
    (str, "lone \ud800"),
    (str, "é\0"),
    (int, True),
    (int, 1.0),
    (int, "1"),
    (int, BIG),
    (int, -BIG - 1),
    (float, True),
    (float, "1"),
    (float, 2**53 + 1),
    (float, 10**400),
    (bool, 1),
    (bool, "true"),
    (datetime, datetime(2026, 1, 1)),
    (datetime, date(2026, 1, 1)),
    (datetime, "2026-01-01"),
    (datetime, datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))),
    (datetime, datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
    (bytes, "x"),
    (bytes, bytearray(b"x")),
    (UUID, str(UUID(int=1))),
    (UUID, 1),
    (Decimal, 1.0),
    (Decimal, 1),
    (Decimal, Decimal("sNaN")),
    (Decimal, Decimal("1E+131072")),
    (Decimal, Decimal("1E-16384")),
    (date, NOW),
    (date, "2026-01-01"),
    (time, time(1, tzinfo=UTC)),
    (time, NOW),
    (timedelta, 1.0),
    (Color, "red"),
    (Color, Text.A),
    (Literal["a", "b"], "c"),
    (Literal["a", "b"], 1),
    (Literal[1, 2], True),
    (Literal[1, 2], "1"),
    (Line, {"product": "x"}),
    (Line, LongLine("x")),
    (Line, Line(5)),  # type: ignore[arg-type]
    (Line, Line("x", 1.5)),  # type: ignore[arg-type]
    (Line, Line("x", True, datetime(2026, 1, 1))),
    (Line, Line("x", price=math.inf)),
    (Line, Line(None)),  # type: ignore[arg-type]
    (list[Line], [Line("x"), "y"]),
    (list[Line], (Line("x"),)),
    (list[Line], Line("x")),
    (dict[str, Line], [Line("x")]),
    (dict[str, Line], {1: Line("x")}),
    (set[int], {"1"}),
    (set[int], [1]),
    (tuple[int, Line], (1,)),
    (tuple[int, Line], [1, Line("x")]),
    (tuple[int, ...], [1]),
    (list[int], (1,)),
    (list[int], [True]),
    (list[int], ["1"]),
    (list[int], [1.0]),
    (list[int], [2**64]),
    (list[bool], [1]),
    (list[str], [1]),
    (list[str], ["nul\0"]),
    (list[str], ["\ud800"]),
    (list[float], [math.nan]),
    (list[float | None], [math.nan]),
    (list[float], [True]),
    (list[datetime], [datetime(2026, 1, 1)]),
    (list[datetime], ["2026-01-01T00:00:00Z"]),
    (list[time], [time(1, tzinfo=UTC)]),
    (list[Color], ["red"]),
    (list[Literal["a"]], ["b"]),
    (dict[str, str], {"nul\0": "x"}),
    (dict[int, int], {"1": 1}),
    (dict, {1: 1}),
    (dict, {"a": {1: 1}}),
    (dict, {"a": (1, 2)}),
    (dict, {"a": {1, 2}}),
    (dict, {"a": math.inf}),
    (dict, {"a": -math.inf}),
    (dict, {"a": [math.nan]}),
    (dict, {"a": NOW}),
    (dict, {"a": Decimal(1)}),
    (dict, {"a": b"x"}),
    (dict, {"a": Line("x")}),
    (dict, {"a": object()}),
    (dict, {"a": UNLOADED}),
    (dict, {"a": "nul\0"}),
    (dict, {"a": "\\\0"}),
    (dict, {"a\ud800": 1}),
    (dict, []),
    (list, {}),
    (list, "text"),
]


@pytest.mark.parametrize(("annotation", "value"), REFUSED)
def test_what_a_column_cannot_hold_is_refused_by_name(annotation: Any, value: Any) -> None:
    for wanted in (annotation, annotation | None):
        with pytest.raises(EncodeError, match=r"Made\.value"):
            check(wanted, value)


def test_the_message_says_what_would_be_right_and_never_the_value() -> None:
    wrong: list[tuple[Any, Any, str]] = [
        (int, SECRET, "of type str; it must be an int"),
        (str, f"{SECRET}\0", "NUL"),
        (str, f"{SECRET}\ud800", "lone surrogate"),
        (Color, SECRET, "must be a Color"),
        (Literal["a", "b"], SECRET, "must be one of 'a', 'b'"),
        (dict[str, int], {SECRET: SECRET}, "Expected `int`, got `str`"),
        (list[Color], [SECRET], "must be a list of Color"),
        (Line, Line(SECRET, SECRET), "Expected `int`, got `str` at \\$.count"),  # type: ignore[arg-type]
        (dict, {SECRET: object()}, "JSON"),
        (list[Line], [SECRET], "of type str; it must be a Line"),
    ]
    for annotation, value, words in wrong:
        with pytest.raises(EncodeError, match=words) as caught:
            check(annotation, value)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_a_deep_or_endless_value_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (endless, deep):
        with pytest.raises(EncodeError, match=r"Made\.value"):
            check(list, value)


def test_none_is_refused_where_it_is_not_annotated() -> None:
    for annotation in (str, int, datetime, Color, dict, Line):
        check(annotation | None, None)
        with pytest.raises(EncodeError, match=r"Made\.value is None; it must be .*\| None") as caught:
            check(annotation, None)
        assert annotation.__name__ in str(caught.value)


HELD: list[tuple[Any, Any]] = [
    (str, ""),
    (str, "é\\u0000 💥\x7f"),
    (int, BIG - 1),
    (int, -BIG),
    (float, math.inf),
    (float, 5e-324),
    (datetime, datetime.min.replace(tzinfo=UTC)),
    (datetime, datetime.max.replace(tzinfo=UTC)),
    (Decimal, Decimal("Infinity")),
    (Decimal, Decimal("9" * 40 + "." + "9" * 40)),
    (timedelta, timedelta.max),
    (timedelta, timedelta.min),
    (dict, {"a": "\\u0000", "b": [None, 1, 1.5, True, {"c": {}}], "c": 1e300, "d": 2**64 - 1}),
    (dict, {"a": 2**64, "b": [-(10**30), {"c": 10**1000}]}),
    (list[int], [2**64 - 1, -(2**63)]),
    (list[int | str | None], [1, "1", None]),
    (Line, Line("x", 2, NOW, 1.5)),
    (dict[UUID, list[Decimal]], {UUID(int=5): [Decimal("1.10")]}),
]


@pytest.mark.parametrize(("annotation", "value"), HELD)
def test_what_a_column_can_hold_is_accepted_as_it_is(annotation: Any, value: Any) -> None:
    assert prepared(annotation, value) == value


@pytest.mark.parametrize(
    ("annotation", "value", "stored"),
    [
        (str, Text.A, "a"),
        (str, Tagged("x"), "x"),
        (int, Number.ONE, 1),
        (float, 3, 3.0),
        (float, Number.ONE, 1.0),
        (Literal["a"], Text.A, "a"),
        (datetime, Frozen(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
        (date, type("Day", (date,), {})(2026, 1, 1), date(2026, 1, 1)),
        (timedelta, type("Span", (timedelta,), {})(1), timedelta(1)),
        (bytes, type("Octets", (bytes,), {})(b"x"), b"x"),
        (list[str], [Text.A], ["a"]),
        (list[float], [1], [1.0]),
        (dict, type("Ordered", (dict,), {})(a=Text.A), {"a": "a"}),
    ],
)
def test_a_subclass_is_stored_as_its_plain_base(annotation: Any, value: Any, stored: Any) -> None:
    found = prepared(annotation, value)
    assert found == stored and type(found) is type(stored)
    if isinstance(stored, list):
        assert type(found[0]) is type(stored[0])


def test_times_are_stored_in_utc_and_stay_equal() -> None:
    there = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    found = prepared(datetime, there)
    assert found == there and found.tzinfo is UTC
    nested = prepared(list[datetime], [there])
    assert nested == [there] and nested[0].tzinfo is UTC


def test_the_hour_that_comes_twice_can_be_stored() -> None:
    # Python calls such a time unequal to the same instant in any other zone (PEP 495).
    twice = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    instant = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert prepared(datetime, twice) == instant
    assert prepared(list[datetime], [twice]) == [instant]
    assert prepared(Line, Line("x", sold=twice)) == Line("x", sold=instant)


def test_unloaded_is_accepted_everywhere_and_no_key() -> None:
    for annotation in (str, int, Color, dict, Line, datetime | None):
        assert prepared(annotation, UNLOADED) is UNLOADED
    with pytest.raises(EncodeError, match="a key of Made"):
        compile_model(model_of(str)).key_text(UNLOADED)


def test_an_empty_key_is_missing_and_zero_is_a_key() -> None:
    model = model_of(str)
    with pytest.raises(MissingPrimaryKeyError, match=r"Made\.id"):
        compile_model(model).check(model("", "x"))
    with pytest.raises(EncodeError, match=r"Made\.id"):
        compile_model(model).check(model(None, "x"))
    numbered = make_dataclass("Numbered", [("id", Annotated[int, PrimaryKey])])
    compile_model(numbered).check(numbered(0))


@dataclass
class Stamped:
    id: Annotated[str, PrimaryKey]
    made: Annotated[datetime, AutoNowAdd] = None  # type: ignore[assignment]
    seen: Annotated[datetime | None, AutoNow] = None
    scratch: Annotated[Any, Ignore] = field(default=None, init=False)


def test_what_is_overwritten_or_ignored_is_not_checked() -> None:
    record = Stamped("a", "garbage", 5)  # type: ignore[arg-type]
    record.scratch = object()
    compile_model(Stamped).check(record)


def test_a_record_of_another_class_is_refused() -> None:
    class Child(Stamped):
        pass

    for record in (Child("a"), Line("x"), {"id": "a"}, None, Stamped):
        with pytest.raises(EncodeError, match="must be a Stamped"):
            compile_model(Stamped).check(record)


def test_a_field_that_was_never_set_is_refused() -> None:
    @dataclass
    class Late:
        id: Annotated[str, PrimaryKey]
        late: int = field(init=False)

    with pytest.raises(EncodeError, match=r"Late\.late was never set"):
        compile_model(Late).check(Late("a"))
    record = replace(Line("x"))
    del record.product
    with pytest.raises(EncodeError, match=r"Made\.value"):
        check(Line, record)
