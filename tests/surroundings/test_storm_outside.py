"""Another program updates columns of rows of which deferred writes are pending, and a trigger computes a third."""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import psycopg
import pytest

import strata
from strata import DataStore, L3PoolConfig, PostgresPolicy
from tests.behind import deferred, paced, persist, rows
from tests.stores import MakeStore
from tests.support import wait_until
from tests.surroundings.pgbouncer import pgbouncer

KEYS = 12
TRIGGER = """
CREATE FUNCTION join_both() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.joined := NEW.ours || '/' || NEW.theirs; RETURN NEW; END $$;
CREATE TRIGGER join_both BEFORE INSERT OR UPDATE ON stormed FOR EACH ROW EXECUTE FUNCTION join_both()
"""


@dataclass
class Stormed:
    """A row of two programs: `ours` is written behind, `theirs` by the other one."""

    id: Annotated[int, strata.PrimaryKey]
    ours: int = 0
    theirs: int = 0
    joined: str = ""


def shows(store: DataStore, records: list[Stormed]) -> bool:
    return [store.get(Stormed, key) for key in range(KEYS)] == records


def write_ours(store: DataStore, keys: range, stop: threading.Event, last: dict[int, int]) -> None:
    chance, number = random.Random(keys.start), 0
    while not stop.is_set():
        key, number = chance.choice(keys), number + 1
        store.set(Stormed, key, Stormed(key, number, strata.UNLOADED, strata.UNLOADED))
        last[key] = number
        time.sleep(chance.uniform(0, 0.004))


def write_theirs(dsn: str, stop: threading.Event, last: dict[int, int]) -> None:
    chance, number = random.Random(9), 0
    with psycopg.connect(dsn, autocommit=True) as conn:
        while not stop.is_set():
            key, number = chance.randrange(KEYS), number + 1
            conn.execute("UPDATE stormed SET theirs = %s WHERE id = %s", (number, key))
            last[key] = number
            time.sleep(chance.uniform(0, 0.003))


def persist_all(store: DataStore, stop: threading.Event) -> None:
    while not stop.is_set():
        with suppress(strata.UnavailableError):
            persist(store, "stormed")


@pytest.mark.parametrize("through", ["itself", "a pooler"])
@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.long)])
def test_every_column_ends_with_its_newest_writer_s_value_and_all_caches_with_the_row(
    make: MakeStore, dsn: str, through: str, seconds: float
) -> None:
    with ExitStack() as stack:
        options: dict[str, object] = {}
        if through == "a pooler":
            way = stack.enter_context(pgbouncer(dsn, "transaction", size=6))
            options = {
                "postgres_dsn": way, "postgres_direct_dsn": dsn, "l3_pool": L3PoolConfig(prepared=False),
                "namespace": "shop",
            }  # fmt: skip
        instances = [make(write_behind_flush_interval=0.05, **options) for _ in range(3)]
        for store in instances:
            paced(store)
            store.register(deferred(Stormed, l3=PostgresPolicy(watch=True)))
        instances[0].migrate()
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(TRIGGER)
        for key in range(KEYS):
            instances[0].set(Stormed, key, Stormed(key))
        instances[0].flush_dirty(20)

        stop, ours, theirs = threading.Event(), dict.fromkeys(range(KEYS), 0), dict.fromkeys(range(KEYS), 0)
        threads = [
            threading.Thread(target=write_ours, args=(instances[0], range(0, KEYS, 2), stop, ours)),
            threading.Thread(target=write_ours, args=(instances[1], range(1, KEYS, 2), stop, ours)),
            threading.Thread(target=write_theirs, args=(dsn, stop, theirs)),
            threading.Thread(target=persist_all, args=(instances[2], stop)),
        ]
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        stop.set()
        for thread in threads:
            thread.join(30)
        for store in instances:
            store.flush_dirty(20)

        wanted = [(key, ours[key], theirs[key], f"{ours[key]}/{theirs[key]}") for key in range(KEYS)]
        assert rows(dsn, "SELECT id, ours, theirs, joined FROM stormed ORDER BY id") == wanted
        for store in instances:
            wait_until(partial(shows, store, [Stormed(*row) for row in wanted]), 3)
        assert instances[0].dead_letters.list() == []
