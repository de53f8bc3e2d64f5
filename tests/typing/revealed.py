"""What mypy and pyright must reveal, and what they must refuse; checked, and run by nobody.

Both complain of an `ignore` that ignores nothing, so that each of them is a promise of an error.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any, assert_type
from uuid import UUID

import msgspec
import pydantic

from strata import (
    AsyncDataStore,
    Collection,
    Config,
    DataStore,
    Generated,
    Job,
    Key,
    L3PoolConfig,
    MemPolicy,
    MigrationReport,
    Page,
    PrimaryKey,
    Q,
    Record,
    Schema,
    SchemaHooks,
    SchemaRef,
    Tx,
    WriteBehindMaxRetryError,
    loaded,
    whole,
)
from tests.models import Player


class Visit(msgspec.Struct):
    id: Annotated[UUID, PrimaryKey]


class Ticket(msgspec.Struct):
    id: Annotated[int | None, PrimaryKey, Generated] = None


class Badge(pydantic.BaseModel):
    id: Annotated[str, PrimaryKey]
    level: pydantic.PositiveInt = 1


andrew = Player("p1", "a")
visit = Visit(UUID(int=1))


def by_class(ds: DataStore) -> None:
    assert_type(ds.get(Player, "p1"), Player)
    assert_type(ds.get(Player, "p1", default=None), Player | None)
    assert_type(ds.get(Player, "p1", default=0), Player | int)
    assert_type(ds.get(Visit, visit.id, force_l2=True), Visit)
    assert_type(ds.get(Player, "p1", whole=True), Player)
    assert_type(ds.get(Player, "p1", default=None, whole=True), Player | None)
    assert_type(ds.get_many(Player, ["p1"], whole=True), dict[str, Player])
    assert_type(ds.get_batch([(Player, "p1"), (Player, "p2")]), list[Player | None])
    assert_type(ds.get_batch([(Player, "p1")], default=0), list[Player | int])
    assert_type(ds.get_batch([("players", "p1")]), list[Any])
    assert_type(ds.prefetch([andrew], "team_id", Player), dict[Any, Player])
    assert_type(ds.prefetch([andrew], "team_id", "players"), dict[Any, Any])
    assert_type(loaded(ds.get(Player, "p1")), bool)
    assert_type(whole(ds.get(Player, "p1")), Player)
    assert_type(ds.get_many(Player, ["p1"]), dict[str, Player])
    assert_type(ds.get_many(Player, {UUID(int=1)}), dict[UUID, Player])
    assert_type(ds.get(Player, ("p1", 7)), Player)
    assert_type(ds.get_many(Player, [("p1", 7)]), dict[tuple[str, int], Player])
    assert_type(ds.set_many(Player, {("p1", UUID(int=1)): andrew}), dict[tuple[str, UUID], Player])
    assert_type(ds.get_batch([(Player, ("p1", 7))]), list[Player | None])
    assert_type(ds.prefetch([andrew], ("team_id", "level"), Player), dict[Any, Player])
    assert_type(ds.search(Player, Q()), list[Player])
    assert_type(ds.search_cached(Player, Q().build()), list[Player])
    assert_type(ds.search_page(Player, Q(), after=None), Page[Player])
    assert_type(ds.search_page(Player).records, list[Player])
    assert_type(ds.search_iter(Player), Iterator[Player])
    assert_type(ds.set(Player, "p1", andrew), Player)
    assert_type(ds.set_many(Player, {"p1": andrew}), dict[str, Player])
    assert_type(ds.insert(Player, andrew), Player)
    assert_type(ds.insert_many(Player, iter([andrew])), list[Player])
    assert_type(ds.insert(Ticket, Ticket()).id, int | None)  # as it was declared


def by_name(ds: DataStore) -> None:
    assert_type(ds.get("players", "p1"), Any)
    assert_type(ds.get_many("players", ["p1"]), dict[str, Any])
    assert_type(ds.search("players"), list[Any])
    assert_type(ds.search_page("players"), Page[Any])
    assert_type(ds.count("players"), int)
    assert_type(ds.update_where("players", Q(), level=2), int)
    assert_type(ds.delete_where("players", Q().build(), print), int)
    assert_type(ds.exists("players", "p1"), bool)
    assert_type(ds.set("players", "p1", andrew), Player)
    assert_type(ds.set("players", "p1", visit), Visit)
    assert_type(ds.set_many("players", {1: andrew}), dict[int, Player])
    assert_type(ds.insert_many("players", [andrew]), list[Any])


def by_handle(ds: DataStore) -> None:
    players = ds.register(Schema(Player, l1=MemPolicy()))
    assert_type(players, Collection[Player])
    assert_type(players.model, type[Player])
    assert_type(players.get("p1"), Player)
    assert_type(players.get("p1", default=None), Player | None)
    assert_type(players.get_many(["p1"]), dict[Any, Player])
    assert_type(players.search(), list[Player])
    assert_type(players.search_page(Q(), after="token"), Page[Player])
    assert_type(players.search_iter(), Iterator[Player])
    assert_type(players.update_where(Q(), print, level=2), int)
    assert_type(players.delete_where(Q()), int)
    assert_type(players.set("p1", andrew), Player)


async def awaited(ds: AsyncDataStore) -> None:
    assert_type(await ds.search_page(Player, Q()), Page[Player])
    assert_type(await ds.search_page("players"), Page[Any])
    assert_type(await ds.update_where(Player, Q(), None, level=2), int)
    assert_type(await ds.register(Schema(Player, l1=MemPolicy())).delete_where(Q()), int)
    assert_type(await ds.register(Schema(Player, l1=MemPolicy())).search_page(after=None), Page[Player])


def by_handle_whose_ids_are_known(ds: DataStore) -> None:
    players: Collection[Player, str] = ds.register(Schema(Player, l1=MemPolicy()))
    assert_type(players.get("p1"), Player)
    assert_type(players.get_many(["p1"]), dict[str, Player])
    assert_type(players.set_many({"p1": andrew}), dict[str, Player])
    seats: Collection[Player, tuple[str, int]] = ds.register(Schema(Player, name="seats", l1=MemPolicy()))
    assert_type(seats.get(("p1", 7)), Player)
    assert_type(seats.get_many([("p1", 7)]), dict[tuple[str, int], Player])
    seats.get(("p1", "p2"))  # type: ignore[arg-type]
    players.get(1)  # type: ignore[call-overload]
    players.get_many([1])  # type: ignore[list-item]
    players.set(1, andrew)  # type: ignore[arg-type]
    players.set_many({1: andrew})  # type: ignore[dict-item]
    players.delete(1)  # type: ignore[arg-type]
    players.delete_many([1])  # type: ignore[list-item]
    players.exists(1)  # type: ignore[arg-type]
    players.invalidate(1)  # type: ignore[arg-type]
    players.invalidate_many([1])  # type: ignore[list-item]
    players.invalidate_all()


def what_a_wrapper_may_say(ds: DataStore, schema: SchemaRef[Player], id: Key, record: Record) -> None:
    assert_type(ds.search(schema), list[Player] | list[Any])
    ds.delete(schema, id)
    ds.set("players", id, record)
    ds.tx().set("players", id, record).delete(schema, id).commit()


def what_is_neither_name_nor_class_is_refused(ds: DataStore) -> None:
    ds.get(3.14, "p1")  # type: ignore[call-overload]
    ds.get_many(None, ["p1"])  # type: ignore[call-overload]
    ds.set(andrew, "p1", andrew)  # type: ignore[call-overload]
    ds.set_many(andrew, {"p1": andrew})  # type: ignore[call-overload]
    ds.delete(3.14, object())  # type: ignore[arg-type]
    ds.delete_many(3.14, ["p1"])  # type: ignore[arg-type]
    ds.exists(3.14, "p1")  # type: ignore[arg-type]
    ds.count(3.14)  # type: ignore[arg-type]
    ds.search(3.14)  # type: ignore[call-overload]
    ds.search_cached(3.14)  # type: ignore[call-overload]
    ds.search_page(3.14)  # type: ignore[call-overload]
    ds.search_page(Player, after=b"token")  # type: ignore[call-overload]
    ds.search_iter(3.14)  # type: ignore[call-overload]
    ds.update_where(Player, None, level=2)  # type: ignore[arg-type]
    ds.delete_where(3.14, Q())  # type: ignore[arg-type]
    ds.delete_where(Player)  # type: ignore[call-arg]
    ds.invalidate(None, "p1")  # type: ignore[arg-type]
    ds.invalidate_many(None, ["p1"])  # type: ignore[arg-type]
    ds.invalidate_all(None)  # type: ignore[arg-type]
    ds.invalidate_tag(7)  # type: ignore[arg-type]
    ds.register(Schema(Player, l1=MemPolicy(), tags=lambda player: [player.username]))
    ds.register(Schema(Player, l1=MemPolicy(), tags=lambda player: [player.level]))  # type: ignore[list-item]
    ds.warm_cache(b"players")  # type: ignore[call-overload]
    ds.audit(42)  # type: ignore[arg-type]
    ds.rotate_keys(42)  # type: ignore[arg-type]
    ds.register(Player)  # type: ignore[arg-type]


def what_can_be_no_id_is_refused(ds: DataStore) -> None:
    ds.get(Player, None)  # type: ignore[call-overload]
    ds.get("players", 3.14)  # type: ignore[call-overload]
    ds.get("players", ("p1", 3.14))  # type: ignore[arg-type]
    ds.get("players", ["p1", 7])  # type: ignore[call-overload]
    ds.get_many(Player, [b"p1"])  # type: ignore[type-var]
    ds.set(Player, object(), andrew)  # type: ignore[call-overload]
    ds.set_many("players", {3.14: andrew})  # type: ignore[type-var]
    ds.delete(Player, object())  # type: ignore[arg-type]
    ds.delete_many(Player, [object()])  # type: ignore[list-item]
    ds.delete_many(Player, 1)  # type: ignore[arg-type]
    ds.exists("players", None)  # type: ignore[arg-type]
    ds.invalidate("players", 3.14)  # type: ignore[arg-type]


def what_is_no_record_is_refused(ds: DataStore) -> None:
    ds.set(Player, "p1", 42)  # type: ignore[call-overload]
    ds.set(Player, "p1", None)  # type: ignore[call-overload]
    ds.set_many(Player, {"p1": 42})  # type: ignore[type-var]
    ds.set("players", "p1", 42)  # type: ignore[call-overload]
    ds.set("players", "p1", None)  # type: ignore[call-overload]
    ds.set("players", "p1", {"id": "p1"})  # type: ignore[call-overload]
    ds.set_many("players", {"p1": 42})  # type: ignore[type-var]
    ds.tx().set(Player, "p1", 42)  # type: ignore[call-overload]
    ds.tx().set("players", "p1", 42)  # type: ignore[call-overload]
    ds.get(int, "p1")  # type: ignore[type-var]
    Schema(int)  # type: ignore[type-var]


def a_handle_refuses_the_records_of_another_class(ds: DataStore) -> None:
    """By class nothing does: a checker looks for what both have in common, and finds it. The store refuses them."""
    players = ds.register(Schema(Player, l1=MemPolicy()))
    players.set("p1", visit)  # type: ignore[arg-type]
    players.set_many({"p1": visit})  # type: ignore[dict-item]


def transactions(tx: Tx) -> None:
    assert_type(tx.set(Player, "p1", andrew).set("players", 1, visit).delete(Player, "p1"), Tx)
    tx.set(3.14, "p1", andrew)  # type: ignore[call-overload]
    tx.delete(Player, None)  # type: ignore[arg-type]
    tx.delete(3.14, "p1")  # type: ignore[arg-type]


def what_is_made_where_it_is_missing(ds: DataStore) -> None:
    players: Collection[Player, str] = ds.register(Schema(Player, l1=MemPolicy()))
    assert_type(ds.get_or_set(Player, "p1", lambda: andrew), Player)
    assert_type(ds.get_or_set("players", "p1", lambda: andrew), Player)
    assert_type(players.get_or_set("p1", lambda: andrew), Player)
    players.get_or_set("p1", lambda: visit)  # type: ignore[arg-type, return-value]
    players.get_or_set(1, lambda: andrew)  # type: ignore[arg-type]
    ds.get_or_set(Player, "p1", lambda: None)  # type: ignore[arg-type, return-value]
    assert_type(ds.get_or_set(Player, "p1", lambda: andrew, ttl=30), Player)
    assert_type(ds.set(Player, "p1", andrew, ttl=timedelta(minutes=1)), Player)
    assert_type(players.set("p1", andrew, ttl=None), Player)
    assert_type(ds.set_many("players", {"p1": andrew}, ttl=0.5), dict[str, Player])
    ds.touch(Player, "p1", 30)
    players.touch("p1", ttl=None)
    ds.set(Player, "p1", andrew, ttl="30")  # type: ignore[call-overload]
    ds.touch(Player, "p1")  # type: ignore[call-arg]
    players.touch("p1", ttl="30")  # type: ignore[arg-type]


async def what_is_awaited(ds: AsyncDataStore) -> None:
    async def made() -> Player:
        return andrew

    assert_type(await ds.get_or_set(Player, "p1", made), Player)
    assert_type(await ds.get_or_set(Player, "p1", lambda: andrew), Player)


def results(ds: DataStore) -> None:
    @ds.cached(ttl=60)
    def area(width: int, *, height: int = 1) -> float:
        return width * height

    assert_type(area(1, height=2), float)
    assert_type(area.refresh(1), float)
    assert_type(area.key(1), str)
    area.invalidate(1, height=2)
    area("1")  # type: ignore[arg-type]
    area.refresh(1, depth=2)  # type: ignore[call-arg]
    area.invalidate()  # type: ignore[call-arg]


async def results_that_are_awaited(ds: AsyncDataStore) -> None:
    @ds.cached(ttl=timedelta(minutes=1))
    async def area(width: int) -> float:
        return width

    assert_type(await area(1), float)
    assert_type(await area.refresh(1), float)
    await area.invalidate(1)
    assert_type(area.key(1), str)
    await area("1")  # type: ignore[arg-type]


store = DataStore(Config())


class Shop:
    @store.cached(ttl=60, key=lambda self, article: article)
    def price(self, article: int) -> float:
        return article

    @store.cached(ttl=60, key=lambda self, article: article)
    async def stock(self, article: int) -> int:
        return article


async def methods(shop: Shop) -> None:
    assert_type(shop.price(1), float)
    assert_type(await shop.stock(1), int)
    assert_type(Shop.price.refresh(shop, 1), float)
    assert_type(await Shop.stock.refresh(shop, 1), int)
    shop.price("1")  # type: ignore[arg-type]


def shout(player: Player) -> Player:
    return player


def say(player: object) -> None: ...


def misread(player: Visit) -> None: ...


def read_final(key: str, error: WriteBehindMaxRetryError) -> None:
    assert_type(error.final, bool)


def pydantic_models(ds: DataStore) -> None:
    assert_type(ds.get(Badge, "b1"), Badge)
    assert_type(ds.get(Badge, "b1", default=None), Badge | None)
    assert_type(ds.set(Badge, "b1", Badge(id="b1")), Badge)
    assert_type(ds.search(Badge, Q()), list[Badge])
    badges = ds.register(Schema(Badge, l1=MemPolicy()))
    assert_type(badges, Collection[Badge, Any])
    badges.set("b1", andrew)  # type: ignore[arg-type]
    record: Record = Badge(id="b1")
    del record


def hooks() -> None:
    Schema(Player, hooks=SchemaHooks(before_set=shout, after_set=say, after_get=lambda player: player))
    Schema(Player, hooks=SchemaHooks(on_evict=lambda key, player: print(player.username)))
    Schema(Player, hooks=SchemaHooks(on_write_error=read_final))
    assert_type(SchemaHooks(before_set=shout), SchemaHooks[Player])
    bare: SchemaHooks = SchemaHooks(after_get=lambda record: None, on_evict=print)
    Schema(Player, hooks=bare)
    Schema(Player, hooks=SchemaHooks[Player](after_set=say))
    Schema(Player, hooks=SchemaHooks[Visit](after_set=misread))  # type: ignore[misc]
    SchemaHooks[Player](after_set=misread)  # type: ignore[arg-type]
    SchemaHooks[Player](before_set=lambda player: 42)  # type: ignore[arg-type, return-value]


def jobs(ds: DataStore) -> None:
    assert_type(ds.warm_cache(Player), int)
    assert_type(ds.warm_cache(Player, background=True), Job)
    assert_type(ds.migrate(), MigrationReport)
    assert_type(ds.migrate(background=True), Job)
    ds.warm_cache(Player, background=True, progress=print)  # type: ignore[call-overload]


def durations(ds: DataStore) -> None:
    assert_type(MemPolicy(ttl=timedelta(minutes=1)).ttl, float | None)
    assert_type(MemPolicy(60, fail_safe=timedelta(hours=1)).fail_safe, float)
    assert_type(Config(default_l1_ttl=timedelta(minutes=1)).default_l1_ttl, float)
    assert_type(L3PoolConfig(statement_timeout=timedelta(seconds=5)).statement_timeout, float)
    MemPolicy(ttl="60")  # type: ignore[arg-type]
    L3PoolConfig(statement_timeout=None)  # type: ignore[arg-type]
    MemPolicy().ttl = 60  # type: ignore[misc]
    ds.flush_dirty(0.5)
    ds.flush_dirty(timedelta(seconds=1))
    ds.close("soon")  # type: ignore[arg-type]
