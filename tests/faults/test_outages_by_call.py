"""docs/outages.md: each call goes on, or raises, as its table says, without Redis, without PostgreSQL, without both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from psycopg.conninfo import conninfo_to_dict

import strata
from strata import DataStore, L3PoolConfig, Q, WriteMode
from strata.testing import Proxy, inspect
from tests.stores import schema, stores, sure

PAGE = (Path(__file__).parents[2] / "docs" / "outages.md").read_text()
SECTION = PAGE.split("\n## By call\n")[1].split("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", SECTION, re.MULTILINE)
]
SAID = {call: outcomes for call, *outcomes in ROWS[2:]}
AWAY = {"redis": 0, "postgresql": 1, "both": 2}


@dataclass
class Visit:
    """Of page 1 memory has it, of 2 Redis alone, of the others no cache."""

    id: Annotated[int, strata.PrimaryKey]
    count: int = 0


@pytest.fixture(params=[WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND], ids=["through", "behind"])
def mode(request: pytest.FixtureRequest) -> WriteMode:
    return WriteMode(request.param)


@pytest.fixture(params=AWAY)
def away(request: pytest.FixtureRequest, mode: WriteMode, dsn: str, redis_addr: str) -> Iterator[tuple[int, Any]]:
    """A store that has lost the servers of this column of the table, and its memoized function."""
    place = conninfo_to_dict(dsn)
    with Proxy(redis_addr) as redis, Proxy(f"{place['host']}:{place['port']}") as postgres:
        through = " ".join(f"{name}={value}" for name, value in (place | {"port": postgres.port}).items())
        with stores(through, redis.addr) as make:
            store = make(l3_pool=L3PoolConfig(connect_timeout=2, acquire_timeout=1))
            store.register(schema(Visit, name="visits", write_mode=mode))
            doubled = store.cached(ttl=60, name="doubled")(double)
            store.migrate()
            with stores(dsn, redis_addr) as another:
                other = another()
                other.register(schema(Visit, name="visits"))
                other.set_many("visits", {number: Visit(number) for number in range(1, 20)})
                other.invalidate_many("visits", range(3, 20))
            sure(store)
            kept = store.search_cached("visits", Q().where("id = 1"))
            assert (len(kept), doubled(1)) == (1, 2)
            for link in {"redis": [redis], "postgresql": [postgres], "both": [redis, postgres]}[request.param]:
                link.refuse()
            yield AWAY[request.param], (store, doubled)
            redis.resume()
            postgres.resume()


def double(number: int) -> int:
    return 2 * number


def in_a_transaction(store: DataStore) -> None:
    with store.tx() as tx:
        tx.set("visits", 12, Visit(12))


def calls(store: DataStore, doubled: Any) -> dict[str, list[Callable[[], Any]]]:
    """Those of each row of the table."""
    one = Q().where("id = 9")
    behind: list[Callable[[], Any]] = [
        lambda: store.set("visits", 4, Visit(4)),
        lambda: store.increment("visits", 5, count=1),
        lambda: store.update("visits", 6, count=3),
        lambda: store.delete("visits", 7),
        lambda: store.delete_many("visits", [8]),
    ]
    written: list[Callable[[], Any]] = [
        lambda: store.set_many("visits", {4: Visit(4)}),
        lambda: store.insert("visits", Visit(101)),
        lambda: store.insert_many("visits", [Visit(102)]),
        lambda: store.update("visits", 13, count=7, expect={"count": 0}),
        lambda: store.modify("visits", 14, lambda visit: visit),
        lambda: store.update_where("visits", one, count=2),
        lambda: store.delete_where("visits", one),
        lambda: in_a_transaction(store),
    ]
    deferred = inspect(store).schemas["visits"].deferred
    return {
        "`get`, `get_many` of what memory holds": [
            lambda: store.get("visits", 1), lambda: store.get_many("visits", [1]),
        ],
        "`get`, `get_many`, `exists` of what Redis holds": [
            lambda: store.get("visits", 2), lambda: store.get_many("visits", [2]), lambda: store.exists("visits", 2),
        ],
        "`get`, `get_many`, `exists`, `get_or_set` of what no cache holds": [
            lambda: store.get("visits", 15), lambda: store.get("visits", 99, default=None),
            lambda: store.get_many("visits", [1, 16]), lambda: store.exists("visits", 17),
            lambda: store.get_or_set("visits", 18, lambda: Visit(18)),
        ],
        "`search_cached` of what is kept": [lambda: store.search_cached("visits", Q().where("id = 1"))],
        "`search`, `search_iter`, `search_page`, `count`, other `search_cached`": [
            lambda: store.search("visits", one), lambda: list(store.search_iter("visits", one)),
            lambda: store.search_page("visits", Q().order_by("id").limit(1)), lambda: store.count("visits"),
            lambda: store.search_cached("visits", one),
        ],
        "written behind: `set`, `delete`, `delete_many`, `increment`, `update` without `expect`": behind * deferred,
        "any other write of records": written if deferred else [*behind, *written],
        "`touch`": [lambda: store.touch("visits", 1, 60)],
        "`invalidate`, `invalidate_many`, `invalidate_all`, `invalidate_tag`": [
            lambda: store.invalidate("visits", 1), lambda: store.invalidate_many("visits", [1]),
            lambda: store.invalidate_all("visits"), lambda: store.invalidate_tag("tag"),
        ],
        "a function of `@store.cached`": [lambda: doubled(1), lambda: doubled(2)],
        "its `invalidate`, `refresh`": [lambda: doubled.invalidate(1), lambda: doubled.refresh(1)],
        "`flush_dirty`, where something is pending": [lambda: store.flush_dirty(timeout=0.5)] * deferred,
        "`dead_letters.list()`": [store.dead_letters.list] * deferred,
        "`health`, `stats`": [store.health, store.stats],
    }  # fmt: skip


def test_each_call_goes_on_or_raises_as_the_table_says(away: tuple[int, Any]) -> None:
    column, (store, doubled) = away
    asked = calls(store, doubled)
    assert list(asked) == list(SAID)
    for what, several in asked.items():
        said = SAID[what][column]
        for number, call in enumerate(several):
            if said == "goes on, for a second":
                continue  # what a second is on a busy machine nobody knows
            if said == "goes on":
                call()
                continue
            with pytest.raises(getattr(strata, said.strip("`"))):
                pytest.fail(f"call {number} of {what!r} returned {call()!r}")


@pytest.mark.parametrize("call", ["get", "set", "increment", "touch", "delete", "insert"])
def test_a_schema_without_l3_raises_where_memory_does_not_know(redis_addr: str, call: str) -> None:
    with Proxy(redis_addr) as link, stores("", link.addr) as make:
        store = make()
        store.register(schema(Visit, name="visits", l3=None))
        store.set("visits", 1, Visit(1))
        sure(store)
        link.refuse()
        made: dict[str, Callable[[], Any]] = {
            "get": lambda: store.get("visits", 2, default=None),
            "set": lambda: store.set("visits", 1, Visit(1)),
            "increment": lambda: store.increment("visits", 1, count=1),
            "touch": lambda: store.touch("visits", 1, 60),
            "delete": lambda: store.delete("visits", 1),
            "insert": lambda: store.insert("visits", Visit(2)),
        }
        with pytest.raises(strata.L2UnavailableError):
            made[call]()
        link.resume()
