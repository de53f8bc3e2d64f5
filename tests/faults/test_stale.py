"""Fail-safe and time-outs: a stale value in place of an outage, never an outdated one; servers are really killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import strata
from strata import DataStore, L2PoolConfig, L3PoolConfig, MemPolicy, PostgresPolicy, RedisPolicy, WriteMode
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.testing import inspect
from tests.behind import client
from tests.held import execute, locked
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.faults

KEY = "strata:notes:1"
QUICK = {
    "l2_pool": L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5),
    "l3_pool": L3PoolConfig(connect_timeout=1, acquire_timeout=1),
}
SAFE: dict[str, Any] = {"l1": MemPolicy(ttl=60, fail_safe=3600), "l2": RedisPolicy(ttl=600, fail_safe=3600)}


class Recorder:
    """The counts that the store reported."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + value

    def observe(self, name: str, seconds: float, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...


@pytest.fixture
def make(own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey) -> Iterator[MakeStore]:
    with stores(own_postgres.dsn, own_valkey.addr) as factory:
        yield lambda **options: factory(**(QUICK | options))


def opened(make: MakeStore, options: dict[str, Any] | None = None, **config: Any) -> DataStore:
    store = make(write_behind_flush_interval=0.02, **config)
    store.register(schema(Note, name="notes", **(SAFE | (options or {}))))
    store.migrate()
    sure(store)
    return store


def age(store: DataStore, *, l2: bool = True) -> None:
    """Let the TTL of record 1 be over in L1 and, with `l2`, in L2; both keep it."""
    entry = inspect(store).schemas["notes"].l1.entries.get(1)
    if entry is not None:
        entry.expires = entry.ends = time.monotonic() - 1
    if l2:
        client(store.config.redis_addr).pexpire(KEY, 3_599_000)


def text(store: DataStore, **options: Any) -> str:
    return str(store.get("notes", 1, **options).text)


def text_if_any(store: DataStore) -> str | None:
    """As `text`; None for a read whose stale value was outdated just while it waited for PostgreSQL."""
    try:
        return text(store)
    except strata.L3UnavailableError:
        return None


def test_a_stale_value_of_l1_is_served_while_postgres_is_down(make: MakeStore, own_postgres: EmbeddedPostgres) -> None:
    recorder = Recorder()
    store = opened(make, metrics=recorder)
    store.set("notes", 1, Note(1, "old"))
    age(store, l2=False)
    client(store.config.redis_addr).delete(KEY)
    own_postgres.kill()
    for _ in range(3):
        assert text(store) == "old"
        assert store.get_many("notes", [1])[1].text == "old"
    assert store.stats().stale_served == 6
    with pytest.raises(strata.L3UnavailableError):
        store.get("notes", 2)
    own_postgres.restart()
    wait_until(lambda: execute(own_postgres.dsn, "UPDATE notes SET text = 'new' WHERE id = 1") is None)
    wait_until(lambda: text(store) == "new")
    served = store.stats().stale_served
    assert text(store) == "new" and store.stats().stale_served == served
    store.close()
    assert recorder.counts["strata_stale_served"] == served


def test_a_stale_value_of_redis_is_served_while_postgres_is_down(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    store, other = opened(make), opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    own_postgres.kill()
    assert text(other) == "old"  # its L1 never had it
    assert other.get_many("notes", [1])[1].text == "old"
    assert other.stats().stale_served == 2 and other.stats().l1_entries == 0
    own_postgres.restart()
    wait_until(lambda: _fresh(other))


def _fresh(store: DataStore) -> bool:
    return bool(text(store) == "old" and store.stats().l3_hits)


def test_while_postgres_is_up_a_stale_value_is_loaded_anew_and_not_served(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    store = opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    execute(own_postgres.dsn, "UPDATE notes SET text = 'new' WHERE id = 1")
    assert text(store) == "new"
    redis = client(store.config.redis_addr)
    assert b"new" in redis.get(KEY)
    assert redis.pttl(KEY) > 3_600_000
    assert store.stats().stale_served == 0


@pytest.mark.parametrize("how", ["get_many", "search", "warm_cache"])
def test_other_reads_load_stale_values_anew_too(make: MakeStore, own_postgres: EmbeddedPostgres, how: str) -> None:
    store = opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    execute(own_postgres.dsn, "UPDATE notes SET text = 'new' WHERE id = 1")
    reads: dict[str, Any] = {
        "get_many": lambda: store.get_many("notes", [1]),
        "search": lambda: store.search("notes"),
        "warm_cache": lambda: store.warm_cache("notes"),
    }
    reads[how]()
    assert b"new" in client(store.config.redis_addr).get(KEY)
    before = store.stats().l3_hits
    assert text(store) == "new" and store.stats().l3_hits == before


def test_a_stale_record_that_is_gone_from_postgres_is_gone(make: MakeStore, own_postgres: EmbeddedPostgres) -> None:
    store = opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    execute(own_postgres.dsn, "DELETE FROM notes")
    assert store.get("notes", 1, default=None) is None
    assert not client(store.config.redis_addr).exists(KEY)


def test_with_both_servers_down_a_stale_value_of_l1_is_served(
    make: MakeStore, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    store = opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store, l2=False)
    own_valkey.kill()
    own_postgres.kill()
    assert text(store) == "old"
    assert store.stats().stale_served == 1


@pytest.mark.parametrize("where", ["l1", "l2"])
def test_nothing_stale_is_served_after_an_invalidation_was_heard(
    make: MakeStore, own_postgres: EmbeddedPostgres, where: str
) -> None:
    store, other = opened(make), opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    if where == "l2":
        inspect(store).schemas["notes"].l1.clear()
    own_postgres.kill()
    assert text(store) == "old"
    other.invalidate("notes", 1)
    wait_until(lambda: not inspect(store).schemas["notes"].l1.entries)
    with pytest.raises(strata.L3UnavailableError):
        store.get("notes", 1)
    with pytest.raises(strata.L3UnavailableError):
        store.get_many("notes", [1])


def test_nothing_stale_is_served_after_a_newer_deferred_write(make: MakeStore, own_postgres: EmbeddedPostgres) -> None:
    behind = {"write_mode": WriteMode.WRITE_BEHIND}
    store, other = opened(make, behind), opened(make, behind)
    store.set("notes", 1, Note(1, "old"))
    store.flush_dirty()
    assert text(other) == "old"
    age(other)
    age(store, l2=False)
    own_postgres.kill()
    assert text(other) == "old"
    store.set("notes", 1, Note(1, "new"))
    assert text(store) == "new"
    wait_until(lambda: text_if_any(other) == "new")
    age(store)
    assert text(store) == "new"
    store.delete("notes", 1)
    assert store.get("notes", 1, default=None) is None
    wait_until(lambda: other.get("notes", 1, default=None) is None)


def test_a_write_whose_outcome_is_unknown_leaves_nothing_stale_to_serve(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    store = opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    own_postgres.kill()
    with pytest.raises(strata.L3UnavailableError):
        store.set("notes", 1, Note(1, "lost"))
    with pytest.raises(strata.L3UnavailableError):
        store.get("notes", 1)


def test_fail_safe_ends_with_its_time_and_is_off_unless_asked_for(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    safe, plain = opened(make), opened(make, {"l1": MemPolicy(ttl=60), "l2": None})
    safe.set("notes", 1, Note(1, "old"))
    assert text(plain) == "old"
    age(plain, l2=False)
    age(safe, l2=False)
    entry = inspect(safe).schemas["notes"].l1.entries[1]
    entry.expires = entry.ends = time.monotonic() - 3601
    client(safe.config.redis_addr).delete(KEY)
    own_postgres.kill()
    for store in (safe, plain):
        with pytest.raises(strata.UnavailableError):
            store.get("notes", 1)
        assert store.stats().stale_served == 0


def test_the_sweeper_leaves_what_fail_safe_may_serve(make: MakeStore, own_postgres: EmbeddedPostgres) -> None:
    store = opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    inspect(store).sweeper.sweep()
    assert 1 in inspect(store).schemas["notes"].l1.entries
    entry = inspect(store).schemas["notes"].l1.entries[1]
    entry.expires = entry.ends = time.monotonic() - 3601
    inspect(store).sweeper.sweep()
    assert not inspect(store).schemas["notes"].l1.entries


# -- time-outs ------------------------------------------------------------------------------------------------------

SOFT: dict[str, Any] = SAFE | {"l3": PostgresPolicy(soft_timeout=0.05)}
HARD: dict[str, Any] = {"l3": PostgresPolicy(hard_timeout=0.1)}


@pytest.mark.parametrize("where", ["l1", "l2"])
def test_after_the_soft_time_out_a_stale_value_comes_and_the_load_goes_on(
    make: MakeStore, own_postgres: EmbeddedPostgres, where: str
) -> None:
    store = opened(make, SOFT)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    if where == "l2":
        inspect(store).schemas["notes"].l1.clear()
    with locked(own_postgres.dsn) as table:
        for _ in range(5):
            assert text(store) == "old"
        wait_until(lambda: table.waiting() == 1)  # all of them share one load
        execute_in(table, "UPDATE notes SET text = 'new' WHERE id = 1")
    wait_until(lambda: text(store) == "new")
    assert store.stats().soft_timeouts == store.stats().stale_served >= 5


def execute_in(table: Any, sql: str) -> None:
    table.conn.execute(sql)
    table.conn.commit()


def test_a_load_that_ends_in_time_is_what_the_caller_gets(make: MakeStore, own_postgres: EmbeddedPostgres) -> None:
    store = opened(make, SAFE | {"l3": PostgresPolicy(soft_timeout=30, hard_timeout=60)})
    store.set("notes", 1, Note(1, "old"))
    age(store)
    execute(own_postgres.dsn, "UPDATE notes SET text = 'new' WHERE id = 1")
    assert text(store) == "new"
    assert store.get("notes", 2, default=None) is None
    assert store.stats().soft_timeouts == store.stats().hard_timeouts == 0


def test_an_invalidation_during_the_wait_takes_the_stale_value_away(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    store = opened(make, SAFE | {"l3": PostgresPolicy(soft_timeout=0.2, hard_timeout=1)})
    other = opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    memory = inspect(store).schemas["notes"].l1
    raised: list[BaseException] = []
    seen: list[str] = []

    def read() -> None:
        try:
            seen.append(text(store))
        except strata.UnavailableError as error:
            raised.append(error)

    with locked(own_postgres.dsn):
        other.invalidate("notes", 1)  # heard of or not, the next read finds nothing in L2, and nothing stale in L1
        wait_until(lambda: not memory.entries)
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert not seen and isinstance(raised[0], strata.L3UnavailableError)
    wait_until(lambda: _succeeds(store))


def _succeeds(store: DataStore) -> bool:
    try:
        return text(store) == "old"
    except strata.UnavailableError:
        return False


def test_what_was_offered_while_a_load_is_under_way_goes_with_the_first_message(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    store, other = opened(make, SAFE | {"l3": PostgresPolicy(soft_timeout=30)}), opened(make)
    store.set("notes", 1, Note(1, "old"))
    age(store)
    claims = inspect(store).schemas["notes"].l1.claims
    with locked(own_postgres.dsn) as table:
        thread = threading.Thread(target=lambda: text(store))
        thread.start()
        wait_until(lambda: table.waiting() == 1)
        flight = claims._flights[1]()
        assert flight is not None and flight.stale is not None and flight.stale.record.text == "old"
        other.invalidate("notes", 1)
        wait_until(lambda: flight.stale is None)
        assert not inspect(store).schemas["notes"].l1.entries
    thread.join()


def test_after_the_hard_time_out_the_caller_gets_an_error_and_the_caches_the_record(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    store = opened(make, HARD)
    store.set("notes", 1, Note(1, "there"))
    store.invalidate("notes", 1)
    with locked(own_postgres.dsn) as table:
        for _ in range(3):
            with pytest.raises(strata.L3UnavailableError, match="hard_timeout"):
                store.get("notes", 1)
        wait_until(lambda: table.waiting() == 1)
    wait_until(lambda: store.stats().l1_entries == 1)
    assert text(store) == "there"
    assert store.stats().hard_timeouts >= 3 and store.stats().l3_hits == 1


def test_a_write_during_a_load_that_nobody_waits_for_any_more_wins(
    make: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    store = opened(make, HARD)
    store.set("notes", 1, Note(1, "old"))
    store.invalidate("notes", 1)
    with locked(own_postgres.dsn) as table:
        with pytest.raises(strata.L3UnavailableError):
            store.get("notes", 1)
        writer = threading.Thread(target=lambda: store.set("notes", 1, Note(1, "new")))
        writer.start()
        wait_until(lambda: table.waiting() == 2)
    writer.join()
    wait_until(lambda: _is(store, "new"))
    assert text(store, force_l2=True) == "new"


def _is(store: DataStore, wanted: str) -> bool:
    try:
        return text(store) == wanted
    except strata.UnavailableError:
        return False


def test_more_slow_loads_than_threads_keep_nobody_waiting(make: MakeStore, own_postgres: EmbeddedPostgres) -> None:
    store = opened(make, HARD, l3_pool=L3PoolConfig(max_conns=2))
    store.set_many("notes", {n: Note(n, "there") for n in range(30)})
    for n in range(30):
        store.invalidate("notes", n)
    with locked(own_postgres.dsn):
        for n in range(30):
            with pytest.raises(strata.L3UnavailableError):
                store.get("notes", n)
    wait_until(lambda: store.stats().l1_entries == 30)


def test_a_closed_store_leaves_no_thread_behind(make: MakeStore, own_postgres: EmbeddedPostgres) -> None:
    store = opened(make, SAFE | {"l3": PostgresPolicy(soft_timeout=30)})
    store.set("notes", 1, Note(1, "old"))
    age(store)
    assert text(store) == "old"
    store.close()
    wait_until(lambda: not any(daemon.started for daemon in inspect(store).background.daemons))
