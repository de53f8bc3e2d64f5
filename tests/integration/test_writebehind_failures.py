"""Write-behind when something is wrong: bad records, L3 or Redis away; nothing acknowledged is lost, nobody is blamed
who is not to blame, and OnWriteError is called once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import strata
from strata import (
    DataStore,
    Durability,
    FlushTimeoutError,
    L2UnavailableError,
    L3PoolConfig,
    L3UnavailableError,
    NotFoundError,
    SchemaHooks,
    WriteBehindFullError,
    WriteBehindMaxRetryError,
)
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.protocol.entry import Entry, EntryOp
from strata.testing import Proxy, inspect
from strata.writebehind.dirty.slot import Buffered
from strata.writebehind.ledger.shard import Shard, home_of
from tests.behind import Errors, client, comes_after, deferred, hand_off, idle, paced, persist, rows, run, sound
from tests.lines import Log
from tests.models import Note
from tests.stores import MakeStore, stores, sure
from tests.support import wait_until

HOUR = 3600.0


@dataclass
class Named:
    """With a constraint that a batch may violate on its way."""

    id: Annotated[int, strata.PrimaryKey]
    name: Annotated[str, strata.Unique]


def store_of(make: MakeStore, *schemas: Any, by_hand: bool = True, **config: Any) -> DataStore:
    timing = config.pop("timing", {})
    slow = {"write_behind_flush_interval": HOUR, "write_behind_flush_threshold": 10**9}
    store = make(**(slow if by_hand else {"write_behind_flush_interval": 0.02}) | config)
    paced(store, **timing)
    for schema in schemas:
        store.register(schema)
    store.migrate()
    if by_hand:
        idle(store)
    return store


def persist_until(store: DataStore, name: str, condition: Any) -> None:
    """Do a worker's work until something is so."""
    wait_until(lambda: (persist(store, name), condition())[1])


# -- bad records ----------------------------------------------------------------------------------------------------


def test_a_bad_record_is_isolated_and_all_others_are_written(make: MakeStore, dsn: str) -> None:
    errors = Errors()
    store = store_of(make, deferred(hooks=errors.hooks()))
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    for id in range(100):
        store.set(Note, id, Note(id, "poison" if id == 42 else "good"))
    store.flush_dirty(20)
    assert rows(dsn, "SELECT count(*), min(text) FROM note") == [(99, "good")]
    assert errors.keys == [42]
    [(_, error)] = errors.calls
    assert isinstance(error, WriteBehindMaxRetryError)
    assert error.sqlstate == "23514" and error.attempts == 6 and error.final
    assert "poison" not in str(error)
    assert store.stats().dirty_count == 0


def test_a_dead_letter_says_what_when_and_why_and_reads_go_back_to_l3(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), write_behind_max_retry=1)
    other = store_of(make, deferred())
    store.set_many(Note, {1: Note(1, "good")})
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    sure(other)
    hand_off(store)
    assert store.get(Note, 1).text == other.get(Note, 1).text == "poison"
    store.flush_dirty(10)
    [letter] = store.dead_letters.list("note")
    assert (letter.schema, letter.key, letter.op, letter.sqlstate, letter.attempts) == ("note", 1, "set", "23514", 2)
    assert letter.origin == inspect(store).instance
    assert letter.first_at <= letter.last_at
    assert letter.values is None and store.dead_letters.show(letter.id).values is not None
    wait_until(lambda: store.get(Note, 1).text == "good", timeout=5)
    wait_until(lambda: other.get(Note, 1).text == "good", timeout=5)


@pytest.mark.parametrize("handed_off", [False, True])
def test_an_older_write_of_another_process_outlives_the_newer_one_that_is_given_up(
    make: MakeStore, dsn: str, handed_off: bool
) -> None:
    one, other = (store_of(make, deferred(), write_behind_max_retry=1) for _ in range(2))
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    one.set(Note, 1, Note(1, "good"))
    if handed_off:
        hand_off(one)
    comes_after(other, one)
    other.set(Note, 1, Note(1, "poison"))
    other.flush_dirty(10)
    assert len(one.dead_letters.list("note")) == 1
    assert one.get(Note, 1).text == "good"
    one.flush_dirty(10)
    assert rows(dsn, "SELECT text FROM note") == [("good",)]
    wait_until(lambda: other.get(Note, 1).text == "good", timeout=5)


def test_a_dead_letter_is_retried_at_its_own_version(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CONSTRAINT odd CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.set(Note, 2, Note(2, "poison"))
    store.flush_dirty(10)
    run(dsn, "ALTER TABLE note DROP CONSTRAINT odd")
    store.set_many(Note, {2: Note(2, "newer")})
    assert store.dead_letters.retry(all=True) == 1  # the other one was overtaken, which cleared it
    store.flush_dirty(10)
    assert rows(dsn, "SELECT id, text FROM note ORDER BY id") == [(1, "poison"), (2, "newer")]
    assert store.dead_letters.list() == []
    assert store.get(Note, 1).text == "poison"


def test_who_retries_a_dead_letter_does_not_read_what_was_before(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), write_behind_max_retry=1)
    store.set(Note, 1, Note(1, "good"))
    store.flush_dirty(10)
    run(dsn, "ALTER TABLE note ADD CONSTRAINT odd CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.flush_dirty(10)
    run(dsn, "ALTER TABLE note DROP CONSTRAINT odd")
    wait_until(lambda: store.get(Note, 1).text == "good")
    assert store.dead_letters.retry(all=True) == 1
    assert store.get(Note, 1).text == "poison"


def test_a_retried_letter_that_dies_again_is_told_again(make: MakeStore, dsn: str) -> None:
    errors, log = Errors(), Log()
    store = store_of(make, deferred(hooks=errors.hooks()), write_behind_max_retry=1, logger=log)
    run(dsn, "ALTER TABLE note ADD CONSTRAINT odd CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.flush_dirty(10)
    assert errors.keys == [1]
    for turn in (2, 3):
        assert store.dead_letters.retry(all=True) == 1
        persist_until(store, "note", lambda: store.dead_letters.count() == 1)
        store.flush_dirty(10)
        wait_until(lambda turn=turn: errors.keys == [1] * turn)  # type: ignore[misc]


def test_a_retried_letter_never_overwrites_what_is_newer(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CONSTRAINT odd CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.flush_dirty(10)
    run(dsn, "ALTER TABLE note DROP CONSTRAINT odd")
    store.set(Note, 1, Note(1, "newer"))
    [letter] = store.dead_letters.list()
    store.dead_letters.retry(letter.id)
    store.flush_dirty(10)
    assert rows(dsn, "SELECT text FROM note") == [("newer",)]
    assert store.get(Note, 1).text == "newer"


def test_dead_letters_are_discarded_and_unknown_ones_are_an_error(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    for id in range(3):
        store.set(Note, id, Note(id, "poison"))
    store.flush_dirty(10)
    letters = store.dead_letters.list(limit=2)
    assert len(letters) == 2 and store.dead_letters.count() == 3
    assert store.dead_letters.discard(*(letter.id for letter in letters)) == 2
    assert store.dead_letters.count("note") == 1
    for name in (letters[0].id, "nonsense", "note-1-x", ""):
        with pytest.raises(NotFoundError):
            store.dead_letters.show(name)
    with pytest.raises(strata.SchemaNotFoundError):
        store.dead_letters.list("unknown")


def test_a_newer_write_of_the_key_clears_its_dead_letter(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.flush_dirty(10)
    assert store.dead_letters.count() == 1
    store.set(Note, 1, Note(1, "good"))
    store.flush_dirty(10)
    assert store.dead_letters.count() == 0


def test_the_hook_runs_once_in_the_process_that_wrote_although_another_one_persisted(make: MakeStore, dsn: str) -> None:
    mine, theirs = Errors(), Errors()
    store = store_of(make, deferred(hooks=mine.hooks()), write_behind_max_retry=1)
    worker = store_of(make, deferred(hooks=theirs.hooks()), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    parts = inspect(store)
    parts.outcomes.beat()
    hand_off(store)
    persist_until(worker, "note", lambda: worker.dead_letters.count() == 1)
    assert mine.keys == [] and theirs.keys == []
    threads = [threading.Thread(target=parts.outcomes.collect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: mine.keys == [1] and theirs.keys == [])
    assert store.stats().dirty_count == 0


def test_a_hook_that_takes_its_time_holds_no_flush_beyond_its_time_out(make: MakeStore, dsn: str) -> None:
    hangs, gate = threading.Event(), threading.Event()

    def hang(key: Any, error: Exception) -> None:
        hangs.set()
        gate.wait(60)

    store = store_of(make, deferred(hooks=SchemaHooks(on_write_error=hang)), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.set(Note, 2, Note(2, "poison"))
    store.set(Note, 3, Note(3, "good"))
    try:
        with pytest.raises(FlushTimeoutError) as caught:  # while the hook is still running
            store.flush_dirty(2)
        assert hangs.is_set() and caught.value.remaining == 2
        assert rows(dsn, "SELECT id FROM note") == [(3,)] and store.dead_letters.count() == 2
    finally:
        gate.set()
    store.flush_dirty(10)
    assert store.stats().dirty_count == 0


def test_a_hook_that_ends_its_thread_ends_no_call(make: MakeStore, dsn: str) -> None:
    keys = []

    def leave(key: Any, error: Exception) -> None:
        keys.append(key)
        sys.exit(1)

    store = store_of(make, deferred(hooks=SchemaHooks(on_write_error=leave)), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.set(Note, 2, Note(2, "poison"))
    store.flush_dirty(10)
    assert sorted(keys) == [1, 2] and store.stats().dirty_count == 0
    store.close(5)


def test_the_hook_runs_in_a_worker_where_the_process_that_wrote_is_gone(make: MakeStore, dsn: str) -> None:
    mine, theirs = Errors(), Errors()
    store = store_of(make, deferred(hooks=mine.hooks()), write_behind_max_retry=1, timing={"alive": 0.01})
    worker = store_of(make, deferred(hooks=theirs.hooks()), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    hand_off(store)
    persist_until(worker, "note", lambda: worker.dead_letters.count() == 1)
    wait_until(lambda: theirs.keys == [1] and mine.keys == [])


def test_a_worker_takes_over_the_failures_that_a_process_did_not_live_to_read(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    theirs = Errors()
    store = store_of(make, deferred(), write_behind_max_retry=1)
    worker = store_of(make, deferred(hooks=theirs.hooks()), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    inspect(store).outcomes.beat()
    hand_off(store)
    persist_until(worker, "note", lambda: worker.dead_letters.count() == 1)
    client(redis_addr).delete(f"strata:{{{inspect(store).instance}}}:alive")
    outcomes = inspect(worker).outcomes
    assert outcomes.adopt() == 1
    wait_until(lambda: theirs.keys == [1])
    outcomes.adopt()
    assert theirs.keys == [1]


def test_a_burial_that_was_interrupted_is_made_known_by_somebody_else(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    errors = Errors()
    store = store_of(make, deferred(hooks=errors.hooks()), write_behind_max_retry=1)
    run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
    store.set(Note, 1, Note(1, "poison"))
    store.flush_dirty(10)
    redis = client(redis_addr)
    [key] = redis.keys("strata:{note:*}:dead")
    [version] = redis.hkeys(key)
    redis.delete(*redis.keys("*:told"))
    redis.hset(key.replace(b":dead", b":untold"), version, "1")
    redis.zadd(key.replace(b":dead", b":deaths"), {version: 0})
    assert inspect(store).giving_up.finish() == 1
    wait_until(lambda: errors.keys == [1, 1])
    assert redis.keys("*:untold") == []


# -- order ----------------------------------------------------------------------------------------------------------


def test_a_chain_of_renames_and_an_exchange_of_names_are_legal(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(Named, name="named"))
    store.set_many("named", {id: Named(id, f"n{id}") for id in range(6)})
    for id in range(3):
        store.set(Named, id, Named(id, f"n{id + 1}"))  # each takes the name that the next one frees
    store.set(Named, 3, Named(3, "free"))
    for id, name in ((4, "aside"), (5, "n4"), (4, "n5")):
        store.set(Named, id, Named(id, name))
    store.flush_dirty(20)
    assert rows(dsn, "SELECT id, name FROM named ORDER BY id") == [
        (0, "n1"), (1, "n2"), (2, "n3"), (3, "free"), (4, "n5"), (5, "n4"),
    ]  # fmt: skip
    assert store.dead_letters.list() == []


def test_who_takes_a_name_that_stays_taken_is_given_up_in_the_end(make: MakeStore, dsn: str) -> None:
    errors = Errors()
    store = store_of(make, deferred(Named, name="named", hooks=errors.hooks()))
    store.set_many("named", {1: Named(1, "taken")})
    store.set(Named, 2, Named(2, "taken"))
    store.set(Named, 3, Named(3, "free"))
    store.flush_dirty(20)
    assert rows(dsn, "SELECT id, name FROM named ORDER BY id") == [(1, "taken"), (3, "free")]
    assert errors.keys == [2]
    assert errors.calls[0][1].sqlstate == "23505"  # type: ignore[attr-defined]


# -- crashes --------------------------------------------------------------------------------------------------------


def test_a_record_that_keeps_ending_its_worker_is_found_alone_and_buried(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), write_behind_max_retry=1, timing={"lease": 0.02})
    for id in range(200):
        store.set(Note, id, Note(id))
    hand_off(store)
    behind = inspect(store)
    ledger, poison = behind.ledger, "7"
    shard = home_of("note", poison)

    def work() -> bool:
        """A worker that dies of the record: it neither finishes nor releases what it has claimed with it."""
        token = ledger.token()
        claimed = ledger.claim(shard, token)
        mine = next((item for item in claimed if item.key_text == poison), None)
        if mine is None or mine.crashes >= 3:
            behind.persister.apply(behind.schemas["note"], shard, token, claimed)
        return store.dead_letters.count() == 1

    wait_until(work)
    store.flush_dirty(10)
    assert rows(dsn, "SELECT count(*) FROM note") == [(199,)]
    assert [letter.key for letter in store.dead_letters.list()] == [7]


# -- L3 is away -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cut(own_postgres: EmbeddedPostgres, redis_addr: str) -> Iterator[MakeStore]:
    with stores(own_postgres.dsn, redis_addr) as factory:
        yield factory


def test_an_outage_does_not_become_dead_letters_and_everything_arrives_afterwards(
    cut: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    errors = Errors()
    store = store_of(cut, deferred(hooks=errors.hooks()), by_hand=False, write_behind_max_retry=2)
    own_postgres.kill()
    for id in range(50):
        store.set(Note, id, Note(id, "a"))
    wait_until(lambda: len(errors.keys) == 1, timeout=30)  # once an outage and schema, not once a record
    assert store.get(Note, 7).text == "a"
    assert store.dead_letters.list() == [] and store.stats().dirty_count == 50
    own_postgres.restart()
    wait_until(lambda: store.stats().dirty_count == 0, timeout=30)
    assert rows(own_postgres.dsn, "SELECT count(*) FROM note") == [(50,)]
    assert len(errors.keys) == 1
    assert all(isinstance(error, WriteBehindMaxRetryError) and not error.final for _, error in errors.calls)
    own_postgres.kill()
    for id in range(50):
        store.set(Note, id, Note(id, "b"))
    wait_until(lambda: len(errors.keys) == 2, timeout=30)  # another outage
    own_postgres.restart()
    wait_until(lambda: store.stats().dirty_count == 0, timeout=30)
    assert len(errors.keys) == 2


def test_close_leaves_in_the_ledger_what_l3_cannot_take_and_the_next_process_finds_it(
    cut: MakeStore, own_postgres: EmbeddedPostgres
) -> None:
    store = store_of(cut, deferred())
    own_postgres.kill()
    store.set(Note, 1, Note(1, "a"))
    store.close(timeout=20)
    own_postgres.restart()
    later = store_of(cut, deferred(), by_hand=False)
    assert later.get(Note, 1).text == "a"
    wait_until(lambda: rows(own_postgres.dsn, "SELECT text FROM note") == [("a",)], timeout=20)


def test_a_table_that_is_not_there_yet_is_waited_for(make: MakeStore, dsn: str) -> None:
    errors = Errors()
    store = make(write_behind_flush_interval=0.02)
    paced(store)
    store.register(deferred(hooks=errors.hooks()))
    store.set(Note, 1, Note(1, "early"))
    wait_until(lambda: errors.keys == [1], timeout=20)
    assert store.dead_letters.list() == []
    store.migrate()
    wait_until(lambda: store.stats().dirty_count == 0, timeout=20)
    assert rows(dsn, "SELECT text FROM note") == [("early",)]


# -- Redis is away --------------------------------------------------------------------------------------------------


@pytest.fixture
def hung(dsn: str, own_valkey: EmbeddedValkey) -> Iterator[MakeStore]:
    with stores(dsn, own_valkey.addr) as factory:
        yield factory


def test_flush_goes_straight_to_l3_where_the_ledger_is_away(
    hung: MakeStore, dsn: str, own_valkey: EmbeddedValkey
) -> None:
    store = store_of(hung, deferred())
    store.set(Note, 1, Note(1, "in the ledger"))
    hand_off(store)
    own_valkey.kill()
    store.set(Note, 2, Note(2, "in the buffer"))
    store.delete(Note, 3)
    store.flush_dirty(20)
    assert rows(dsn, "SELECT id, text FROM note ORDER BY id") == [(1, "in the ledger"), (2, "in the buffer")]
    assert store.stats().dirty_count == 0


def test_after_an_outage_of_redis_caches_agree_with_l3(hung: MakeStore, dsn: str, own_valkey: EmbeddedValkey) -> None:
    store = store_of(hung, deferred(), by_hand=False)
    other = store_of(hung, deferred(), by_hand=False)
    store.set(Note, 1, Note(1, "old"))
    store.flush_dirty(10)
    assert other.get(Note, 1).text == "old"
    own_valkey.freeze()
    store.set(Note, 1, Note(1, "new"))
    store.flush_dirty(30)
    assert rows(dsn, "SELECT text FROM note") == [("new",)]
    own_valkey.thaw()
    wait_until(lambda: other.get(Note, 1).text == "new", timeout=20)
    wait_until(lambda: b"old" not in (client(own_valkey.addr).get("strata:note:1") or b""), timeout=20)
    assert store.get(Note, 1).text == "new"


def test_with_redis_and_l3_away_a_full_buffer_refuses_after_a_while(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    with stores(own_postgres.dsn, own_valkey.addr) as factory:
        store = store_of(factory, deferred(), write_behind_max_dirty=5, timing={"full": 0.3})
        own_valkey.kill()
        own_postgres.kill()
        for id in range(5):
            store.set(Note, id, Note(id, "a"))
        with pytest.raises(WriteBehindFullError):
            store.set(Note, 5, Note(5, "a"))
        assert store.get(Note, 4).text == "a"
        store.set(Note, 4, Note(4, "b"))  # its place is taken already
        own_postgres.restart()
        wait_until(lambda: _taken(store, Note(5, "a")))
        store.flush_dirty(30)
        assert rows(own_postgres.dsn, "SELECT id, text FROM note ORDER BY id") == [
            *((id, "a") for id in range(4)), (4, "b"), (5, "a"),
        ]  # fmt: skip


def _taken(store: DataStore, note: Note) -> bool:
    try:
        store.set(Note, note.id, note)
    except (WriteBehindFullError, L3UnavailableError):
        return False
    return True


@pytest.mark.parametrize("why", ["LEDGER", "a full buffer"])
def test_what_goes_straight_to_l3_and_is_refused_is_an_error_of_set_and_of_nothing_else(
    hung: MakeStore, dsn: str, own_valkey: EmbeddedValkey, why: str
) -> None:
    errors = Errors()
    config = {"write_behind_durability": Durability.LEDGER} if why == "LEDGER" else {"write_behind_max_dirty": 1}
    store = store_of(hung, deferred(hooks=errors.hooks()), **config)
    run(dsn, "ALTER TABLE note ADD CONSTRAINT no_poison CHECK (text <> 'poison')")
    own_valkey.kill()
    store.set(Note, 1, Note(1, "good"))
    with pytest.raises(strata.ConstraintError) as caught:
        store.set(Note, 2, Note(2, "poison"))
    assert (caught.value.sqlstate, caught.value.constraint) == ("23514", "no_poison")
    assert store.get(Note, 2, default=None) is None
    store.flush_dirty(20)
    own_valkey.restart()
    assert store_of(hung, deferred()).dead_letters.list() == []
    assert rows(dsn, "SELECT id FROM note") == [(1,)]
    assert errors.calls == [] and store.stats().dirty_count == 0


def test_a_write_that_nobody_took_at_once_is_read_by_its_process_all_the_same(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    with stores(own_postgres.dsn, own_valkey.addr) as factory:
        store = store_of(factory, deferred(), write_behind_durability=Durability.LEDGER)
        store.set_many(Note, {1: Note(1, "old")})
        assert store.get(Note, 1).text == "old"
        own_valkey.kill()
        own_postgres.kill()
        with pytest.raises(L2UnavailableError):
            store.set(Note, 1, Note(1, "new"))
        assert store.get(Note, 1).text == "new"  # which is tried again as long as the process lives


def test_close_says_what_is_lost_where_nobody_took_it(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey
) -> None:
    with stores(own_postgres.dsn, own_valkey.addr) as factory:
        store = store_of(factory, deferred())
        own_valkey.kill()
        own_postgres.kill()
        store.set(Note, 1, Note(1))
        with pytest.raises(FlushTimeoutError) as caught:
            store.close(timeout=0.5)
        assert caught.value.remaining == 1


def test_a_ledger_on_another_server_works_and_outlives_the_cache(
    dsn: str, redis_addr: str, own_valkey: EmbeddedValkey
) -> None:
    with stores(dsn, own_valkey.addr) as factory:
        store = store_of(factory, deferred(), ledger_addr=redis_addr)
        other = store_of(factory, deferred(), ledger_addr=redis_addr)
        store.set(Note, 1, Note(1, "a"))
        hand_off(store)
        assert other.get(Note, 1).text == "a"
        assert client(own_valkey.addr).keys("*dirty*") == [] and client(redis_addr).keys("strata:note:*") == []
        assert client(own_valkey.addr).get("strata:note:1")[23:24] == b"p"
        persist(store, "note")
        assert client(own_valkey.addr).get("strata:note:1")[23:24] == b"s"
        own_valkey.kill()
        store.set(Note, 1, Note(1, "b"))
        store.flush_dirty(20)
        assert rows(dsn, "SELECT text FROM note") == [("b",)]


@pytest.mark.in_turn
def test_cache_and_ledger_may_be_a_cluster(dsn: str, redis_addr: str) -> None:
    with EmbeddedValkey({"cluster-enabled": "yes"}, password="") as valkey:
        node = client(valkey.addr)
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"))
        with stores(dsn, f"redis+cluster://{valkey.addr}") as factory:
            errors = Errors()
            options: dict[str, Any] = {"broker_url": f"redis://{redis_addr}/0", "write_behind_max_retry": 1}
            store = store_of(factory, deferred(hooks=errors.hooks()), **options)
            other = store_of(factory, deferred(), **options)
            run(dsn, "ALTER TABLE note ADD CHECK (text <> 'poison')")
            for id in range(50):
                store.set(Note, id, Note(id, "poison" if id == 42 else "good"))
            hand_off(store)
            assert node.get("strata:note:7") is None  # what may be persisted already is not put where nobody settles it
            assert other.get(Note, 7).text == "good"
            assert node.get("strata:note:7")[23:24] == b"p"
            node.delete("strata:note:8")
            assert other.get(Note, 8).text == "good"
            store.flush_dirty(20)
            assert rows(dsn, "SELECT count(*) FROM note") == [(49,)]
            assert node.get("strata:note:7")[23:24] == b"s"
            assert errors.keys == [42] and [letter.key for letter in store.dead_letters.list()] == [42]
            assert inspect(store).writebehind.pending_stats()["note"].dead == 1


def test_a_batch_that_takes_longer_than_the_lease_stays_its_worker_s(make: MakeStore, dsn: str) -> None:
    slow = store_of(make, deferred(), timing={"lease": 2.0})
    other = store_of(make, deferred(), timing={"lease": 2.0})
    slow.set(Note, 1, Note(1, "a"))
    hand_off(slow)
    shard = next(iter(inspect(slow).buffer.kept_in()))
    with psycopg.connect(dsn) as conn:
        conn.execute("LOCK TABLE note")  # the worker waits for it, alive
        with ThreadPoolExecutor() as pool:
            working = pool.submit(inspect(slow).writebehind.persist, *shard)
            ledger = inspect(other).ledger

            def due() -> float:
                return sound(ledger.look([Shard(*shard)])[0]).due or 0

            first = due()
            wait_until(lambda: due() > first + 800, what="two renewals")
            assert inspect(other).writebehind.persist(*shard) == 0
            conn.rollback()
            assert working.result(20) == 1
    assert rows(dsn, "SELECT text FROM note") == [("a",)]


def test_locked_rows_keep_no_other_of_their_batch_waiting_for_longer_than_a_batch_may_take(
    make: MakeStore, dsn: str
) -> None:
    store = store_of(make, deferred(), timing={"tries": 6.0}, l3_pool=L3PoolConfig(lock_timeout=1.5))
    mates = [id for id in range(1, 2_000) if home_of("note", str(id)) == home_of("note", "1")][:64]
    locked = mates[0], mates[-1]  # one in each half
    store.set_many(Note, {id: Note(id, "before") for id in locked})
    for id in mates:
        store.set(Note, id, Note(id, "mine"))
    hand_off(store)
    with psycopg.connect(dsn) as conn:
        conn.execute(f"SELECT * FROM note WHERE id IN {locked} FOR UPDATE")
        assert persist(store, "note") == 62
        assert store.stats().dirty_count == 2 and store.dead_letters.list() == []
    store.flush_dirty(10)
    assert rows(dsn, "SELECT count(*) FROM note WHERE text = 'mine'") == [(64,)]


def test_what_a_thread_holds_that_hangs_for_ever_is_claimed_by_another(make: MakeStore, dsn: str) -> None:
    hangs, gate = threading.Event(), threading.Event()

    class Hanging(Log):
        def error(self, msg: str, **fields: Any) -> None:
            if msg == "deferred writes were given up":
                hangs.set()
                gate.wait(60)

    one = store_of(make, deferred(), logger=Hanging(), timing={"lease": 0.4, "held": 1.0})
    other = store_of(make, deferred(), timing={"lease": 0.4})
    ledger, shard = inspect(other).ledger, home_of("note", "1")
    mates = [id for id in range(1, 400) if home_of("note", str(id)) == shard][:9]
    for id in mates:
        one.set(Note, id, Note(id, "good"))
    hand_off(one)
    # One that is given up before the others are written, and of which the logger never returns.
    origin, version = inspect(one).instance, (1 << 63) - 1
    raw = Entry(version, EntryOp.DELETE, 1, origin, b"").encode()
    ledger.ask([(shard, ("HSET", "dirty", "5000", raw)), (shard, ("ZADD", "due", 1, "5000"))])
    inspect(one).buffer.put("note", 5000, "5000", Buffered(version, None, False))
    thread = threading.Thread(target=lambda: inspect(one).writebehind.persist(*shard))
    thread.start()
    try:
        assert hangs.wait(20)
        persist_until(other, "note", lambda: rows(dsn, "SELECT count(*) FROM note") == [(len(mates),)])
        assert thread.is_alive()
    finally:
        gate.set()
        thread.join(30)
    assert other.dead_letters.count("note") == 1


def test_without_postgres_what_is_pending_is_not_taken_for_the_newest_while_a_commit_may_have_happened(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    place: dict[str, Any] = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        writer = store_of(make, deferred())
        reader = store_of(make, deferred(), postgres_dsn=make_conninfo(dsn, host="127.0.0.1", port=link.port))
        sure(reader)
        writer.set(Note, 1, Note(1, "pending"))
        hand_off(writer)
        server = client(redis_addr)
        server.delete("strata:note:1")
        link.refuse()
        assert reader.get(Note, 1).text == "pending"
        inspect(reader).schemas["note"].l1.clear()
        deadline = 1000 * server.time()[0] + 60_000
        server.set("strata:note:1", f"I1:c:0123456789abcdef.1={deadline};")  # of who does not know what became of it
        with pytest.raises(L3UnavailableError):
            reader.get(Note, 1)
