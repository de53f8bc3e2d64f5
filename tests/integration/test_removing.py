"""docs/removing.md: by its statements and its command nothing of Strata's is left, and every row is as it was."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import pytest

import strata
from strata import DataStore, PostgresPolicy, WriteMode
from tests.behind import client, comes_after, hand_off, idle, persist
from tests.stores import MakeStore, schema

PAGE = (Path(__file__).parents[2] / "docs" / "removing.md").read_text()
TABLE, OWN, LEFT = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(COMMAND,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
MAKE = "CREATE TABLE orders (id bigint PRIMARY KEY, note text NOT NULL, pieces bigint NOT NULL, ours text)"


@dataclass
class Order:
    id: Annotated[int, strata.PrimaryKey]
    note: str = ""
    pieces: int = 0


@dataclass
class Visit:
    id: Annotated[str, strata.PrimaryKey]
    at: datetime
    pages: int = 0


@pytest.fixture
def psql(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(dsn, autocommit=True)) as conn:
        yield conn


def rows(psql: psycopg.Connection[Any], table: str) -> list[Any]:
    """All of a table's, as far as they are not Strata's."""
    return psql.execute(f"SELECT to_jsonb(t) - '_strata_version' FROM {table} t ORDER BY id").fetchall()


def used(make: MakeStore, psql: psycopg.Connection[Any]) -> DataStore:
    """A store whose tables, one of another tool's and one by month, are watched and were written behind."""
    psql.execute(MAKE)
    store = make()
    behind = WriteMode.WRITE_BEHIND
    watched = PostgresPolicy("orders", managed=False, watch=True)
    store.register(schema(Order, name="orders", write_mode=behind, l3=watched))
    store.register(
        schema(Visit, name="visits", write_mode=behind, l3=PostgresPolicy("visits", watch=True, partition_by="at"))
    )
    for change in store.migrate().manual:
        psql.execute(change.sql.encode())
    store.migrate()
    for number in range(5):
        store.set(Order, number, Order(number, "a note", 1))
        store.set(Visit, f"v{number}", Visit(f"v{number}", datetime(2026, 5, 17, tzinfo=UTC)))
    store.flush_dirty()
    store.increment(Order, 1, pieces=2)
    store.update(Order, 2, note="another")
    store.delete(Order, 3)
    store.flush_dirty()
    psql.execute("UPDATE orders SET ours = 'by SQL', pieces = pieces + 1")
    psql.execute("DELETE FROM visits WHERE id = 'v1'")
    return store


def test_nothing_of_strata_is_left_in_postgresql_and_every_row_is_as_it_was(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    used(make, psql).close()
    before = {table: rows(psql, table) for table in ("orders", "visits")}
    assert [len(found) for found in before.values()] == [4, 4]
    kinds = {what for what, _ in psql.execute(LEFT.encode()).fetchall()}
    assert kinds == {"relation", "function", "trigger", "column"}
    for table in before:
        psql.execute(TABLE.replace("orders", table).encode())
    psql.execute(OWN.encode())
    assert psql.execute(LEFT.encode()).fetchall() == []
    assert {table: rows(psql, table) for table in before} == before
    psql.execute("INSERT INTO orders (id, note, pieces) VALUES (9, '', 0)")
    psql.execute("UPDATE visits SET pages = 1")


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="the command is redis-cli's")
@pytest.mark.parametrize("namespace", ["", "shop"])
def test_nothing_of_strata_is_left_in_a_redis_that_others_use_too(
    make: MakeStore, redis_addr: str, namespace: str
) -> None:
    store = make(namespace=namespace)
    store.register(schema(Order, name="orders", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    store.set(Order, 1, Order(1))
    store.flush_dirty()
    store.search_cached(Order, strata.Q())
    store.close()
    with client(redis_addr) as redis:
        redis.set("somebody's", "own")
        assert redis.dbsize() > 3
        command = COMMAND.replace("strata:*", f"{namespace}:strata:*" if namespace else "strata:*")
        host, _, port = redis_addr.rpartition(":")
        subprocess.run(
            command.replace("redis-cli", f"redis-cli -h {host} -p {port}"), shell=True, check=True, timeout=60
        )
        assert redis.keys() == [b"somebody's"]


def test_workers_of_the_release_before_persist_what_waits_and_the_last_set_wins_whichever_release_wrote_it(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    before, after = make(), make()
    before.register(schema(Order, name="orders", write_mode=WriteMode.WRITE_BEHIND))
    after.register(schema(Order, name="orders"))
    before.migrate()
    idle(before)
    for number in range(2):
        before.set(Order, number, Order(number, "deferred"))
    hand_off(before)
    comes_after(after, before)
    after.set(Order, 1, Order(1, "written through"))
    assert after.health().pending == 0, "it is not told of what waits"
    assert persist(before, "orders") == 2
    assert psql.execute("SELECT id, note FROM orders ORDER BY id").fetchall() == [
        (0, "deferred"),
        (1, "written through"),
    ]
