"""The codecs keep records whole, readable, and away from their constructors."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID
from zlib import compress, decompress

import msgspec
import pytest

from strata.codec import JSON, MsgPack
from strata.contracts import Codec
from strata.errors import DecodeError, EncodeError
from strata.model import UNLOADED, Default, Encrypted, Ignore, OmitCache, OmitL1, PrimaryKey, compile_model

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
SECRET = "hunter2"
CODECS = [JSON(), MsgPack()]


class Color(enum.Enum):
    RED = "red"


@dataclass
class Line:
    product: str
    price: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        assert self.product != "sealed", "a constructor ran"


@dataclass
class Order:
    id: Annotated[UUID, PrimaryKey]
    color: Color = Color.RED
    size: Literal["s", "m"] = "s"
    weight: float = 1.0
    rate: float | None = None
    at: datetime = NOW
    day: date = date(2026, 1, 2)
    hour: time = time(1, 2, 3)
    span: timedelta = timedelta(days=1, microseconds=5)
    photo: bytes = b"\0\xff"
    total: Decimal = Decimal("1.10")
    tags: set[str] = field(default_factory=set)
    lines: list[Line] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    token: Annotated[str | None, Encrypted] = None
    secret: Annotated[str | None, OmitCache] = None
    text: Annotated[str | None, OmitL1] = None
    level: Annotated[int, Default(1)] = 1
    scratch: Annotated[list[int], Ignore] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.level != 99, "a constructor ran"


FULL = Order(
    UUID(int=7),
    weight=math.inf,
    rate=-math.inf,
    tags={"a", "b"},
    lines=[Line("x"), Line("y", Decimal("2.50"))],
    data={"a": [1, 1.5, None, {"b": "c"}]},
    token="t",
    secret=SECRET,
    text="long",
)
KEPT = replace(FULL, secret=UNLOADED)


@pytest.fixture(params=CODECS, ids=repr)
def codec(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_codec_is_a_codec(codec: Any) -> None:
    assert isinstance(codec, Codec)
    assert codec == type(codec)() and hash(codec) == hash(type(codec)())
    assert JSON() != MsgPack()


def test_a_record_comes_back_equal_without_what_l2_never_keeps(codec: Any) -> None:
    data = codec.encode(FULL, Order)
    assert SECRET.encode() not in data
    back = codec.decode(data, Order)
    assert back == KEPT
    assert type(back) is Order and back.secret is UNLOADED and back.at.tzinfo is UTC
    plan = compile_model(Order)
    assert plan.decoder(codec)(plan.encoder(codec)(FULL)) == KEPT


def test_no_constructor_runs_on_reading(codec: Any) -> None:
    record = replace(FULL)
    record.level = 99
    record.lines = [Line("x")]
    record.lines[0].product = "sealed"
    back = codec.decode(codec.encode(record, Order), Order)
    assert (back.level, back.lines[0].product) == (99, "sealed")


def test_infinities_and_nan_survive(codec: Any) -> None:
    for value in (math.inf, -math.inf, 0.0, -0.0, 5e-324, 1e308):
        back = codec.decode(codec.encode(replace(FULL, weight=value, rate=value), Order), Order)
        assert (back.weight, back.rate) == (value, value) and type(back.rate) is float
        assert math.copysign(1, back.weight) == math.copysign(1, value)
    back = codec.decode(codec.encode(replace(FULL, weight=math.nan, rate=None), Order), Order)
    assert math.isnan(back.weight) and back.rate is None


def test_unloaded_fields_are_left_out_and_only_those_that_l2_omits_come_back(codec: Any) -> None:
    assert codec.decode(codec.encode(replace(FULL, secret=UNLOADED), Order), Order) == KEPT
    partial = codec.encode(replace(FULL, weight=UNLOADED, data=UNLOADED, text=UNLOADED), Order)
    for name in (b"weight", b"data", b"text"):
        assert name not in partial
    with pytest.raises(DecodeError, match="weight"):
        codec.decode(partial, Order)


def test_a_column_of_a_newer_version_is_passed_over(codec: Any) -> None:
    @dataclass
    class Old:
        id: Annotated[UUID, PrimaryKey]
        color: Color

    assert codec.decode(codec.encode(FULL, Order), Old) == Old(UUID(int=7), Color.RED)
    with pytest.raises(DecodeError):
        codec.decode(codec.encode(Old(UUID(int=7), Color.RED), Old), Order)


def test_json_is_a_plain_object_that_a_person_can_read() -> None:
    read = json.loads(JSON().encode(replace(FULL, tags={"a"}), Order))
    assert read == {
        "id": str(UUID(int=7)),
        "color": "red",
        "size": "s",
        "weight": "Infinity",
        "rate": "-Infinity",
        "at": "2026-01-02T03:04:05.000006Z",
        "day": "2026-01-02",
        "hour": "01:02:03",
        "span": "P1DT0.000005S",
        "photo": "AP8=",
        "total": "1.10",
        "tags": ["a"],
        "lines": [{"product": "x", "price": "1"}, {"product": "y", "price": "2.50"}],
        "data": {"a": [1, 1.5, None, {"b": "c"}]},
        "token": "t",
        "text": "long",
        "level": 1,
    }


def test_msgpack_is_a_map_and_shorter() -> None:
    data = MsgPack().encode(FULL, Order)
    assert msgspec.msgpack.decode(data)["color"] == "red"
    assert len(data) < len(JSON().encode(FULL, Order))


@pytest.mark.parametrize("wrong", [b"", b"\xff", b"garbage", b"[]", b"{}", b"null", b'{"id": "hunter2"}', b"\xc1"])
def test_garbage_is_a_decode_error_without_a_value(codec: Any, wrong: bytes) -> None:
    with pytest.raises(DecodeError, match="Order") as caught:
        codec.decode(wrong, Order)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_a_damaged_or_foreign_value_is_a_decode_error_that_names_its_place(codec: Any) -> None:
    module: Any = msgspec.json if isinstance(codec, JSON) else msgspec.msgpack
    good = module.decode(codec.encode(FULL, Order))
    wrong: list[tuple[str, Any]] = [
        ("level", SECRET),
        ("color", SECRET),
        ("weight", SECRET),
        ("at", "2026-01-01T00:00:00"),
    ]
    wrong += [("lines", [{"product": 5}]), ("level", None), ("tags", "x"), ("size", "xl"), ("photo", 5)]
    for name, value in wrong:
        with pytest.raises(DecodeError, match=name) as caught:
            codec.decode(module.encode(good | {name: value}), Order)
        assert SECRET not in str(caught.value)
    data = codec.encode(FULL, Order)
    for cut in range(0, len(data), 7):
        with pytest.raises(DecodeError):
            codec.decode(data[:cut], Order)


def test_what_cannot_be_encoded_is_an_encode_error_without_the_value(codec: Any) -> None:
    value: Any
    for value in (object(), f"{SECRET}\ud800"):
        with pytest.raises(EncodeError, match="Order") as caught:
            codec.encode(replace(FULL, text=value), Order)
        assert SECRET not in str(caught.value)


class Zipped(JSON):
    """What a user may derive from a codec of ours."""

    def encode(self, record: Any, model: type[Any]) -> bytes:
        return compress(super().encode(record, model))

    def decode(self, data: bytes, model: type[Any]) -> Any:
        return super().decode(decompress(data), model)


class Foreign:
    """A codec of a user's own."""

    def encode(self, record: Any, model: type[Any]) -> bytes:
        assert model is Order
        return repr(record.level).encode()

    def decode(self, data: bytes, model: type[Any]) -> Any:
        return Order(UUID(int=7), level=int(data)) if data != b"5" else Line("x")


def test_a_plan_uses_what_a_user_plugged_in() -> None:
    plan = compile_model(Order)
    zipped = plan.encoder(Zipped())(FULL)
    assert decompress(zipped) == JSON().encode(FULL, Order)
    assert plan.decoder(Zipped())(zipped) == KEPT
    assert plan.encoder(Foreign())(FULL) == b"1"
    assert plan.decoder(Foreign())(b"3").level == 3
    with pytest.raises(DecodeError, match="gave a Line"):
        plan.decoder(Foreign())(b"5")
