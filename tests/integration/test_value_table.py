"""Each row of the documentation's table of values, through every tier and both codecs."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from math import inf, nan
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import pytest

import strata
from strata import DecodeError, EncodeError, MsgPack
from tests.behind import run
from tests.stores import MakeStore, schema
from tests.support import wait_until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models-and-types.md"


class Text(enum.StrEnum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


NAMES = {
    "Text": Text, "Number": Number, "UTC": UTC, "datetime": datetime, "time": time, "timedelta": timedelta,
    "Decimal": Decimal, "inf": inf, "nan": nan, "ZoneInfo": ZoneInfo, "EncodeError": EncodeError,
}  # fmt: skip


def table() -> list[tuple[str, ...]]:
    """The cells of the table, as they are written."""
    lines = PAGE.read_text().partition("| field | given |")[2].splitlines()[2:]
    return [tuple(cell.strip(" `") for cell in line.strip("|").split(" | ")) for line in lines[: lines.index("")]]


def shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"


def evaluated(text: str) -> Any:
    return eval(text, dict(NAMES))


@pytest.mark.parametrize("codec", [strata.JSON(), MsgPack()])
def test_what_the_table_says_is_what_comes_back(make: MakeStore, codec: Any) -> None:
    one, other = make(codec=codec), make(codec=codec)
    kinds = {kind: f"kind_{place}" for place, kind in enumerate(dict.fromkeys(row[0] for row in table()))}
    models = {
        kind: dataclasses.make_dataclass(name, [("id", Annotated[int, strata.PrimaryKey]), ("value", evaluated(kind))])
        for kind, name in kinds.items()
    }
    for store in (one, other):
        for kind, name in kinds.items():
            store.register(schema(models[kind], name=name))
    one.migrate()
    wrong = []
    for key, (kind, given, cached, row) in enumerate(table()):
        name, record = kinds[kind], models[kind](key, evaluated(given))
        if cached == "EncodeError":
            with contextlib.suppress(EncodeError):
                wrong.append((kind, given, "set", one.set(name, key, record)))
            continue
        there = {
            "set": one.set(name, key, record),
            "L1": one.get(name, key),
            "L2": other.get(name, key, force_l2=True),
            "L3": other.get(name, key, force_l3=True),
        }
        for tier, found in there.items():
            wanted = evaluated(row if tier == "L3" else cached)
            if shown(found.value) != shown(wanted):
                wrong.append((kind, given, tier, found.value))
        if "nan" not in row.lower() and there["L3"] != there["L2"]:
            wrong.append((kind, given, "equal", there))
    assert wrong == []
    assert len(table()) > 20


@dataclasses.dataclass
class Free:
    id: Annotated[int, strata.PrimaryKey]
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    typed: dict[str, int] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize("codec", [strata.JSON(), MsgPack()])
def test_numbers_that_others_left_in_jsonb_come_back_as_they_are(make: MakeStore, dsn: str, codec: Any) -> None:
    one, other = make(codec=codec), make(codec=codec)
    for store in (one, other):
        store.register(schema(Free))
    one.migrate()
    big = {"a": 123456789012345678901234567890, "b": [-(10**25), {"c": 10**400}], "d": 2**64 - 1}
    run(dsn, "INSERT INTO free VALUES (1, '{\"a\": 123456789012345678901234567890, \"b\": [-1e25, {\"c\": 1e400}],"
        " \"d\": 18446744073709551615}', '{}')")  # fmt: skip
    for _ in range(2):
        for store in (one, other):
            assert store.get(Free, 1).data == big
            assert store.get(Free, 1, force_l2=True).data == big
    assert one.get_many(Free, [1])[1].data == one.search(Free, strata.Q())[0].data == big
    one.set(Free, 1, dataclasses.replace(one.get(Free, 1), typed={"n": 1}))
    assert other.get(Free, 1, force_l3=True) == Free(1, big, {"n": 1})
    wait_until(lambda: other.get(Free, 1) == Free(1, big, {"n": 1}), what="the message")


@dataclasses.dataclass
class Span:
    id: Annotated[int, strata.PrimaryKey]
    length: timedelta = timedelta(0)


def test_an_interval_that_others_left_is_right_or_refused(make: MakeStore, dsn: str) -> None:
    one, other = make(), make()
    for store in (one, other):
        store.register(schema(Span))
    one.migrate()
    left = {
        "1 month": timedelta(30),
        "-1 year -1 month": timedelta(-395),
        "1 month -1 day 2.5 seconds": timedelta(29, 2.5),
        "2700000 years": timedelta(2_700_000 * 365),
        "178000000 years": None,  # more days than 32 bits count
        "-178000000 years": None,
        "2147483647 days": None,
    }
    for key, (text, value) in enumerate(left.items()):
        run(dsn, f"INSERT INTO span (id, length) VALUES ({key}, '{text}')")
        for store in (one, other):
            if value is not None:
                assert store.get(Span, key).length == store.get(Span, key, force_l3=True).length == value
                assert store.search(Span, strata.Q().where("id = $1", key)) == [Span(key, value)]
            else:
                with pytest.raises(DecodeError):
                    store.get(Span, key)


def test_what_no_field_can_hold_is_refused_when_it_is_read_and_when_it_is_set(make: MakeStore, dsn: str) -> None:
    store = make()
    store.register(schema(Free))
    store.migrate()
    deep = '{"a": ' * 900 + "1" + "}" * 900
    run(dsn, f"INSERT INTO free VALUES (1, '{{}}', '{{\"n\": 1e30}}'), (2, '{deep}', '{{}}'), (3, '{{}}', '[1]')")
    for key, field in ((1, "typed"), (2, "data"), (3, "typed")):
        for _ in range(2):
            with pytest.raises(DecodeError, match=f"Free.{field}") as raised:
                store.get(Free, key)
            assert raised.value.column == field
    assert (raised.value.schema, raised.value.key) == ("free", 3)
    nested: Any = 1
    for _ in range(501):
        nested = {"[{": nested}
    for record in (Free(4, nested), Free(4, {}, {"n": 2**64}), Free(4, {"a": 10**5000})):
        with pytest.raises(EncodeError):
            store.set(Free, 4, record)
    store.set(Free, 4, Free(4, nested["[{"]))
    assert store.get(Free, 4, force_l3=True) == Free(4, nested["[{"])
