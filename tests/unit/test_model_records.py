"""Records are copied, frozen and thawed without their constructor, whatever kind of class they are."""

from __future__ import annotations

import abc
import enum
import functools
import gc
import sys
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

import msgspec
import pytest

from strata.model import (
    UNLOADED,
    AutoNow,
    AutoNowAdd,
    Ignore,
    ModelPlan,
    OmitCache,
    OmitL1,
    PrimaryKey,
    compile_model,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
T = TypeVar("T")
sealed = False


@pytest.fixture
def no_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no `__init__` and no `__post_init__` of the classes below may run."""
    monkeypatch.setattr(sys.modules[__name__], "sealed", True)


class Guarded:
    __slots__ = ()

    def __post_init__(self) -> None:
        assert not sealed, "a constructor ran"


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item(Guarded):
    name: str
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pair(Guarded):
    left: int
    right: tuple[str, ...]


class Piece(msgspec.Struct):
    name: str
    more: list[Piece] = []

    def __post_init__(self) -> None:
        assert not sealed, "a constructor ran"


@dataclass
class Plain(Guarded):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None


@dataclass(slots=True)
class Slots(Guarded):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None


@dataclass(frozen=True)
class Frozen(Guarded):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class FrozenSlots(Guarded):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None


@dataclass
class KeywordOnly(Guarded):
    id: Annotated[str, PrimaryKey]
    _: KW_ONLY
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None


@dataclass(frozen=True)
class WatchedBase:
    id: Annotated[str, PrimaryKey]

    def __init_subclass__(cls, **options: Any) -> None:
        assert not sealed, "a subclass was made"


@dataclass(frozen=True)
class Watched(Guarded, WatchedBase):
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None


@dataclass(frozen=True)
class Abstract(Guarded, abc.ABC):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None


@dataclass(frozen=True)
class Generics(Guarded, Generic[T]):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None


@dataclass
class Jealous(Guarded):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        assert not sealed, "an assignment was seen"
        object.__setattr__(self, name, value)


class Struct(msgspec.Struct):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None

    def __post_init__(self) -> None:
        assert not sealed, "a constructor ran"


class FrozenStruct(msgspec.Struct, frozen=True, kw_only=True, rename="upper", forbid_unknown_fields=True, tag="t"):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None

    def __post_init__(self) -> None:
        assert not sealed, "a constructor ran"


class QuietStruct(msgspec.Struct, gc=False, array_like=True, omit_defaults=True):
    id: Annotated[str, PrimaryKey]
    tags: list[str]
    items: dict[str, Item]
    late: int | None = None


class BaseStruct(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    items: dict[str, Item]
    late: int | None = None


class HeirStruct(BaseStruct, frozen=True, cache_hash=True, weakref=True):
    id: Annotated[str, PrimaryKey]
    tags: list[str]


MODELS = [Plain, Slots, Frozen, FrozenSlots, KeywordOnly, Watched, Abstract, Generics, Jealous]
MODELS += [Struct, FrozenStruct, QuietStruct, HeirStruct]


def made(model: Any) -> Any:
    return model(id="a", tags=["x"], items={"i": Item("n", ["t"])}, late=None)


def plan_of(model: Any) -> ModelPlan[Any]:
    plan = compile_model(model)
    record = made(model)
    plan.check(record)
    return plan


@pytest.mark.parametrize("model", MODELS)
def test_every_way_round_gives_an_equal_record_of_the_same_class(model: Any, request: pytest.FixtureRequest) -> None:
    plan, record = plan_of(model), made(model)
    request.getfixturevalue("no_constructor")
    row = plan.to_row(record, None)
    for back in (
        plan.prepare(record, NOW),
        plan.copy(record),
        plan.thaw(plan.freeze(record)),
        plan.merge(record, record),
        plan.from_row(row, None),
        plan.from_row(*_reversed(*plan.unpack_row(plan.pack_row(row)))),
    ):
        assert type(back) is model and back is not record
        assert back == record


def _reversed(names: tuple[str, ...], values: tuple[Any, ...]) -> tuple[Any, ...]:
    return values[::-1], None, names[::-1]


@pytest.mark.parametrize("model", MODELS)
def test_a_copy_shares_nothing_that_can_change(model: Any) -> None:
    plan, record = plan_of(model), made(model)
    frozen = plan.freeze(record)
    copies = [plan.prepare(record, NOW), plan.copy(record), plan.thaw(frozen), plan.merge(record, record)]
    record.tags.append("changed")
    record.items["i"].tags.append("changed")
    record.items["j"] = Item("changed")
    for back in [*copies, plan.thaw(frozen)]:
        assert back == made(model)
        back.tags.clear()
        back.items["i"].tags.clear()
    assert plan.thaw(frozen) == made(model)


@pytest.mark.parametrize("model", [Frozen, FrozenSlots, Abstract, FrozenStruct])
def test_a_frozen_record_stays_frozen(model: Any) -> None:
    plan = plan_of(model)
    back = plan.thaw(plan.freeze(made(model)))
    with pytest.raises(AttributeError):
        back.id = "other"


@dataclass
class Weird(Guarded):
    """Names that generated code could stumble over."""

    self: Annotated[str, PrimaryKey]
    cls: int = 1
    type: str = "t"
    record: int = 2
    o: int = 3
    U: int = 4
    v_o: int = 5
    x1: list[int] = field(default_factory=list)
    b0: int = 6
    now: Annotated[datetime | None, AutoNow] = None
    __private: int = 7
    datetime: int = 8
    values: int = 9
    isinstance: int = 10
    f0: int = 11


def test_field_names_do_not_clash_with_the_names_inside(no_constructor: None) -> None:
    plan = compile_model(Weird)
    assert "_Weird__private" in plan.column_names
    record = object.__new__(Weird)
    for name in plan.column_names:
        setattr(record, name, {"self": "k", "x1": [1], "type": "t", "now": NOW}.get(name, 1))
    plan.check(record)
    assert plan.prepare(record, NOW) == record
    assert plan.thaw(plan.freeze(record)) == record
    assert plan.from_row(plan.to_row(record, None), None) == record
    assert plan.unloaded(record) == ()


@dataclass
class Only:
    id: Annotated[int, PrimaryKey]


def test_a_key_alone_is_a_model() -> None:
    plan = compile_model(Only)
    record = Only(0)
    assert plan.thaw(plan.freeze(record)) == record
    assert plan.from_row(plan.to_row(record, None), None) == record
    assert plan.unpack_row(plan.pack_row((0,))) == (("id",), (0,))
    assert plan.unloaded(record) == ()


@dataclass
class Account:
    id: Annotated[str, PrimaryKey]
    name: str
    secret: Annotated[str | None, OmitCache] = None
    text: Annotated[list[str] | None, OmitL1] = None
    made: Annotated[datetime | None, AutoNowAdd] = None
    seen: Annotated[datetime | None, AutoNow] = None
    scratch: Annotated[list[int], Ignore] = field(default_factory=list)
    fixed: Annotated[int, Ignore] = 7


def test_prepare_stamps_and_resets_what_is_ignored() -> None:
    plan = compile_model(Account)
    yesterday = NOW - timedelta(days=1)
    given = Account("a", "n", made=yesterday, seen=yesterday, scratch=[1], fixed=9)
    stored = plan.prepare(given, NOW)
    assert (stored.made, stored.seen, stored.scratch, stored.fixed) == (NOW, NOW, [], 7)
    assert given == Account("a", "n", made=yesterday, seen=yesterday, scratch=[1], fixed=9)
    assert plan.prepare(given, NOW).scratch is not stored.scratch


def test_l1_keeps_neither_omit_cache_nor_omit_l1_nor_ignored_fields() -> None:
    plan = compile_model(Account)
    back = plan.thaw(plan.freeze(Account("a", "n", "s", ["t"], NOW, NOW, [1], 9)))
    assert back == Account("a", "n", UNLOADED, UNLOADED, NOW, NOW, [], 7)
    assert plan.unloaded(back) == ("secret", "text")
    assert "s" not in plan.freeze(Account("a", "n", "s"))


def test_l2_keeps_no_omit_cache_field() -> None:
    plan = compile_model(Account)
    record = Account("a", "n", "s", ["t"], NOW, NOW)
    assert plan.cached(record) == replace(record, secret=UNLOADED)
    assert record.secret == "s"
    full = compile_model(Plain)
    same = made(Plain)
    assert full.cached(same) is same


def test_unloaded_names_the_columns_that_are_missing() -> None:
    plan = compile_model(Account)
    assert plan.unloaded(Account("a", "n")) == ()
    assert plan.unloaded(Account("a", UNLOADED, None, UNLOADED)) == ("name", "text")


def test_unloaded_stays_unloaded_on_every_way() -> None:
    plan = compile_model(Account)
    partial = Account("a", UNLOADED, UNLOADED, UNLOADED, NOW, NOW)
    plan.check(partial)
    for back in (plan.prepare(partial, NOW), plan.copy(partial), plan.from_row(plan.to_row(partial, None), None)):
        assert set(plan.unloaded(back)) >= {"name", "secret", "text"}
    assert plan.thaw(plan.freeze(partial)).name is UNLOADED


def test_merge_takes_what_is_loaded_from_the_one_over_the_other() -> None:
    plan = compile_model(Account)
    base = Account("a", "old", "kept", ["kept"], NOW, NOW, [1])
    over = Account("a", "new", UNLOADED, UNLOADED, None, UNLOADED, [2])
    merged = plan.merge(base, over)
    assert merged == Account("a", "new", "kept", ["kept"], None, NOW, [])
    assert base.text == ["kept"]
    assert merged.text is not None
    merged.text.append("changed")
    assert base.text == ["kept"]


@dataclass(frozen=True)
class Point:
    id: Annotated[UUID, PrimaryKey]
    x: float
    at: datetime
    color: Color | None
    path: tuple[Pair, ...] = ()
    seen: frozenset[int] = frozenset()


def test_an_immutable_record_is_kept_as_it_is() -> None:
    plan = compile_model(Point)
    record = Point(UUID(int=1), 1.0, NOW, None, (Pair(1, ("a",)),))
    assert plan.immutable
    assert plan.freeze(record) is record and plan.thaw(record) is record and plan.copy(record) is record
    assert plan.prepare(record, NOW) == record


@pytest.mark.parametrize(
    "model",
    [
        dataclass(frozen=True)(type("A", (), {"__annotations__": {"id": Annotated[int, PrimaryKey], "v": list[int]}})),
        dataclass(frozen=True)(type("B", (), {"__annotations__": {"id": Annotated[int, PrimaryKey], "v": tuple}})),
        dataclass(frozen=True)(type("C", (), {"__annotations__": {"id": Annotated[int, PrimaryKey], "v": Item}})),
        dataclass()(type("D", (), {"__annotations__": {"id": Annotated[int, PrimaryKey], "v": int}})),
        dataclass(frozen=True)(
            type("E", (), {"__annotations__": {"id": Annotated[int, PrimaryKey], "v": Annotated[int, OmitL1]}})
        ),
        dataclass(frozen=True)(
            type("F", (), {"__annotations__": {"id": Annotated[int, PrimaryKey], "v": Annotated[int, Ignore]}, "v": 1})
        ),
    ],
)
def test_what_can_change_or_is_kept_in_part_is_not_immutable(model: Any) -> None:
    assert not compile_model(model).immutable


@dataclass(frozen=True)
class Text:
    id: Annotated[str, PrimaryKey]
    text: str

    @functools.cached_property
    def words(self) -> list[str]:
        return self.text.split()


@dataclass(frozen=True)
class Page:
    id: Annotated[str, PrimaryKey]
    text: Text


def test_what_a_frozen_record_computes_and_keeps_is_its_holders_own() -> None:
    plan = compile_model(Text)
    record = Text("a", "one two")
    frozen = plan.freeze(record)
    record.words.append("three")
    one, other = plan.thaw(frozen), plan.copy(record)
    one.words.append("four")
    assert (one.words, other.words, plan.thaw(frozen).words) == (["one", "two", "four"], ["one", "two"], ["one", "two"])
    assert plan.prepare(record, NOW).words == ["one", "two"]
    nested = compile_model(Page)
    page = nested.thaw(nested.freeze(Page("a", record)))
    assert page.text.words == ["one", "two"]
    assert nested.copy(page).text is not page.text


@dataclass
class Everything:
    id: Annotated[UUID, PrimaryKey]
    color: Color
    at: datetime
    day: date
    hour: time
    span: timedelta
    price: Decimal
    item: Item
    piece: Piece
    pairs: list[Pair]
    words: set[str]
    loose: dict[str, Any]


def test_the_collector_does_not_track_what_l1_keeps() -> None:
    plan = compile_model(Everything)
    record = Everything(
        UUID(int=5),
        Color.RED,
        NOW,
        date(2026, 1, 1),
        time(1),
        timedelta(1),
        Decimal("1.1"),
        Item("n"),
        Piece("p", [Piece("q")]),
        [Pair(1, ("a",))],
        {"a"},
        {"a": [1, {}]},
    )
    plan.check(record)
    frozen = plan.freeze(plan.prepare(record, NOW))
    gc.collect()
    assert not gc.is_tracked(frozen)
    assert not any(map(gc.is_tracked, frozen))
    assert plan.thaw(frozen) == record


def test_nested_records_come_back_without_their_constructor(no_constructor: None) -> None:
    plan = compile_model(Everything)
    row: tuple[Any, ...] = (
        UUID(int=5),
        "red",
        NOW,
        date.min,
        time(1),
        timedelta(1),
        Decimal(1),
        '{"name":"n","tags":[]}',
    )
    row += ('{"name":"p","more":[{"name":"q","more":[]}]}', '[{"left":1,"right":["a"]}]', '["a"]', b'{"a":1.0}')
    back = plan.from_row(row, None)
    assert type(back.item) is Item and type(back.piece.more[0]) is Piece and type(back.pairs[0]) is Pair
    assert back.piece.more[0].name == "q" and back.pairs[0].right == ("a",)
    assert plan.copy(back) == back


def test_records_that_hold_each_other_are_read() -> None:
    @dataclass
    class Leaf:
        branch: Branch | None

    @dataclass
    class Branch:
        leaves: dict[str, list[Leaf]]
        next: Branch | None = None

    @dataclass
    class Tree:
        id: Annotated[int, PrimaryKey]
        leaf: Leaf
        branch: Branch

    plan = compile_model(Tree)
    inner = Branch({"a": [Leaf(None), Leaf(Branch({}))]}, Branch({}))
    record = Tree(1, Leaf(inner), inner)
    plan.check(record)
    assert plan.copy(record) == record
    assert plan.from_row(plan.to_row(record, None), None) == record
    branch = plan.thaw(plan.freeze(record)).leaf.branch
    assert branch is not None and type(branch.leaves["a"][1].branch) is Branch
