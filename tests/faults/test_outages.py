"""A tier that is down costs little and heals by itself; servers are really killed, frozen and started again."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

import strata
from strata import DataStore, L2PoolConfig, L3PoolConfig, WriteMode
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.l1.trust import BUS_GRACE
from strata.testing import inspect
from tests.behind import comes_after, hand_off, idle
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.faults

QUICK = {
    "l2_pool": L2PoolConfig(dial_timeout=0.3, read_timeout=0.3, write_timeout=0.3),
    "l3_pool": L3PoolConfig(connect_timeout=1, acquire_timeout=1, statement_timeout=1, lock_timeout=1),
}


@pytest.fixture
def make(own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey) -> Iterator[MakeStore]:
    with stores(own_postgres.dsn, own_valkey.addr) as factory:
        yield lambda **options: factory(**QUICK, **options)


@pytest.fixture
def store(make: MakeStore) -> DataStore:
    store = make()
    store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    store.set_many("notes", {n: Note(n, "before") for n in range(20)})
    return store


def text(store: DataStore, id: int, **options: bool) -> str:
    return str(store.get("notes", id, **options).text)


def redis_is_back(store: DataStore) -> bool:
    return inspect(store).redis.breaker.closed and inspect(store).sure


def test_without_redis_reads_come_from_postgres_and_writes_reach_it(
    store: DataStore, own_valkey: EmbeddedValkey
) -> None:
    own_valkey.kill()
    for n in range(20):
        store.set("notes", n, Note(n, "during"))
        assert text(store, n) == "during"
    store.delete("notes", 3)
    assert store.get("notes", 3, default=None) is None
    assert store.get_many("notes", [1, 2, 3]).keys() == {1, 2}
    store.set_many("notes", {5: Note(5, "many")})
    assert text(store, 5) == "many"
    assert store.stats().l2_skips > 0


def test_after_an_outage_of_redis_its_old_values_are_repaired(
    store: DataStore, make: MakeStore, own_valkey: EmbeddedValkey
) -> None:
    other = make()
    other.register(schema(Note, name="notes"))
    own_valkey.freeze()  # frozen, it keeps what it held
    try:
        store.set("notes", 1, Note(1, "during"))
        store.delete("notes", 2)
        store.set_many("notes", {4: Note(4, "many")})
        assert text(store, 1) == "during"
    finally:
        own_valkey.thaw()
    wait_until(lambda: redis_is_back(store))
    wait_until(lambda: other.get("notes", 1, force_l2=True).text == "during")
    wait_until(lambda: other.get("notes", 2, force_l2=True, default=None) is None)
    wait_until(lambda: other.get("notes", 4, force_l2=True).text == "many")
    wait_until(lambda: text(other, 1) == "during")
    with psycopg.connect(store.config.postgres_dsn) as conn:
        wait_until(lambda: conn.execute("SELECT count(*) FROM _strata_repairs").fetchone() == (0,))


def test_what_was_read_past_a_frozen_redis_stays_in_l1_for_the_grace_only(
    store: DataStore, make: MakeStore, own_valkey: EmbeddedValkey
) -> None:
    # A writer whose intent was heard before may fail to publish its put: then no message takes the entry away.
    other = make()
    other.register(schema(Note, name="notes"))
    sure(other)
    own_valkey.freeze()
    try:
        assert text(other, 1) == "before"
        assert other.get_many("notes", [2])[2].text == "before"
        entries = [inspect(other).schemas["notes"].l1.entries[n] for n in (1, 2)]
    finally:
        own_valkey.thaw()
    assert all(entry.ends <= entry.loaded + BUS_GRACE for entry in entries)


def test_a_redis_that_comes_back_empty_is_filled_again(store: DataStore, own_valkey: EmbeddedValkey) -> None:
    own_valkey.kill()
    store.set("notes", 1, Note(1, "during"))
    own_valkey.restart()
    wait_until(lambda: redis_is_back(store))
    assert text(store, 1) == "during"
    before = store.stats().l2_hits
    wait_until(lambda: text(store, 1, force_l2=True) == "during" and store.stats().l2_hits > before)


def test_without_postgres_caches_answer_and_synchronous_writes_raise(
    store: DataStore, own_postgres: EmbeddedPostgres
) -> None:
    own_postgres.kill()
    assert text(store, 1) == "before"
    assert text(store, 1, force_l2=True) == "before"
    for _ in range(3):
        with pytest.raises(strata.L3UnavailableError):
            store.set("notes", 1, Note(1, "lost"))
    with pytest.raises(strata.L3UnavailableError):
        store.get("notes", 99)
    with pytest.raises(strata.L3UnavailableError):
        store.count("notes")
    own_postgres.restart()
    wait_until(lambda: _try_set(store, 1, "after"))
    assert text(store, 1) == "after"
    assert text(store, 1, force_l2=True) == "after"


def test_a_restarted_postgres_is_used_again_without_an_error_to_a_reader(
    store: DataStore, own_postgres: EmbeddedPostgres
) -> None:
    store.get("notes", 1, force_l3=True)
    own_postgres.restart()
    assert text(store, 1, force_l3=True) == "before"


def test_with_both_servers_gone_every_call_says_so(
    store: DataStore, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    own_postgres.kill()
    own_valkey.kill()
    with pytest.raises(strata.UnavailableError):
        store.get("notes", 99)
    with pytest.raises(strata.UnavailableError):
        store.set("notes", 1, Note(1, "x"))


def test_write_behind_goes_on_without_postgres_and_catches_up(make: MakeStore, own_postgres: EmbeddedPostgres) -> None:
    store = make(write_behind_flush_interval=0.05)
    store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    own_postgres.kill()
    for n in range(50):
        store.set("notes", n, Note(n, "during"))
        assert text(store, n) == "during"
    with pytest.raises(strata.FlushTimeoutError) as caught:
        store.flush_dirty(1)
    assert caught.value.remaining == 50
    assert store.stats().dirty_count == 50
    own_postgres.restart()
    wait_until(lambda: _flushed(store))
    assert store.count("notes") == 50
    assert store.dead_letters.list() == []


def test_write_behind_survives_the_loss_of_its_ledger_while_the_writer_lives(
    make: MakeStore, own_valkey: EmbeddedValkey, own_postgres: EmbeddedPostgres
) -> None:
    store = make(write_behind_flush_interval=0.05)
    store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    own_postgres.freeze()
    try:
        for n in range(50):
            store.set("notes", n, Note(n, "kept"))
        pending = inspect(store).writebehind.pending_stats
        wait_until(lambda: pending()["notes"].pending == 50)
        own_valkey.kill()
    finally:
        own_postgres.thaw()
    own_valkey.restart()
    wait_until(lambda: _flushed(store), timeout=30)
    assert store.count("notes") == 50


def _try_set(store: DataStore, id: int, text: str) -> bool:
    try:
        store.set("notes", id, Note(id, text))
        return True
    except strata.UnavailableError:
        return False


def _flushed(store: DataStore) -> bool:
    try:
        store.flush_dirty(1)
        return True
    except strata.StrataError:
        return False


def handed_off(store: DataStore) -> bool:
    try:
        hand_off(store)
    except strata.L2UnavailableError:
        return False
    return True


def test_what_was_written_synchronously_without_redis_is_not_overtaken_by_an_older_deferred_write(
    make: MakeStore, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    deferring, writing = (
        make(write_behind_flush_interval=3600.0, write_behind_flush_threshold=10**9) for _ in range(2)
    )
    for store in (deferring, writing):
        store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
        store.migrate()
    idle(deferring)
    deferring.set("notes", 1, Note(1, "older"))
    comes_after(writing, deferring)
    own_valkey.kill()
    writing.set_many("notes", {1: Note(1, "newer")})
    own_valkey.restart()
    repaired = "SELECT count(*) FROM _strata_repairs"
    with psycopg.connect(own_postgres.dsn, autocommit=True) as conn:
        wait_until(lambda: conn.execute(repaired).fetchone() == (0,))
    wait_until(lambda: writing.get("notes", 1, force_l2=True).text == "newer")
    wait_until(lambda: handed_off(deferring), what="this store, too, to be sent to Redis again")
    for store in (writing, deferring):
        assert text(store, 1, force_l2=True) == "newer"
    assert deferring.stats().dirty_count == 0
