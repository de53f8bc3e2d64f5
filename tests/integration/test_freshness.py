"""Jitter, negative caching and eager refresh: what they keep, and that they miss no write and no invalidation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from strata import DataStore, InvalidConfigError, MemPolicy, PostgresPolicy, RedisPolicy, Schema, WriteMode
from strata.embedded import EmbeddedCluster
from strata.l1.entry import L1Entry
from strata.testing import inspect
from tests.behind import client
from tests.held import Held, execute
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

NEGATIVE: dict[str, Any] = {"l1": MemPolicy(ttl=60, negative_ttl=60), "l2": RedisPolicy(ttl=600, negative_ttl=60)}
EAGER: dict[str, Any] = {"l1": MemPolicy(ttl=60, eager_refresh=0.5), "l2": RedisPolicy(ttl=600, eager_refresh=0.5)}
KEY = "strata:notes:1"


@pytest.fixture
def l2(redis_addr: str) -> Any:
    return client(redis_addr)


def opened(make: MakeStore, **options: Any) -> DataStore:
    config = {"redis_addr": options.pop("redis_addr")} if "redis_addr" in options else {}
    store = make(write_behind_flush_interval=0.02, **config)
    store.register(schema(Note, name="notes", **options))
    store.migrate()
    sure(store)
    return store


def entry_of(store: DataStore) -> L1Entry:
    entries = inspect(store).schemas["notes"].l1.entries
    return entries[1]


def text(store: DataStore, **options: Any) -> str | None:
    found = store.get("notes", 1, default=None, **options)
    return None if found is None else str(found.text)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


# -- jitter ---------------------------------------------------------------------------------------------------------


def test_jitter_spreads_the_ends_of_entries_that_came_together(make: MakeStore, l2: redis.Redis) -> None:
    store = opened(make, l1=MemPolicy(ttl=60, jitter=0.5), l2=RedisPolicy(ttl=600, jitter=0.5))
    store.set_many("notes", {n: Note(n) for n in range(40)})
    l2.delete(*l2.keys("strata:notes:*"))
    inspect(store).schemas["notes"].l1.clear()
    store.warm_cache("notes")
    lives = [entry.ends - entry.loaded for entry in inspect(store).schemas["notes"].l1.entries.values()]
    kept = [l2.pttl(key) / 1000 for key in l2.keys("strata:notes:*")]
    assert len(lives) == len(kept) == 40
    assert 30 <= min(lives) < max(lives) <= 60 and max(lives) - min(lives) > 5
    assert 240 < min(kept) < max(kept) <= 600 and max(kept) - min(kept) > 50


def test_without_jitter_entries_that_came_together_end_together(make: MakeStore) -> None:
    store = opened(make)
    store.set_many("notes", {n: Note(n) for n in range(5)})
    assert len({entry.ends for entry in inspect(store).schemas["notes"].l1.entries.values()}) == 1


# -- negative caching -----------------------------------------------------------------------------------------------


def test_absence_is_asked_of_postgres_once(make: MakeStore, l2: redis.Redis) -> None:
    store = opened(make, **NEGATIVE)
    held = Held(store)
    for _ in range(5):
        assert text(store) is None
        assert not store.exists("notes", 1)
        assert store.get_many("notes", [1]) == {}
    assert held.count == 1
    assert l2.get(KEY) == b"T1:%019d:s:" % 0 and 0 < l2.pttl(KEY) <= 60_000
    assert store.stats().negative_hits == 9
    assert store.stats().l1_entries == 0


def test_absence_is_shared_between_processes_by_redis(make: MakeStore) -> None:
    one, two = opened(make, **NEGATIVE), opened(make, **NEGATIVE)
    assert text(one) is None
    held = Held(two)
    assert text(two) is None and two.get_many("notes", [1]) == {}
    assert held.count == 0 and two.stats().negative_hits == 2


def test_get_many_remembers_absences_too(make: MakeStore, l2: redis.Redis) -> None:
    store = opened(make, **NEGATIVE)
    store.set("notes", 2, Note(2))
    assert set(store.get_many("notes", [1, 2])) == {2}
    held = Held(store)
    assert text(store) is None
    assert held.count == 0 and l2.exists(KEY)


def test_without_the_option_absence_is_not_remembered(make: MakeStore, l2: redis.Redis) -> None:
    store = opened(make)
    held = Held(store)
    assert text(store) is text(store) is None
    assert held.count == 2 and not l2.exists(KEY)


@pytest.mark.parametrize("mode", list(WriteMode), ids=lambda mode: mode.value)
def test_a_write_ends_an_absence_everywhere_at_once(make: MakeStore, mode: WriteMode) -> None:
    one, two = opened(make, write_mode=mode, **NEGATIVE), opened(make, write_mode=mode, **NEGATIVE)
    for turn in range(5):
        assert text(one) is text(two) is None
        one.set("notes", 1, Note(1, f"{turn}"))
        assert text(one) == f"{turn}"
        wait_until(lambda turn=turn: text(two) == f"{turn}")  # type: ignore[misc]
        two.delete("notes", 1)
        assert text(two) is None
        wait_until(lambda: text(one) is None)
        one.flush_dirty()
        two.flush_dirty()


def test_many_ways_to_write_end_an_absence(make: MakeStore) -> None:
    store = opened(make, **NEGATIVE)
    assert text(store) is None
    store.set_many("notes", {1: Note(1, "many")})
    assert text(store) == "many"
    store.delete_many("notes", [1])
    assert text(store) is None
    with store.tx() as tx:
        tx.set("notes", 1, Note(1, "tx"))
    assert text(store) == "tx"


def test_invalidate_ends_an_absence_everywhere(make: MakeStore, dsn: str) -> None:
    one, two = opened(make, **NEGATIVE), opened(make, **NEGATIVE)
    assert text(one) is text(two) is None
    execute(dsn, "INSERT INTO notes (id, text, tags, meta) VALUES (1, 'psql', '[]', '{}')")
    one.invalidate("notes", 1)
    assert text(one) == "psql"
    wait_until(lambda: text(two) == "psql")


@pytest.mark.parametrize(
    "options",
    [NEGATIVE, {"l1": NEGATIVE["l1"], "l2": None}, {"l1": None, "l2": NEGATIVE["l2"]}, {"l1": NEGATIVE["l1"]}],
    ids=["L1+L2", "L1", "L2", "L1-over-L2"],
)
@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND], ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    "look", [DataStore.search, DataStore.search_cached, DataStore.warm_cache], ids=lambda look: look.__name__
)
def test_a_row_that_is_found_ends_an_absence(
    make: MakeStore, dsn: str, look: Callable[..., object], mode: WriteMode, options: dict[str, Any]
) -> None:
    store = opened(make, write_mode=mode, **options)
    assert text(store) is None
    execute(dsn, "INSERT INTO notes (id, text, tags, meta) VALUES (1, 'psql', '[]', '{}')")
    assert text(store) is None
    look(store, "notes")
    assert text(store) == text(store, force_l2=True) == "psql"
    assert store.get_many("notes", [1])[1].text == "psql" and store.exists("notes", 1)


def test_where_a_loader_holds_the_key_a_row_that_is_found_ends_the_absence_in_memory(
    make: MakeStore, dsn: str, l2: redis.Redis
) -> None:
    store = opened(make, **NEGATIVE)
    assert text(store) is None
    execute(dsn, "INSERT INTO notes (id, text, tags, meta) VALUES (1, 'psql', '[]', '{}')")
    l2.set(KEY, "L1:another.reader", px=5000)
    assert [note.text for note in store.search("notes")] == ["psql"]
    assert l2.get(KEY) == b"L1:another.reader"
    assert text(store) == "psql"


@pytest.mark.parametrize("options", [NEGATIVE, {"l1": NEGATIVE["l1"], "l2": None}], ids=["L1+L2+L3", "L1+L3"])
@pytest.mark.parametrize("mode", list(WriteMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("writer", ["own", "other"])
def test_an_absence_read_before_a_write_is_not_remembered_after_it(
    make: MakeStore, mode: WriteMode, writer: str, options: dict[str, Any]
) -> None:
    reader = opened(make, write_mode=mode, **options)
    other = reader if writer == "own" else opened(make, write_mode=mode, **options)
    held = Held(reader)
    held.pause()
    seen: list[str | None] = []
    thread = in_thread(lambda: seen.append(text(reader)))
    assert held.arrived.wait(15)
    other.set("notes", 1, Note(1, "new"))
    other.flush_dirty()
    wait_until(lambda: not inspect(reader).schemas["notes"].l1.claims._flights)  # the write was heard of
    held.go()
    thread.join()
    assert seen == [None]  # it began before
    assert text(reader) == "new"
    assert text(other) == "new"


def test_an_absence_read_before_an_invalidation_is_not_remembered_after_it(make: MakeStore, dsn: str) -> None:
    store = opened(make, **NEGATIVE)
    held = Held(store)
    held.pause()
    thread = in_thread(lambda: text(store))
    assert held.arrived.wait(15)
    execute(dsn, "INSERT INTO notes (id, text, tags, meta) VALUES (1, 'psql', '[]', '{}')")
    store.invalidate("notes", 1)
    held.go()
    thread.join()
    assert text(store) == "psql"


def test_asking_for_what_is_not_there_evicts_nothing(make: MakeStore) -> None:
    store = opened(make, l1=MemPolicy(ttl=60, max_entries=1, negative_ttl=60))
    store.set_many("notes", {n: Note(n) for n in range(256)})
    store.get_many("notes", range(1000, 2000))
    assert store.stats().l1_entries == 256 and store.stats().evictions == 0


def test_an_l1_above_redis_alone_remembers_absences(make: MakeStore) -> None:
    one = opened(make, l1=NEGATIVE["l1"], l3=None)
    two = opened(make, l1=NEGATIVE["l1"], l3=None)
    assert text(one) is text(one) is None
    assert one.stats().negative_hits == 1
    two.set("notes", 1, Note(1, "new"))
    wait_until(lambda: text(one) == "new")


# -- eager refresh --------------------------------------------------------------------------------------------------


def loaded(make: MakeStore, **options: Any) -> DataStore:
    store = opened(make, **(EAGER | options))
    store.set("notes", 1, Note(1, "old"))
    assert text(store) == "old"
    return store


def test_what_is_due_in_l1_is_served_and_loaded_once_in_the_background(
    make: MakeStore, dsn: str, l2: redis.Redis
) -> None:
    store = loaded(make)
    held = Held(store)
    entry = entry_of(store)
    assert entry.expires < entry.ends
    execute(dsn, "UPDATE notes SET text = 'psql' WHERE id = 1")
    l2.delete(KEY)
    held.pause()
    entry.expires = 0.0  # half of its time is over
    barrier = threading.Barrier(8)
    seen: list[str | None] = []

    def read() -> None:
        barrier.wait()
        seen.extend(text(store) for _ in range(20))

    threads = [in_thread(read) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert held.arrived.wait(15)
    assert seen == ["old"] * 160
    held.go()
    wait_until(lambda: text(store) == "psql")
    assert held.count == 1 and store.stats().eager_refreshes == 1
    assert entry_of(store).expires < entry_of(store).ends


def test_an_entry_that_is_not_due_is_not_refreshed(make: MakeStore) -> None:
    store = loaded(make)
    for _ in range(20):
        assert text(store) == "old"
    assert store.stats().eager_refreshes == 0


def test_a_refresh_of_l1_takes_what_redis_has(make: MakeStore) -> None:
    store = loaded(make)
    held = Held(store)
    began = entry_of(store).loaded
    entry_of(store).expires = 0.0
    assert text(store) == "old"
    wait_until(lambda: entry_of(store).loaded > began)
    assert held.count == 0


def test_what_is_due_in_redis_is_served_and_loaded_in_the_background(
    make: MakeStore, dsn: str, l2: redis.Redis
) -> None:
    store = loaded(make)
    held = Held(store)
    execute(dsn, "UPDATE notes SET text = 'psql' WHERE id = 1")
    l2.pexpire(KEY, 299_000)
    assert text(store, force_l2=True) == "old"
    wait_until(lambda: b"psql" in l2.get(KEY))  # type: ignore[operator]
    wait_until(lambda: text(store) == "psql")
    assert l2.pttl(KEY) > 300_000 and held.count == 1


@pytest.mark.parametrize("due", ["l1", "l2"])
@pytest.mark.parametrize("action", ["set", "delete", "invalidate"])
@pytest.mark.parametrize("writer", ["own", "other"])
def test_a_refresh_that_began_before_a_write_changes_nothing_after_it(
    make: MakeStore, dsn: str, l2: redis.Redis, due: str, action: str, writer: str
) -> None:
    store = loaded(make)
    other = store if writer == "own" else opened(make, **EAGER)
    held = Held(store)
    held.pause()
    if due == "l1":
        l2.delete(KEY)
        entry_of(store).expires = 0.0
        text(store)
    else:
        l2.pexpire(KEY, 299_000)
        text(store, force_l2=True)
    assert held.arrived.wait(15)  # with the old row in hand
    if action == "set":
        other.set("notes", 1, Note(1, "new"))
    elif action == "delete":
        other.delete("notes", 1)
    else:
        execute(dsn, "UPDATE notes SET text = 'new' WHERE id = 1")
        other.invalidate("notes", 1)
    expected = None if action == "delete" else "new"
    wait_until(lambda: text(store) == expected)
    held.go()
    wait_until(lambda: not inspect(store).background._keys)
    for reader in (store, other):
        assert text(reader) == expected
        assert text(reader, force_l2=True) == expected
    assert b"old" not in (l2.get(KEY) or b"")


def test_a_refresh_that_fails_leaves_the_entry_to_its_end(make: MakeStore, dsn: str, l2: redis.Redis) -> None:
    store = loaded(make)
    l2.delete(KEY)
    execute(dsn, "ALTER TABLE notes RENAME TO elsewhere")
    entry_of(store).expires = 0.0
    assert text(store) == "old"
    wait_until(lambda: store.stats().eager_refreshes == 1 and not inspect(store).background._keys)
    assert text(store) == "old"


# -- what cannot be asked for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: MemPolicy(jitter=1.0),
        lambda: MemPolicy(jitter=-0.1),
        lambda: MemPolicy(eager_refresh=1.5),
        lambda: MemPolicy(negative_ttl=-1),
        lambda: MemPolicy(negative_ttl=None),  # type: ignore[arg-type]
        lambda: MemPolicy(ttl=0, fail_safe=5),
        lambda: RedisPolicy(fail_safe=float("inf")),
        lambda: RedisPolicy(lease_wait=-1),
        lambda: RedisPolicy(jitter="a lot"),  # type: ignore[arg-type]
        lambda: PostgresPolicy(soft_timeout=0),
        lambda: PostgresPolicy(soft_timeout=2, hard_timeout=1),
    ],
)
def test_an_option_that_cannot_be_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(InvalidConfigError):
        wrong()


@pytest.mark.parametrize(
    "tiers",
    [
        {"l1": MemPolicy(negative_ttl=1)},
        {"l1": MemPolicy(fail_safe=1)},
        {"l2": RedisPolicy(negative_ttl=1)},
        {"l1": MemPolicy(), "l3": PostgresPolicy(soft_timeout=1)},
    ],
)
def test_an_option_that_could_do_nothing_is_refused_at_register(make: MakeStore, tiers: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError):
        make().register(Schema(Note, **tiers))


# -- rows changed outside, where they are watched -------------------------------------------------------------------


def test_a_watched_row_that_is_inserted_outside_ends_an_absence_everywhere(make: MakeStore, dsn: str) -> None:
    watched = NEGATIVE | {"l3": PostgresPolicy(watch=True)}
    one, two = opened(make, **watched), opened(make, **watched)
    for turn in range(3):
        assert text(one) is text(two) is None
        execute(dsn, "INSERT INTO notes (id, text, tags, meta) VALUES (1, %s, '[]', '{}')", f"{turn}")
        for store in (one, two):
            wait_until(lambda store=store, turn=turn: text(store) == f"{turn}")  # type: ignore[misc]
        execute(dsn, "DELETE FROM notes")
        for store in (one, two):
            wait_until(lambda store=store: text(store) is None)  # type: ignore[misc]


# -- on a Cluster ---------------------------------------------------------------------------------------------------


@pytest.mark.in_turn
def test_on_a_cluster_the_options_do_the_same(make: MakeStore, dsn: str) -> None:
    options = {
        "l1": MemPolicy(ttl=60, negative_ttl=60),
        "l2": RedisPolicy(ttl=600, jitter=0.1, negative_ttl=60, eager_refresh=0.5, fail_safe=60, lease_wait=1),
    }
    with EmbeddedCluster() as cluster:
        one, two = (opened(make, redis_addr=cluster.url, **options) for _ in range(2))
        assert one.get_many("notes", range(50)) == {}
        held = Held(two)
        assert two.get_many("notes", range(50)) == {} and text(two) is None
        assert held.count == 0 and two.stats().negative_hits == 51
        one.set_many("notes", {n: Note(n, "old") for n in range(50)})
        wait_until(lambda: len(two.get_many("notes", range(50))) == 50)
        execute(dsn, "UPDATE notes SET text = 'psql'")
        with redis.RedisCluster.from_url(cluster.url.replace("redis+cluster", "redis").split(",")[0]) as client:
            for n in range(50):
                client.pexpire(f"strata:notes:{n}", 59_000)  # stale
            inspect(two).schemas["notes"].l1.clear()
            assert {note.text for note in two.get_many("notes", range(50)).values()} == {"psql"}
            client.pexpire(KEY, 300_000)  # due
            execute(dsn, "UPDATE notes SET text = 'again'")
            assert text(two, force_l2=True) == "psql"
            wait_until(lambda: text(two, force_l2=True) == "again")
            assert client.pttl(KEY) > 300_000
        one.close()
        two.close()
