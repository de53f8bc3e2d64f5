"""What nobody comes for goes, whether a fleet runs or not: within a bound in time, and one in number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from strata import DataStore, PostgresPolicy, Retention, Schema, StrataError, WriteMode
from strata.jobs import parts as work
from strata.maintenance import housekeeping
from strata.maintenance.housekeeping import YOUNG
from strata.testing import inspect
from strata.writebehind.ledger import ledger
from tests.behind import Errors, client, deferred, paced, rows, run
from tests.models import Note
from tests.stores import MakeStore, schema
from tests.support import wait_until

TOMBSTONES = "SELECT count(*) FROM _strata_tombstones"
PARTIALS = "SELECT count(*) FROM _strata_partials"


def store_of(make: MakeStore, **retention: Any) -> DataStore:
    store = make(retention=Retention(**retention), write_behind_max_retry=1)
    paced(store)
    store.register(deferred(Note))
    store.migrate()
    return store


def deletions(store: DataStore, *ids: int) -> None:
    for id in ids:
        store.set(Note, id, Note(id, "gone"))
        store.delete(Note, id)
    store.flush_dirty(20)


def age(dsn: str, interval: str) -> None:
    """What stands in Strata's own tables is older by this much."""
    run(dsn, f"UPDATE _strata_tombstones SET deleted_at = deleted_at - interval '{interval}'")
    run(dsn, f"UPDATE _strata_partials SET at = at - interval '{interval}'")


def keep_house(store: DataStore, redis_addr: str) -> int:
    """Whatever was done within the hour."""
    client(redis_addr).delete("strata:{chores}:housekeeping:note")
    return store.fleet.keep_house()


def test_tombstones_of_old_deletions_are_forgotten_by_one_process_an_hour(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    one, other = store_of(make), store_of(make)
    deletions(one, 1, 2, 3)
    age(dsn, "8 days")
    assert one.fleet.keep_house() == 3
    assert rows(dsn, TOMBSTONES) == [(0,)]
    assert rows(dsn, "SELECT count(*) FROM _strata_horizons WHERE version > 0") == [(1,)]
    deletions(one, 1)
    age(dsn, "8 days")
    assert other.fleet.keep_house() == 0
    assert rows(dsn, TOMBSTONES) == [(1,)]
    assert keep_house(other, redis_addr) == 1


def test_a_recent_deletion_is_remembered_and_where_nothing_is_too_old_an_old_one(make: MakeStore, dsn: str) -> None:
    store = store_of(make, tombstone_ttl=0)
    deletions(store, 1)
    age(dsn, "1000 days")
    assert store.fleet.keep_house() == 0
    assert rows(dsn, TOMBSTONES) == [(1,)]


def test_of_too_many_tombstones_the_oldest_go_but_none_within_the_hour(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    store = store_of(make, max_tombstones=2)
    deletions(store, 1, 2, 3)
    assert store.fleet.keep_house() == 0
    age(dsn, f"{YOUNG.total_seconds() + 60} seconds")
    deletions(store, 4)
    assert keep_house(store, redis_addr) == 2
    assert rows(dsn, "SELECT count(*), max(id) FROM _strata_tombstones") == [(2, "4")]


def test_old_notes_of_partial_writes_go(make: MakeStore, dsn: str) -> None:
    store = store_of(make)
    run(dsn, "INSERT INTO _strata_partials (schema, id, version, base, columns) VALUES ('note', '1', 2, 1, '{}')")
    age(dsn, "6 days")
    assert store.fleet.keep_house() == 0
    age(dsn, "2 days")
    assert inspect(store).housekeeping._keep(inspect(store).schemas["note"]) == 1
    assert rows(dsn, PARTIALS) == [(0,)]


# -- without a fleet ------------------------------------------------------------------------------------------------


def with_l2(make: MakeStore, redis_addr: str) -> DataStore:
    store = make()
    store.register(deferred(Note))
    return store


def without_l2(make: MakeStore, redis_addr: str) -> DataStore:
    store = make(redis_addr="", ledger_addr=redis_addr)
    store.register(Schema(Note, name="note", l3=PostgresPolicy(), write_mode=WriteMode.WRITE_BEHIND))
    return store


@pytest.mark.parametrize("made", [with_l2, without_l2], ids=["by its heartbeat", "while something is pending"])
def test_where_no_worker_runs_a_process_of_the_application_sees_to_it(
    make: MakeStore, dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch, made: Callable[..., DataStore]
) -> None:
    writer = store_of(make)
    deletions(writer, 1, 2)
    age(dsn, "8 days")
    writer.close()
    monkeypatch.setattr(housekeeping, "FIRST", 0.1)
    monkeypatch.setattr(housekeeping, "INTERVAL", 0.1)
    store = made(make, redis_addr)

    def gone() -> bool:
        store.set(Note, 9, Note(9, "something to do"))
        return rows(dsn, TOMBSTONES) == [(0,)]

    wait_until(gone, what="housekeeping")


def test_a_schema_that_cannot_be_seen_to_holds_up_no_other(make: MakeStore, dsn: str) -> None:
    store = store_of(make)
    deletions(store, 1)
    age(dsn, "8 days")
    inspect(store).schemas["note"].rows.primary.close()
    run(dsn, "DROP TABLE _strata_partials")
    assert store.fleet.keep_house() == 0  # the schema's tombstones went; its turn is not counted as done
    assert rows(dsn, TOMBSTONES) == [(0,)]


# -- dead letters ---------------------------------------------------------------------------------------------------


def refusing(make: MakeStore, dsn: str, **retention: Any) -> DataStore:
    store = store_of(make, **retention)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'refused')")
    return store


def refused(store: DataStore, *ids: int) -> None:
    """Writes that are given up."""
    for id in ids:
        store.set(Note, id, Note(id, "refused"))
    store.flush_dirty(20)


def left_of_letters(redis_addr: str) -> list[int]:
    """How much there is of each kind of key that has to do with dead letters."""
    held = client(redis_addr)
    commands = {"dead": held.hlen, "deaths": held.zcard, "graves": held.hlen, "untold": held.hlen}
    return [sum(ask(key) for key in held.keys(f"strata:{{note:*}}:{name}")) for name, ask in commands.items()]


def test_of_too_many_dead_letters_the_oldest_go_whole(make: MakeStore, dsn: str, redis_addr: str) -> None:
    store = refusing(make, dsn, max_dead_letters=32)
    refused(store, *range(100))
    last = [letter.key for letter in store.dead_letters.list(limit=1000)]
    wait_until(lambda: left_of_letters(redis_addr) == [len(last), len(last), len(last), 0])
    assert 16 <= len(last) <= 32
    refused(store, *range(1000, 1100))
    assert all(letter.key >= 1000 for letter in store.dead_letters.list(limit=1000))


def test_dead_letters_that_are_too_old_go_whole_and_so_does_one_that_cannot_be_read(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    store = refusing(make, dsn, dead_letter_ttl=3600)
    refused(store, 1, 2, 3)
    assert store.fleet.keep_house() == 0
    held = client(redis_addr)
    for key in held.keys("strata:{note:*}:deaths"):
        for version in held.zrange(key, 0, -1):
            held.zincrby(key, -3_700_000, version)
    (some, *_) = held.keys("strata:{note:*}:dead")
    held.hset(some, held.hkeys(some)[0], b"\xc1 nonsense")
    assert keep_house(store, redis_addr) == 3
    assert left_of_letters(redis_addr) == [0, 0, 0, 0]


def test_a_dead_letter_of_a_key_that_has_others_leaves_them(make: MakeStore, dsn: str, redis_addr: str) -> None:
    store = refusing(make, dsn, max_dead_letters=16)
    refused(store, 1)
    refused(store, 1)
    assert left_of_letters(redis_addr) == [1, 1, 1, 0]
    [letter] = store.dead_letters.list()
    assert store.dead_letters.discard(letter.id) == 1
    assert left_of_letters(redis_addr) == [0, 0, 0, 0]


def test_what_was_told_is_remembered_in_one_key_a_shard_within_bounds(
    make: MakeStore, dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "TOLD_MOST", 20)
    errors = Errors()
    store = make(write_behind_max_retry=1)
    paced(store)
    store.register(deferred(Note, hooks=errors.hooks()))
    store.migrate()
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'refused')")
    for first in range(0, 500, 100):
        refused(store, *range(first, first + 100))
    assert sorted(errors.keys) == list(range(500))
    told = client(redis_addr).keys("strata:{note:*}:told*")
    assert len(told) == 16
    assert all(client(redis_addr).zcard(key) <= 20 for key in told)
    assert all(0 < client(redis_addr).ttl(key) <= 7 * 86_400 for key in told)


# -- jobs -----------------------------------------------------------------------------------------------------------


def test_jobs_that_no_worker_takes_are_bounded_in_number_and_in_time(
    make: MakeStore, redis_addr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MOST_OPEN", 3)
    store = make()
    store.register(schema(Note))
    store.migrate()
    jobs = [store.warm_cache(Note, background=True) for _ in range(3)]
    with pytest.raises(StrataError, match="3 jobs wait for a worker"):
        store.warm_cache(Note, background=True)
    held = client(redis_addr)
    assert all(0 < held.ttl(key) <= 7 * 86_400 for key in held.keys("strata:{job}:*"))
    held.delete(f"strata:{{job}}:{jobs[0].id}")  # its day is over
    store.warm_cache(Note, background=True)
    assert held.zcard("strata:{job}:open") == 3
