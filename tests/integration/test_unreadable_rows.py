"""One row that another tool wrote, and that no record can be made of, costs only itself, and is named."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import psycopg
import pytest
import redis

import strata
from strata import Collection, Config, DataStore, DecodeError, Encrypted, PrimaryKey, Q
from strata.testing import inspect
from tests import databases
from tests.stores import schema, sure
from tests.surroundings.test_redis_users import Log

KEY = b"k" * 32


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Place:
    x: int
    names: list[str]


@dataclass
class Thing:
    id: Annotated[str, PrimaryKey]
    colour: Colour = Colour.RED
    place: Place = field(default_factory=lambda: Place(1, ["here"]))
    secret: Annotated[str | None, Encrypted] = None
    at: datetime | None = None
    counts: list[int] = field(default_factory=list)
    size: int = 0


# What another tool writes into a row, by column.
SPOILT = {
    "an enum without such a member": ("colour", "'green'"),
    "JSON of another shape": ("place", """'{"x": "one"}'"""),
    "JSON of another kind": ("place", "'[1, 2]'"),
    "JSON nested too deeply": ("place", f"""'{{"x": 1, "names": {"[" * 3000}{"]" * 3000}}}'"""),
    "JSON with a number beyond 64 bits": ("counts", "'[123456789012345678901234567890]'"),
    "plain text where ciphertext should be": ("secret", "'hush'"),
    "a ciphertext of another row": ("secret", "(SELECT secret FROM things WHERE id = 'b')"),
    "a ciphertext of an unknown key": ("secret", f"'s1:k9:{'A' * 60}'"),
    "a time that never comes": ("at", "'infinity'"),
    "a time before all times": ("at", "'4000-01-01 BC'"),
    "no value where there must be one": ("size", "NULL"),
}


@dataclass
class Shop:
    """A store with three good rows, `a` to `c`, of which none is cached."""

    store: DataStore
    things: Collection[Thing]
    log: Log
    run: Callable[[str], Any]


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    """One database for all of them."""
    with databases.fresh() as made:
        yield made


@pytest.fixture
def shop(dsn: str, redis_addr: str) -> Iterator[Shop]:
    log = Log()
    config = Config(postgres_dsn=dsn, redis_addr=redis_addr, encryption_key=KEY, logger=log)
    with DataStore(config) as store, psycopg.connect(dsn, autocommit=True) as conn:
        things = store.register(schema(Thing, name="things"))
        store.migrate()
        conn.execute("TRUNCATE things; ALTER TABLE things ALTER COLUMN size DROP NOT NULL")
        things.set_many({id: Thing(id, secret=f"of {id}") for id in "abc"})
        sure(store)
        redis.Redis.from_url(f"redis://{redis_addr}").delete(*(f"strata:things:{id}" for id in "abc"))
        inspect(store).schemas["things"].l1.clear()
        yield Shop(store, things, log, lambda sql: conn.execute(sql.encode()))


@pytest.mark.parametrize("what", SPOILT)
def test_it_is_named_by_every_read_and_left_out_of_warming_and_of_audits(shop: Shop, what: str) -> None:
    column, value = SPOILT[what]
    things, store = shop.things, shop.store
    shop.run(f"UPDATE things SET {column} = {value} WHERE id = 'c'")
    reads: list[Callable[[], Any]] = [
        lambda: things.get("c"), lambda: things.get("c", force_l3=True), lambda: things.get("c", default=None),
        lambda: things.get_many("abc".__iter__()), lambda: things.search(), lambda: things.search_cached(),
        lambda: list(things.search_iter()), lambda: things.search(Q().fields("id", column)),
    ]  # fmt: skip
    for read in reads:
        with pytest.raises(DecodeError) as caught:
            read()
        assert (caught.value.schema, caught.value.column, caught.value.key) == ("things", column, "c")
        assert column in str(caught.value)
        assert "(schema 'things'; the row's key is in the error's `key`)" in str(caught.value)
        assert what != "JSON of another kind" or "Expected `object`, got `array`" in str(caught.value)
        assert not any(hidden in str(caught.value) for hidden in ("hush", "green", "1234567"))
    assert [things.get(id).size for id in "ab"] == [0, 0] and things.count() == 3 and things.exists("c")
    assert [record.id for record in things.search(Q().where("id <> 'c'"))] == ["a", "b"]
    assert len(things.search(Q().fields("id"))) == 3

    seen = store.stats().unreadable
    assert seen >= len(reads)
    assert things.warm_cache() == 2 and store.stats().unreadable == seen + 1
    things.warm_cache()
    assert [fields["column"] for msg, fields in shop.log.lines if "left out" in msg] == [column]  # told once
    assert things.get("a").id == "a"

    shop.run("INSERT INTO things SELECT 'd', colour, place, NULL, at, counts, size, _strata_version FROM things "
             "WHERE id = 'a'")  # fmt: skip
    things.get("d")
    shop.run(f"UPDATE things SET {column} = {value} WHERE id = 'd'")
    audit = store.audit(pause=0).schemas[0]
    assert not audit.stale and audit.compared == 4  # `a` and `b`, in each of the caches


def test_warming_goes_on_beyond_a_page_of_them(shop: Shop) -> None:
    shop.run("INSERT INTO things (id, colour, place, counts, size) SELECT 'b' || n, 'green', '{}', '[]', 0 "
             "FROM generate_series(1, 350) AS n")  # fmt: skip
    assert shop.things.warm_cache() == 3
    assert shop.things.warm_cache(limit=2) == 2
    assert shop.store.stats().by_schema["things"]["unreadable"] >= 350


def test_a_row_that_cannot_be_read_can_be_overwritten_and_deleted(shop: Shop) -> None:
    shop.run("UPDATE things SET colour = 'green', at = 'infinity' WHERE id IN ('a', 'b')")
    shop.things.set("a", Thing("a", Colour.BLUE))
    shop.things.delete("b")
    assert shop.things.get("a").colour is Colour.BLUE
    assert [thing.id for thing in shop.things.search()] == ["a", "c"]


def test_an_unloaded_column_that_cannot_be_read_is_named_by_the_write_that_would_return_it(shop: Shop) -> None:
    shop.run("UPDATE things SET at = 'infinity' WHERE id = 'a'")
    [part] = shop.things.search(Q().where("id = 'a'").fields("id", "size"))
    assert part.at is strata.UNLOADED
    with pytest.raises(DecodeError) as caught:
        shop.things.set("a", part)
    assert caught.value.column == "at" and caught.value.schema == "things"
