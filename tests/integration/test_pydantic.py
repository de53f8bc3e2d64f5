"""pydantic models through every tier, mode and codec: what is written is validated, what is read is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, PrivateAttr, computed_field, field_validator

import strata
from strata import (
    JSON,
    UNLOADED,
    Codec,
    ConflictError,
    DataStore,
    EncodeError,
    MsgPack,
    Q,
    SchemaHooks,
    TxFailedError,
    WriteMode,
)
from strata.testing import inspect
from tests.behind import run
from tests.stores import MakeStore, schema

SLOW = {"write_behind_flush_interval": 3600.0, "write_behind_flush_threshold": 10**9}
CODECS: dict[str, Codec] = {"json": JSON(), "msgpack": MsgPack()}
SECRET = "hunter2"
calls: list[str] = []


class Item(BaseModel):
    name: str
    pieces: Annotated[int, Field(ge=1, alias="n")] = 1


class Player(BaseModel):
    id: Annotated[str, strata.PrimaryKey]
    email: Annotated[str, strata.Indexed, Field(alias="eMail", max_length=20)]
    level: PositiveInt = 1
    items: list[Item] = []
    token: Annotated[str | None, strata.Encrypted] = None
    text: Annotated[str | None, strata.OmitL1] = None
    history: Annotated[list[str], strata.OmitCache] = []
    made: Annotated[datetime | None, strata.AutoNowAdd] = None
    seen: Annotated[datetime | None, strata.AutoNow] = None
    _visits: int = PrivateAttr(default=0)

    @field_validator("email")
    @classmethod
    def lower(cls, email: str) -> str:
        calls.append(email)
        return email.lower()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def rank(self) -> int:
        return self.level * 10


def player(key: str = "a", **fields: Any) -> Player:
    given = {"id": key, "eMail": "A@B", "items": [Item.model_validate({"name": "x", "n": 2})], "token": "t"}
    return Player.model_validate(given | {"text": "long", "history": ["h"]} | fields)


def told(record: Player, **fields: Any) -> dict[str, Any]:
    """The fields of a record, without its stamps."""
    held = {name: getattr(record, name) for name in Player.model_fields if name not in ("made", "seen")}
    return held | fields


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]


@pytest.fixture(params=list(WriteMode), ids=lambda mode: mode.value)
def pair(request: pytest.FixtureRequest, make: MakeStore, codec: Codec) -> tuple[DataStore, DataStore]:
    """Two instances of one application."""
    made = []
    for _ in range(2):
        made.append(make(codec=codec, encryption_key=b"k" * 32, **SLOW))
        made[-1].register(schema(Player, name="players", write_mode=request.param))
    made[0].migrate()
    return made[0], made[1]


def test_what_the_validators_return_is_in_every_tier_and_nothing_of_them_runs_on_a_read(
    pair: tuple[DataStore, DataStore],
) -> None:
    one = pair[0]
    given = player()
    stored = one.set("players", "a", given)
    assert told(stored) == told(given) and stored.email == "a@b"
    assert stored.made is not None and stored.seen is not None
    one.flush_dirty()
    calls.clear()
    for store in pair:
        inspect(store).schemas["players"].l1.clear()
        kept = {"history": UNLOADED}
        full = store.get("players", "a", force_l3=True)
        assert told(full) == told(given) and full.model_fields_set == set(Player.model_fields)
        assert told(store.get("players", "a", force_l2=True)) == told(given, **kept)
        for _ in range(2):
            found = store.get("players", "a")
            assert told(found) | {"text": None} == told(given, text=None, **kept)
            assert (type(found), found.rank, found._visits) == (Player, 10, 0)
            assert found.model_fields_set == set(Player.model_fields) - set(inspect_unloaded(found))
        assert told(store.get_many("players", ["a"])["a"]) | {"text": None} == told(given, text=None, **kept)
        assert told(store.search("players")[0]) == told(given)
        assert told(store.search_cached("players")[0], history=None) == told(given, history=None)
    assert calls == []


def inspect_unloaded(record: Any) -> list[str]:
    return [name for name in type(record).model_fields if getattr(record, name) is UNLOADED]


def test_what_breaks_a_rule_is_written_by_no_call(pair: tuple[DataStore, DataStore]) -> None:
    one = pair[0]
    one.set("players", "a", player())
    one.flush_dirty()
    changed = one.get("players", "a", force_l3=True)
    changed.level = -1
    nested = player()
    nested.items[0].pieces = 0
    built = Player.model_construct(id="a", email=SECRET * 5)

    def transact(record: Player) -> None:
        with one.tx() as tx:
            tx.set("players", "a", record)

    writes: list[Callable[[Player], Any]] = [
        lambda record: one.set("players", "a", record),
        lambda record: one.set_many("players", {"b": player("b"), "a": record}),
        lambda record: one.insert("players", record),
        lambda record: one.modify("players", "a", lambda held: record),
        transact,
    ]
    for record, field in ((changed, "Player.level"), (nested, "Item.pieces"), (built, "Player.email")):
        for write in writes:
            with pytest.raises((EncodeError, TxFailedError)) as raised:
                write(record)
            assert field in str(raised.value) and SECRET not in str(raised.value)
            assert raised.value.__cause__ is None
    for fields, field in (({"level": 0}, "Player.level"), ({"email": SECRET * 5}, "Player.email")):
        with pytest.raises(EncodeError, match=field) as raised:
            one.update("players", "a", **fields)
        assert SECRET not in str(raised.value)
    if not inspect(one).schemas["players"].deferred:  # what is added meets only in L3
        with pytest.raises(EncodeError, match=r"Player\.level"):
            one.increment("players", "a", level=-5)
        with pytest.raises(EncodeError, match=r"Player\.level"):
            one.increment("players", "b", level=-5, default=player("b"))
    one.flush_dirty()
    for store in pair:
        assert told(store.get("players", "a", force_l3=True)) == told(player())
        assert store.count("players") == 1


def test_every_call_that_writes_stores_what_the_validators_return(pair: tuple[DataStore, DataStore]) -> None:
    one, other = pair
    raw = player("b").model_copy(update={"email": "C@D", "items": [{"name": "y", "n": 3}]})
    assert one.insert("players", player("a").model_copy(update={"email": "X@Y"})).email == "x@y"
    assert one.set_many("players", {"b": raw})["b"].items == [Item.model_validate({"name": "y", "n": 3})]
    with one.tx() as tx:
        tx.set("players", "c", raw.model_copy(update={"id": "c"}))
    one.modify("players", "c", lambda held: held.model_copy(update={"email": "M@N"}))
    one.update("players", "a", email="U@V", level=5)
    one.flush_dirty()
    found = {key: other.get("players", key, force_l3=True) for key in "abc"}
    assert {key: record.email for key, record in found.items()} == {"a": "u@v", "b": "c@d", "c": "m@n"}
    assert (found["a"].level, found["a"].history, found["c"].items[0].pieces) == (5, ["h"], 3)
    assert one.update("players", "a", expect={"email": "U@V"}, level=6).level == 6
    with pytest.raises(ConflictError):
        one.update("players", "a", expect={"level": 5}, email="z")


def test_a_record_in_part_keeps_what_it_does_not_hold(make: MakeStore, codec: Codec) -> None:
    store = make(codec=codec, encryption_key=b"k" * 32)
    players = store.register(schema(Player, name="players"))
    store.migrate()
    players.set("a", player())
    part = players.search(Q().fields("id", "level"))[0]
    assert (part.id, part.level, part.email, part.items) == ("a", 1, UNLOADED, UNLOADED)
    assert part.model_fields_set == {"id", "level"}
    part.level = 7
    players.set("a", part)
    assert told(players.get("a", force_l3=True)) == told(player(), level=7)
    part.level = 0
    with pytest.raises(EncodeError, match=r"Player\.level"):
        players.set("a", part)
    kept = players.get("a")  # without what L1 does not keep
    assert kept.history is UNLOADED
    players.set("a", kept.model_copy(update={"email": "N@O"}))
    assert told(players.get("a", force_l3=True)) == told(player(), level=7, email="n@o")


def test_a_row_that_others_left_is_read_though_it_breaks_a_rule_and_is_not_written_back(
    make: MakeStore, dsn: str, codec: Codec
) -> None:
    store = make(codec=codec, encryption_key=b"k" * 32)
    players = store.register(schema(Player, name="players"))
    store.migrate()
    players.set("a", player())
    run(dsn, """UPDATE players SET level = -5, items = '[{"name": "z", "pieces": -7}]'""")
    players.invalidate("a")
    for found in (players.get("a"), players.get("a"), players.get("a", force_l2=True)):
        assert (found.level, found.items[0].pieces, type(found.items[0])) == (-5, -7, Item)
    with pytest.raises(EncodeError, match=r"Item\.pieces"):
        players.set("a", players.get("a", force_l3=True))
    players.update("a", items=[])
    with pytest.raises(EncodeError, match=r"Player\.level"):
        players.set("a", players.get("a", force_l3=True))
    assert players.update("a", level=1).level == 1


def test_what_a_hook_gives_is_validated(make: MakeStore) -> None:
    store = make(encryption_key=b"k" * 32)

    def doubled(record: Player) -> Player:
        record.level *= -2
        return record

    players = store.register(schema(Player, name="players", hooks=SchemaHooks(before_set=doubled)))
    store.migrate()
    with pytest.raises(EncodeError, match=r"Player\.level"):
        players.set("a", player())


class Point(BaseModel):
    model_config = ConfigDict(frozen=True)
    id: Annotated[int, strata.PrimaryKey]
    x: float = 0


def test_a_frozen_model_is_shared_and_others_are_their_holder_s_own(make: MakeStore) -> None:
    store = make(encryption_key=b"k" * 32)
    points, players = store.register(schema(Point)), store.register(schema(Player, name="players"))
    store.migrate()
    points.set(1, Point(id=1))
    assert points.get(1) is points.get(1) and points.get(1) == Point(id=1)
    players.set("a", player())
    found = players.get("a")
    found.items[0].pieces = 50
    found.items.clear()
    found.model_fields_set.clear()
    again = players.get("a")
    assert again.items == player().items and again.model_fields_set >= {"id", "items"}


def test_a_field_that_is_added_has_its_default_in_the_table(make: MakeStore, dsn: str) -> None:
    old = pydantic.create_model("Growing", id=(Annotated[int, strata.PrimaryKey], ...))
    new = pydantic.create_model("Growing", __base__=old, level=(PositiveInt, 3), item=(Item, Item(name="d")))
    store = make()
    store.register(schema(old))
    store.migrate()
    store.set(old, 1, old.model_validate({"id": 1}))
    later = make()
    later.register(schema(new))
    later.migrate()
    run(dsn, "INSERT INTO growing (id) VALUES (2)")
    assert later.get_many(new, [1, 2]) == {key: new.model_validate({"id": key}) for key in (1, 2)}


class Plain(BaseModel):
    id: Annotated[int, strata.PrimaryKey]
    email: str = Field(pattern="@")
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("tiers", [{"l1": strata.MemPolicy()}, {"l2": strata.RedisPolicy()}], ids=["L1", "L2"])
def test_without_rows_the_fields_of_an_update_are_validated_by_themselves(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    store = make()
    plain = store.register(strata.Schema(Plain, **tiers))
    plain.insert(Plain(id=1, email="a@b"))
    assert plain.update(1, email="c@d") == Plain(id=1, email="c@d") == plain.get(1)
    with pytest.raises(EncodeError, match=r"Plain\.email"):
        plain.update(1, email="nobody")
    with pytest.raises(EncodeError, match=r"Plain\.email"):
        plain.modify(1, lambda held: held.model_copy(update={"email": "nobody"}))
    assert plain.get(1).email == "c@d"
