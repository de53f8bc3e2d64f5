"""One doorbell brings a worker to every shard of a schema, and none is rung while somebody is there."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from strata import DataStore, L2RefusedError
from strata.testing import inspect
from strata.writebehind.ledger.shard import Shard
from tests.behind import client, deferred, hand_off, paced, persist, rows
from tests.models import Note
from tests.stores import MakeStore
from tests.support import wait_until


@pytest.fixture
def redis(redis_addr: str) -> Any:
    """Where a fleet seems to be there."""
    redis = client(redis_addr)
    redis.set("strata:{fleet}:alive", "somebody", px=60_000)
    return redis


def beside_a_fleet(make: MakeStore, **timing: Any) -> DataStore:
    """A store that rings for workers, where nothing else happens by itself."""
    store = make(write_behind_flush_interval=3600.0)
    paced(store, **({"bell": 60.0, "at_it": 60.0} | timing))
    store.register(deferred())
    store.migrate()
    return store


def write(store: DataStore, ids: range) -> None:
    for id in ids:
        store.set(Note, id, Note(id, "a"))
    hand_off(store)


def rings_of(store: DataStore) -> list[Shard]:
    """The shards that the store rings for from now on."""
    doorbell, rung = inspect(store).doorbell, list[Shard]()
    ring = doorbell.ring

    def also_note(shard: Shard) -> None:
        rung.append(shard)
        ring(shard)

    doorbell.ring = also_note  # type: ignore[method-assign]
    return rung


def test_one_bell_serves_all_shards_of_a_schema(make: MakeStore, dsn: str, redis: Any) -> None:
    store = beside_a_fleet(make)
    rung = rings_of(store)
    write(store, range(200))
    assert len(rung) == 1
    assert persist(store, "note") == 200
    assert rows(dsn, "SELECT count(*) FROM note") == [(200,)]


def test_nobody_rings_while_a_worker_is_there_and_the_first_afterwards_does(
    make: MakeStore, dsn: str, redis: Any
) -> None:
    store = beside_a_fleet(make, linger=3.0)
    rung = rings_of(store)
    write(store, range(100))
    worker = threading.Thread(target=persist, args=(store, "note"))
    worker.start()
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(100,)])
    write(store, range(100, 200))
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(200,)])
    assert len(rung) == 1
    worker.join()
    write(store, range(200, 201))
    assert len(rung) == 2


def test_what_is_handed_off_while_a_worker_leaves_is_not_forgotten(make: MakeStore, dsn: str, redis: Any) -> None:
    store = beside_a_fleet(make, linger=0.0)
    write(store, range(1))
    ledger, leave = inspect(store).ledger, inspect(store).ledger.leave

    def hand_off_first(shards: Any) -> None:
        ledger.leave = leave  # type: ignore[method-assign]
        write(store, range(1, 100))
        leave(shards)

    ledger.leave = hand_off_first  # type: ignore[method-assign]
    assert persist(store, "note") == 100


def test_where_much_is_due_one_worker_calls_another_once(make: MakeStore, redis: Any) -> None:
    store = beside_a_fleet(make, claim=10)
    rung = rings_of(store)
    write(store, range(500))
    assert len(rung) == 1
    assert persist(store, "note") == 500
    assert len(rung) == 2


def test_without_workers_the_process_that_wrote_drains_every_shard(make: MakeStore, dsn: str) -> None:
    store = beside_a_fleet(make)
    write(store, range(200))
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(200,)])


def test_a_shard_that_cannot_be_claimed_from_keeps_no_other_from_being_persisted(
    make: MakeStore, dsn: str, redis: Any
) -> None:
    store = beside_a_fleet(make)
    write(store, range(200))
    ledger, claim, refused = inspect(store).ledger, inspect(store).ledger.claim, Shard("note", 0)

    def refuse_one(shard: Shard, token: str, keys: Any = ()) -> Any:
        if shard == refused:
            raise L2RefusedError("WRONGTYPE, and the user may not rename")
        return claim(shard, token, keys)

    ledger.claim = refuse_one  # type: ignore[method-assign]
    others = 200 - redis.hlen(ledger.key(refused, "dirty"))
    assert persist(store, "note") == others < 200
    assert rows(dsn, "SELECT count(*) FROM note") == [(others,)]
