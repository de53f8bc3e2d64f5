"""Rows are what psycopg takes and gives, and as bytes what the ledger holds."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from strata.codec import JSON, MsgPack
from strata.errors import DecodeError, EncodeError
from strata.model import UNLOADED, AutoNow, Encrypted, OmitCache, PrimaryKey, UnknownColumnError, compile_model

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SECRET = "hunter2"


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Line:
    product: str
    at: datetime | None = None


@dataclass
class Order:
    id: Annotated[UUID, PrimaryKey]
    color: Color
    level: Level | None
    size: Literal["s", "m"]
    step: Literal[1, 2]
    lines: list[Line]
    total: Decimal
    data: dict[str, Any] = field(default_factory=dict)
    photo: bytes | None = None
    weight: float = 0.0
    ready: bool = False
    seen: Annotated[datetime | None, AutoNow] = None


ORDER = Order(UUID(int=7), Color.RED, Level.LOW, "m", 2, [Line("x", NOW)], Decimal("1.10"), {"a": [1.0]}, b"\0", 1.5)
ROW = (
    UUID(int=7),
    "red",
    1,
    "m",
    2,
    '[{"product":"x","at":"2026-01-02T00:00:00Z"}]',
    Decimal("1.10"),
    '{"a":[1.0]}',
    b"\0",
    1.5,
    False,
    None,
)
AS_READ = tuple(v.encode() if isinstance(v, str) and v[0] in "[{" else v for v in ROW)  # JSON as psycopg may give it
plan = compile_model(Order)


def test_a_row_holds_plain_values_in_the_order_of_the_columns() -> None:
    row = plan.to_row(ORDER, None)
    assert row == ROW
    assert [type(value) for value in row] == [type(value) for value in ROW]


def test_a_row_gives_the_record_back() -> None:
    assert plan.from_row(ROW, None) == ORDER
    assert plan.from_row(list(ROW), None) == ORDER
    assert plan.from_row(AS_READ, None) == ORDER


def test_times_of_a_row_come_back_in_utc() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=5)))
    seen = plan.from_row((*ROW[:-1], there), None).seen
    assert seen == NOW and seen is not None and seen.tzinfo is UTC


def test_a_row_of_some_columns_leaves_the_others_unloaded() -> None:
    back = plan.from_row(("red", UUID(int=7)), None, ("color", "id"))
    assert (back.id, back.color, back.lines, back.total) == (UUID(int=7), Color.RED, UNLOADED, UNLOADED)
    assert plan.to_row(back, None)[1:4] == ("red", UNLOADED, UNLOADED)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, SECRET),
        (1, SECRET),
        (1, None),
        (2, 9),
        (3, "xl"),
        (4, "2"),
        (5, SECRET),
        (5, '[{"product":5}]'),
        (5, 7),
        (6, 1.0),
        (7, "[]"),
        (7, '{"a":'),
        (8, SECRET),
        (9, "1"),
        (10, 1),
        (11, NOW.replace(tzinfo=None)),
        (11, 5),
    ],
)
def test_a_value_that_cannot_be_read_back_is_named_by_its_column(place: int, value: Any) -> None:
    with pytest.raises(DecodeError, match=rf"Order\.{plan.column_names[place]} ") as caught:
        plan.from_row((*ROW[:place], value, *ROW[place + 1 :]), None)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or not caught.value.__context__)


def test_a_row_of_another_width_or_with_an_unknown_column_is_refused() -> None:
    with pytest.raises(DecodeError, match="one for each column"):
        plan.from_row(ROW[1:], None)
    with pytest.raises(DecodeError, match="one for each column"):
        plan.from_row(ROW, None, ("id",))
    with pytest.raises(UnknownColumnError, match="'other'"):
        plan.from_row((1,), None, ("other",))


@pytest.mark.parametrize("value", [1e16, 1e22, 1e23, 1.2345678901234567e18, -1.5e300, 1.7e308, 5e-324, 1e-7, 0.1])
def test_a_large_float_stays_a_float_in_jsonb(value: float) -> None:
    @dataclass
    class Loose:
        id: Annotated[int, PrimaryKey]
        data: dict[str, Any]
        either: list[int | float]
        text: str = ""

    loose = compile_model(Loose)
    record = Loose(1, {"x 1e22 \\": value, '"1e5': "1e22", "n": [value, 1]}, [value, 1])
    row = loose.to_row(record, None)
    # PostgreSQL keeps JSON numbers as NUMERIC and writes them without an exponent.
    stored = tuple(_as_jsonb(item) if isinstance(item, str) and item[:1] in ("{", "[") else item for item in row)
    back = loose.from_row(stored, None)
    assert back == record
    assert type(back.either[0]) is float and type(back.data["n"][0]) is float and type(back.data["n"][1]) is int


def _as_jsonb(text: str) -> str:
    def written(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{written(k)}:{written(v)}" for k, v in sorted(value.items())) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(written, value)) + "]"
        if isinstance(value, Decimal):
            return format(value, "f")
        return msgspec.json.encode(value).decode()

    return written(msgspec.json.Decoder(float_hook=Decimal).decode(text))


class Reversing:
    """A cipher that one can see through."""

    def encrypt(self, column: str, key: str, plaintext: str) -> str:
        return f"{column}/{key}/{plaintext[::-1]}"

    def decrypt(self, column: str, key: str, text: str) -> str:
        assert text.startswith(f"{column}/{key}/")
        return text.rpartition("/")[2][::-1]


@dataclass
class Account:
    token: Annotated[str, Encrypted]
    id: Annotated[int, PrimaryKey]
    note: Annotated[str | None, Encrypted, OmitCache] = None


accounts = compile_model(Account)


def test_encrypted_columns_are_bound_to_column_and_key() -> None:
    row = accounts.to_row(Account("abc", 5, "x"), Reversing())
    assert row == ("token/5/cba", 5, "note/5/x")
    assert accounts.from_row(row, Reversing()) == Account("abc", 5, "x")
    assert accounts.to_row(Account(UNLOADED, 5), Reversing()) == (UNLOADED, 5, None)
    assert accounts.from_row((5, None), Reversing(), ("id", "note")) == Account(UNLOADED, 5, None)


def test_encrypted_columns_without_a_cipher_are_an_error_that_says_what_to_set() -> None:
    with pytest.raises(EncodeError, match=r"Account has Encrypted fields \(token, note\).*Config\.encryption_key"):
        accounts.to_row(Account(SECRET, 5), None)
    with pytest.raises(DecodeError, match=r"Account\.token.*Config\.encryption_key"):
        accounts.from_row(("token/5/cba", 5, None), None)


def test_encrypted_columns_are_not_read_without_their_key() -> None:
    with pytest.raises(DecodeError, match=r"Account\.token.*key"):
        accounts.from_row(("token/5/cba",), Reversing(), ("token",))


def test_a_packed_row_comes_back_exactly() -> None:
    names, values = plan.unpack_row(plan.pack_row(ROW))
    assert (names, values) == (plan.column_names, ROW)
    assert [type(value) for value in values] == [type(value) for value in ROW]


def test_a_packed_row_holds_only_what_was_loaded() -> None:
    partial = (*ROW[:2], *[UNLOADED] * 9, NOW)
    assert plan.unpack_row(plan.pack_row(partial)) == (("id", "color", "seen"), (*ROW[:2], NOW))
    assert plan.unpack_row(plan.pack_row((NOW, UUID(int=7)), ("seen", "id"))) == (("id", "seen"), (UUID(int=7), NOW))


def test_a_packed_row_is_plain_data_with_its_format_first() -> None:
    number, values = msgspec.msgpack.decode(plan.pack_row(ROW))
    assert number == 1
    assert values["color"] == "red" and list(values) == list(plan.column_names)


def test_a_packed_row_may_hold_json_as_the_database_gave_it() -> None:
    assert plan.from_row(plan.unpack_row(plan.pack_row(AS_READ))[1], None) == ORDER


@pytest.mark.parametrize(
    "data",
    [
        msgspec.msgpack.encode((2, {"id": str(UUID(int=7))})),
        msgspec.msgpack.encode((1, {"id": str(UUID(int=7)), "added": 5})),
    ],
)
def test_what_a_newer_process_wrote_is_told_apart(data: bytes) -> None:
    with pytest.raises(UnknownColumnError):
        plan.unpack_row(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        plan.pack_row(ROW)[:-1],
        plan.pack_row(ROW) + b"x",
        msgspec.msgpack.encode((1, {"weight": SECRET})),
        msgspec.msgpack.encode(5),
        msgspec.msgpack.encode({"id": 1}),
    ],
)
def test_damaged_bytes_are_a_decode_error_without_a_value(data: bytes) -> None:
    with pytest.raises(DecodeError, match="Order") as caught:
        plan.unpack_row(data)
    assert not isinstance(caught.value, UnknownColumnError)
    assert SECRET not in str(caught.value)


@dataclass
class Spot:
    x: int
    y: int = 2
    tags: list[str] = field(default_factory=lambda: ["new"])
    at: datetime | None = None


class Mark(msgspec.Struct):
    x: int
    when: datetime = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass
class Map:
    id: Annotated[str, PrimaryKey]
    spot: Spot
    marks: list[Mark] = field(default_factory=list)


@pytest.mark.parametrize("codec", [None, JSON(), MsgPack()], ids=["row", "json", "msgpack"])
def test_a_nested_field_that_was_added_since_gets_its_default(codec: Any) -> None:
    maps = compile_model(Map)
    old = {"id": "a", "spot": {"x": 1, "tags": ["old"]}, "marks": [{"x": 5}]}
    if codec is None:
        read = maps.from_row(("a", '{"x": 1, "tags": ["old"]}', '[{"x": 5}]'), None)
    else:
        data = msgspec.json.encode(old) if isinstance(codec, JSON) else msgspec.msgpack.encode(old)
        read = maps.decoder(codec)(data)
    assert read == Map("a", Spot(1, 2, ["old"]), [Mark(5)])
    assert maps.from_row(maps.to_row(read, None), None) == read
    assert maps.from_row(("a", '{"x": 1}', "[]"), None).spot.tags is not Spot(1).tags


def test_a_nested_field_without_a_default_must_be_there() -> None:
    with pytest.raises(DecodeError, match=r"Map\.spot"):
        compile_model(Map).from_row(("a", '{"y": 1}', "[]"), None)
    with pytest.raises(DecodeError, match="missing required field `x`"):
        compile_model(Map).decoder(JSON())(b'{"id": "a", "spot": {"y": 3}, "marks": []}')
