"""Keys of several fields, in every tier, mode and operation: the id is the tuple, in the order of the fields."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, replace
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

import strata
from strata import Collection, MemPolicy, PostgresPolicy, Q, RedisPolicy, Schema, WriteMode
from tests.stores import MakeStore, sure

pytestmark = pytest.mark.both_faces

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
BEHIND = WriteMode.WRITE_BEHIND
TIERS: dict[str, dict[str, Any]] = {
    "through": {"l1": L1, "l2": L2, "l3": L3},
    "L1": {"l1": L1, "l2": None, "l3": None},
    "L2": {"l1": None, "l2": L2, "l3": None},
    "L1+L2": {"l1": L1, "l2": L2, "l3": None},
    "L1+L3": {"l1": L1, "l2": None, "l3": L3},
    "L2+L3": {"l1": None, "l2": L2, "l3": L3},
    "L3": {"l1": None, "l2": None, "l3": L3},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L2": {"l1": L1, "l2": None, "l3": L3, "write_mode": BEHIND},
}


@dataclass(kw_only=True)
class Line:
    """The key's fields are neither the first ones nor side by side."""

    amount: int = 0
    order: Annotated[str, strata.PrimaryKey]
    note: str = ""
    number: Annotated[int, strata.PrimaryKey]
    tags: list[str] | None = None


class Struct(msgspec.Struct, frozen=True, kw_only=True):
    order: Annotated[str, strata.PrimaryKey]
    number: Annotated[int, strata.PrimaryKey]
    amount: int = 0
    note: str = ""


class Validated(pydantic.BaseModel):
    amount: int = pydantic.Field(0, ge=0)
    order: Annotated[str, strata.PrimaryKey]
    number: Annotated[int, strata.PrimaryKey]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """Of every type that a key may have; two of its fields are texts, which meet at the slash."""

    team: Annotated[str, strata.PrimaryKey]
    name: Annotated[str, strata.PrimaryKey]
    number: Annotated[int, strata.PrimaryKey]
    card: Annotated[uuid.UUID, strata.PrimaryKey]
    role: str = ""


TEXTS = ["a", "b", "a/b", "/", "//", "~", "~0", "~1", "a~1b", "é 💥", "null", "0", " ", ":{}", "\\", '"', "%", "a\nb"]
KEYS = [(text, number) for text in TEXTS for number in (0, 1, -1, 2**63 - 1)]


@pytest.fixture(params=TIERS)
def tiers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TIERS[request.param]


def lines_of(make: MakeStore, tiers: dict[str, Any], model: Any = Line, **options: Any) -> Collection[Any]:
    store = make(**options.pop("config", {}))
    lines = store.register(Schema(model, name="lines", **(tiers | options)))
    if tiers["l3"] is not None:
        store.migrate()
    if tiers["l2"] is not None:
        sure(store)
    return lines


@pytest.mark.parametrize("model", [Line, Struct, Validated])
def test_records_are_kept_and_found_by_their_tuple(make: MakeStore, tiers: dict[str, Any], model: Any) -> None:
    lines = lines_of(make, tiers, model)
    given = {key: model(order=key[0], number=key[1], note=repr(key)) for key in KEYS}
    for key, line in given.items():
        assert lines.set(key, line) == line
    for _ in range(2):
        assert {key: lines.get(key) for key in KEYS} == given
        assert lines.get_many(KEYS) == given
        lines.invalidate_many(KEYS)
    if tiers["l2"] is not None:
        assert {key: lines.get(key, force_l2=True) for key in KEYS} == given
    if tiers["l3"] is not None:
        lines._store.flush_dirty()
        assert {key: lines.get(key, force_l3=True) for key in KEYS} == given
    lines.delete_many(KEYS[::2])
    assert lines.get_many(KEYS) == {key: given[key] for key in KEYS[1::2]}
    assert not any(lines.exists(key) for key in KEYS[::2])
    assert all(lines.exists(key) for key in KEYS[1::2])


@pytest.mark.parametrize("seed", range(3))
def test_every_operation_does_what_it_does_to_a_dict(make: MakeStore, tiers: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    lines = lines_of(make, tiers)
    expected: Expected = {}
    keys = rng.sample(KEYS, 6)
    for turn in range(120):
        key, step = rng.choice(keys), STEPS[rng.randrange(len(STEPS))]
        step(lines, expected, key, turn)
        assert lines.get_many(keys) == expected
    if tiers["l3"] is not None:
        lines._store.flush_dirty()
        query = Q().where("amount >= $1", 0).order_by("order").desc().build()
        found = {(line.order, line.number): line for line in lines.search(query)}
        assert found == expected
        assert lines.count(query) == len(expected)


Expected = dict[Any, Line]


def line(key: Any, turn: int) -> Line:
    return Line(order=key[0], number=key[1], amount=turn, note=f"turn {turn}", tags=["a"] * (turn % 3))


def set_(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    expected[key] = lines.set(key, line(key, turn))


def set_many(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    others = [*expected][:3]
    expected |= lines.set_many({other: line(other, turn) for other in dict.fromkeys([*others, key])})


def delete(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    lines.delete(key)
    expected.pop(key, None)


def insert(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    if key in expected:
        with pytest.raises(strata.AlreadyExistsError):
            lines.insert(line(key, turn))
    else:
        expected[key] = lines.insert(line(key, turn))


def update(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    if key in expected:
        lines.update(key, note=f"update {turn}")
        expected[key] = replace(expected[key], note=f"update {turn}")


def modify(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    if key in expected:
        expected[key] = lines.modify(key, lambda held: replace(held, amount=held.amount + 1, note="modified"))


def increment(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    added = lines.increment(key, default=line(key, turn), amount=10)
    held = expected.get(key, line(key, turn))
    expected[key] = replace(held, amount=held.amount + 10)
    assert added == expected[key]


def get_or_set(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    expected[key] = lines.get_or_set(key, lambda: line(key, turn))


def in_tx(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    with lines._store.tx() as tx:
        tx.set(lines.name, key, line(key, turn))
    expected[key] = line(key, turn)


def invalidate(lines: Collection[Line], expected: Expected, key: Any, turn: int) -> None:
    lines.invalidate(key)  # the lowest tier, and what is written behind, keep it


STEPS = [set_, set_many, delete, insert, update, modify, increment, get_or_set, in_tx, invalidate]
