"""Write-behind from `set` to L3, on real servers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import pytest

import strata
from strata import (
    UNLOADED,
    DataStore,
    Durability,
    FlushTimeoutError,
    NotFoundError,
    OmitCache,
    OmitL1,
    PrimaryKey,
)
from strata.protocol.keyspace import Keyspace
from strata.testing import inspect
from strata.writebehind.ledger.shard import Shard, home_of
from tests.behind import Errors, client, comes_after, deferred, hand_off, idle, paced, persist, rows, run
from tests.models import Account, Note, Player
from tests.stores import MakeStore, sure
from tests.support import wait_until

HOUR = 3600.0
KEY = bytes(range(32))


def store_of(make: MakeStore, *schemas: Any, by_hand: bool = True, **config: Any) -> DataStore:
    """A migrated store with these schemas; `by_hand`: nothing happens unless the test does it."""
    slow = {"write_behind_flush_interval": HOUR, "write_behind_flush_threshold": 10**9}
    store = make(**(slow if by_hand else {}) | config)
    paced(store)
    for schema in schemas:
        store.register(schema)
    store.migrate()
    if by_hand:
        idle(store)
    return store


@pytest.fixture
def store(make: MakeStore) -> DataStore:
    """A store with `note`, of which nothing moves by itself."""
    return store_of(make, deferred())


def test_a_write_reaches_l3_within_the_flush_interval_without_any_worker(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), by_hand=False, write_behind_flush_interval=0.05)
    store.set(Note, 1, Note(1, "a"))
    assert store.stats().dirty_count == 1
    wait_until(lambda: rows(dsn, "SELECT id, text FROM note") == [(1, "a")])
    wait_until(lambda: store.stats().dirty_count == 0)


def test_the_threshold_hands_off_before_the_interval_has_passed(make: MakeStore, redis_addr: str) -> None:
    store = store_of(make, deferred(), by_hand=False, write_behind_flush_interval=HOUR, write_behind_flush_threshold=5)
    for id in range(5):
        store.set(Note, id, Note(id))
    wait_until(lambda: store.stats().dirty_count == 0)


def test_a_write_is_read_back_at_once_and_nothing_is_in_l3_yet(store: DataStore, dsn: str) -> None:
    store.set(Note, 1, Note(1, "a"))
    assert store.get(Note, 1).text == "a"
    assert store.get_many(Note, [1])[1].text == "a"
    assert store.exists(Note, 1)
    assert rows(dsn, "SELECT * FROM note") == []


def test_what_was_written_is_read_from_the_buffer_when_l1_has_lost_it(store: DataStore) -> None:
    store.set(Note, 1, Note(1, "a"))
    inspect(store).schemas["note"].l1.clear()
    assert store.get(Note, 1).text == "a"
    store.delete(Note, 1)
    with pytest.raises(NotFoundError):
        store.get(Note, 1)


def test_a_thousand_writes_of_a_key_are_one_row_of_the_newest(store: DataStore, dsn: str) -> None:
    for number in range(1000):
        store.set(Note, 1, Note(1, str(number)))
    assert store.stats().dirty_count == 1
    assert hand_off(store) == 1
    assert persist(store, "note") == 1
    assert rows(dsn, "SELECT text FROM note") == [("999",)]
    assert store.stats().dirty_count == 0


def test_what_was_handed_off_is_read_by_other_instances_before_l3_has_it(make: MakeStore, store: DataStore) -> None:
    other = store_of(make, deferred())
    store.set(Note, 1, Note(1, "a"))
    hand_off(store)
    assert other.get(Note, 1).text == "a"


def test_what_was_handed_off_is_read_from_the_ledger_when_l2_has_lost_it(
    make: MakeStore, store: DataStore, redis_addr: str
) -> None:
    other = store_of(make, deferred())
    store.set(Note, 1, Note(1, "a", ["x"], {"n": 1}))
    store.set(Note, 2, Note(2, "b"))
    persist(store, "note")
    hand_off(store)
    client(redis_addr).delete("strata:note:1", "strata:note:2")
    assert other.get(Note, 1) == Note(1, "a", ["x"], {"n": 1})
    assert set(other.get_many(Note, [1, 2])) == {1, 2}
    store.delete(Note, 1)
    hand_off(store)
    client(redis_addr).delete("strata:note:1")
    wait_until(lambda: other.get(Note, 1, default=None) is None, timeout=5)  # once its L1 has heard of it


def test_other_instances_drop_what_they_hold_when_a_write_is_handed_off(make: MakeStore, store: DataStore) -> None:
    other = store_of(make, deferred())
    store.set(Note, 1, Note(1, "old"))
    hand_off(store)
    sure(other)
    assert other.get(Note, 1).text == "old"
    store.set(Note, 1, Note(1, "new"))
    hand_off(store)
    wait_until(lambda: other.get(Note, 1).text == "new", timeout=5)


def test_what_was_deleted_stays_deleted_whatever_is_replayed(store: DataStore, dsn: str, redis_addr: str) -> None:
    redis = client(redis_addr)
    store.set(Note, 1, Note(1, "a"))
    hand_off(store)
    [key] = redis.keys("strata:{note:*}:dirty")
    old = redis.hgetall(key)
    persist(store, "note")
    store.delete(Note, 1)
    store.flush_dirty(10)
    assert rows(dsn, "SELECT * FROM note") == []
    redis.delete(*redis.keys("*floor*"))
    redis.hset(key, mapping=old)
    redis.zadd(key.replace(b"dirty", b"due"), {b"1": 0})
    persist(store, "note")
    assert rows(dsn, "SELECT * FROM note") == []
    assert redis.hlen(key) == 0


def test_what_was_deleted_around_the_ledger_is_not_read_from_it(make: MakeStore, redis_addr: str) -> None:
    store, other = store_of(make, deferred()), store_of(make, deferred())
    for each in (store, other):
        inspect(each).repairs.stop()  # which would take it out of the ledger
    store.set(Note, 1, Note(1, "old"))
    hand_off(store)
    store.delete(Note, 1)
    parts = inspect(store)
    # As a flush does while Redis is away.
    parts.bypass.many(parts.schemas["note"], parts.buffer.find("note", [1]))
    assert parts.buffer.peek("note", 1) is None
    there = client(redis_addr)
    assert there.hkeys(Keyspace().own(home_of("note", "1").tag, "dirty")) == [b"1"]
    there.delete("strata:note:1")
    for each in (store, other):
        assert each.get(Note, 1, default=None) is None
        assert each.get_many(Note, [1]) == {}
        assert not each.exists(Note, 1)


def test_two_workers_at_once_and_twice_over_change_nothing(store: DataStore, dsn: str) -> None:
    for id in range(300):
        store.set(Note, id, Note(id, "a"))
        if id % 3 == 0:
            store.delete(Note, id)
    hand_off(store)
    threads = [threading.Thread(target=persist, args=(store, "note")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(dsn, "SELECT count(*) FROM note") == [(200,)]
    assert store.stats().dirty_count == 0


def test_flush_works_with_no_worker_and_with_another_s_lease(store: DataStore, dsn: str) -> None:
    for id in range(20):
        store.set(Note, id, Note(id))
    hand_off(store)
    ledger = inspect(store).ledger
    for number in range(16):
        ledger.claim(Shard("note", number), ledger.token())  # a worker that claims and then is frozen
    store.flush_dirty(10)
    assert rows(dsn, "SELECT count(*) FROM note") == [(20,)]
    assert store.stats().dirty_count == 0


def test_close_flushes(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred())
    store.set(Note, 1, Note(1, "a"))
    store.close()
    assert rows(dsn, "SELECT text FROM note") == [("a",)]


def test_a_synchronous_write_wins_over_an_older_pending_one(make: MakeStore, store: DataStore, dsn: str) -> None:
    other = store_of(make, deferred())
    store.set(Note, 1, Note(1, "pending"))
    hand_off(store)
    comes_after(other, store)
    other.set_many(Note, {1: Note(1, "synchronous")})
    assert persist(store, "note") == 0
    assert rows(dsn, "SELECT text FROM note") == [("synchronous",)]
    wait_until(lambda: store.get(Note, 1).text == "synchronous", timeout=5)


def test_an_older_write_that_comes_late_is_refused_whole(make: MakeStore, store: DataStore, redis_addr: str) -> None:
    other = store_of(make, deferred())
    store.set(Note, 1, Note(1, "older"))
    comes_after(other, store)
    other.set_many(Note, {1: Note(1, "newer")})
    hand_off(store)
    assert client(redis_addr).keys("*:dirty") == []
    assert b"newer" in client(redis_addr).get("strata:note:1")
    assert store.stats().dirty_count == 0
    assert store.get(Note, 1).text == "newer"


def test_an_overtaken_write_leaves_the_buffer_once_l3_has_the_newer_one(make: MakeStore, dsn: str) -> None:
    one = store_of(make, deferred())
    two = store_of(make, deferred())
    one.set(Note, 1, Note(1, "first"))
    hand_off(one)
    comes_after(two, one)
    two.set(Note, 1, Note(1, "second"))
    hand_off(two)
    persist(two, "note")
    assert rows(dsn, "SELECT text FROM note") == [("second",)]
    one.flush_dirty(10)
    assert one.stats().dirty_count == 0
    wait_until(lambda: one.get(Note, 1).text == "second", timeout=5)


def test_auto_now_add_of_the_first_insert_reaches_every_cache(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(Player))
    other = store_of(make, deferred(Player))
    first = store.set(Player, "p", Player("p", "ann"))
    store.flush_dirty(10)
    second = store.set(Player, "p", Player("p", "bob"))
    hand_off(store)
    sure(other)
    assert other.get(Player, "p").username == "bob"
    store.flush_dirty(10)
    assert second.created_at != first.created_at
    for reader in (store, other):
        wait_until(lambda reader=reader: reader.get(Player, "p").created_at == first.created_at)  # type: ignore[misc]
        assert reader.get(Player, "p").updated_at == second.updated_at


# -- partial records ------------------------------------------------------------------------------------------------


def account(id: str, **values: Any) -> Account:
    made = Account(id, values.pop("name", UNLOADED))
    for name in ("secret", "biography", "token"):
        setattr(made, name, values.get(name, UNLOADED))
    return made


def test_a_record_that_came_from_a_cache_keeps_the_columns_that_it_did_not_load(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(Account), encryption_key=KEY)
    store.set(Account, "a", Account("a", "ann", "s3cret", "a life", "t0ken"))
    store.flush_dirty(10)
    loaded = store.get(Account, "a")
    assert loaded.secret is UNLOADED
    loaded.name = "bob"
    store.set(Account, "a", loaded)
    assert store.get(Account, "a").name == "bob"
    store.flush_dirty(10)
    assert rows(dsn, "SELECT name, secret, biography FROM account") == [("bob", "s3cret", "a life")]


def test_partial_writes_of_two_instances_merge_in_the_ledger(make: MakeStore, dsn: str) -> None:
    one = store_of(make, deferred(Account), encryption_key=KEY)
    two = store_of(make, deferred(Account), encryption_key=KEY)
    one.set(Account, "a", Account("a", "ann", "s3cret", "a life", "t0ken"))
    one.flush_dirty(10)
    one.set(Account, "a", account("a", name="bob"))
    comes_after(two, one)
    two.set(Account, "a", account("a", biography="another"))
    hand_off(one)
    hand_off(two)
    assert two.get(Account, "a").name == "bob"
    persist(one, "account")
    assert rows(dsn, "SELECT name, secret, biography FROM account") == [("bob", "s3cret", "another")]
    one.flush_dirty(10)
    two.flush_dirty(10)
    whole = one.get(Account, "a", force_l3=True)
    assert (whole.name, whole.secret, whole.biography, whole.token) == ("bob", "s3cret", "another", "t0ken")


def test_a_partial_write_over_a_whole_pending_one_is_one_whole_row(make: MakeStore, dsn: str) -> None:
    one = store_of(make, deferred(Account), encryption_key=KEY)
    two = store_of(make, deferred(Account), encryption_key=KEY)
    one.set(Account, "a", Account("a", "ann", "s3cret", "a life", "t0ken"))
    hand_off(one)
    comes_after(two, one)
    two.set(Account, "a", account("a", name="bob"))
    hand_off(two)
    persist(one, "account")
    assert rows(dsn, "SELECT name, secret, biography FROM account") == [("bob", "s3cret", "a life")]


def test_a_partial_write_over_a_deletion_of_its_own_process_fails_by_the_hook(make: MakeStore, dsn: str) -> None:
    errors = Errors()
    store = store_of(make, deferred(Account, hooks=errors.hooks()), encryption_key=KEY)
    store.set(Account, "a", Account("a", "ann", None, None, None))
    store.delete(Account, "a")
    store.set(Account, "a", account("a", name="bob"))
    wait_until(lambda: errors.keys == ["a"])
    assert store.get(Account, "a", default=None) is None
    store.flush_dirty(10)
    assert rows(dsn, "SELECT * FROM account") == []
    assert [letter.op for letter in store.dead_letters.list("account")] == ["partial"]


def test_a_partial_write_over_a_deletion_of_another_process_fails_by_the_hook(make: MakeStore, dsn: str) -> None:
    errors = Errors()
    one = store_of(make, deferred(Account), encryption_key=KEY)
    two = store_of(make, deferred(Account, hooks=errors.hooks()), encryption_key=KEY)
    one.delete(Account, "a")
    hand_off(one)
    comes_after(two, one)
    two.set(Account, "a", account("a", name="bob"))
    hand_off(two)
    wait_until(lambda: errors.keys == ["a"])
    one.flush_dirty(10)
    two.flush_dirty(10)
    assert rows(dsn, "SELECT * FROM account") == []


def test_a_partial_write_without_a_row_fails_by_the_hook(make: MakeStore) -> None:
    errors = Errors()
    store = store_of(make, deferred(Account, hooks=errors.hooks()), encryption_key=KEY)
    store.set(Account, "a", account("a", name="bob"))
    store.flush_dirty(10)
    assert errors.keys == ["a"]
    assert store.stats().dirty_count == 0


# -- secrets --------------------------------------------------------------------------------------------------------


def test_the_plaintext_of_an_encrypted_field_is_nowhere_in_the_ledger_nor_in_l3(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    store = store_of(make, deferred(Account), encryption_key=KEY)
    run(dsn, "ALTER TABLE account ADD CHECK (name <> 'bad')")
    store.set(Account, "good", Account("good", "ann", None, None, "t0p-s3cret"))
    store.set(Account, "bad", Account("bad", "bad", None, None, "t0p-s3cret"))
    hand_off(store)
    redis = client(redis_addr)
    assert not [key for key in redis.keys("strata:{*") if b"t0p-s3cret" in (redis.dump(key) or b"")]
    store.flush_dirty(10)
    [letter] = store.dead_letters.list()
    shown = store.dead_letters.show(letter.id)
    assert "t0p-s3cret" not in repr(shown) and shown.values is not None and shown.values["name"] == "bad"
    assert not [key for key in redis.keys("strata:{*") if b"t0p-s3cret" in (redis.dump(key) or b"")]
    assert b"t0p-s3cret" not in repr(rows(dsn, "SELECT * FROM account")).encode()
    assert store.get(Account, "good", force_l3=True).token == "t0p-s3cret"


# -- durability, room, ledger lost ----------------------------------------------------------------------------------


def test_with_durability_ledger_the_write_is_in_the_ledger_when_set_returns(make: MakeStore, redis_addr: str) -> None:
    store = store_of(make, deferred(), write_behind_durability=Durability.LEDGER)
    store.set(Note, 1, Note(1, "a"))
    assert len(client(redis_addr).keys("strata:{note:*}:dirty")) == 1
    assert inspect(store).buffer.unsent == 0


def test_a_lost_ledger_is_filled_again_while_the_writer_lives(make: MakeStore, dsn: str, redis_addr: str) -> None:
    store = store_of(make, deferred())
    for id in range(50):
        store.set(Note, id, Note(id, "a"))
    hand_off(store)
    client(redis_addr).flushall()
    assert persist(store, "note") == 0
    store.flush_dirty(10)
    assert rows(dsn, "SELECT count(*) FROM note") == [(50,)]


def test_the_flusher_notices_a_lost_ledger_by_itself(make: MakeStore, dsn: str, redis_addr: str) -> None:
    store = store_of(make, deferred(), by_hand=False, write_behind_flush_interval=0.05)
    run(dsn, "ALTER TABLE note RENAME TO hidden")  # so that nothing can be persisted yet
    for id in range(50):
        store.set(Note, id, Note(id, "a"))
    wait_until(lambda: inspect(store).buffer.unsent == 0)
    client(redis_addr).flushall()
    run(dsn, "ALTER TABLE hidden RENAME TO note")
    wait_until(lambda: rows(dsn, "SELECT count(*) FROM note") == [(50,)], timeout=30)
    wait_until(lambda: store.stats().dirty_count == 0)


def test_a_full_buffer_writes_to_l3_at_once_and_tells_everybody(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), write_behind_max_dirty=10)
    other = store_of(make, deferred())
    other.set_many(Note, {99: Note(99, "old")})
    sure(other)
    assert other.get(Note, 99).text == "old"
    for id in range(10):
        store.set(Note, id, Note(id))
    comes_after(store, other)
    store.set(Note, 99, Note(99, "new"))
    assert rows(dsn, "SELECT id, text FROM note") == [(99, "new")]
    assert store.stats().dirty_count == 10
    assert store.get(Note, 99).text == "new"
    wait_until(lambda: other.get(Note, 99).text == "new", timeout=5)


def test_what_went_around_the_ledger_is_not_followed_by_what_is_older(make: MakeStore) -> None:
    store, older = store_of(make, deferred(), write_behind_max_dirty=1), store_of(make, deferred())
    older.delete(Note, 1)
    comes_after(store, older)
    store.set(Note, 2, Note(2, "in the buffer"))
    store.set(Note, 1, Note(1, "around"))
    hand_off(older)
    assert store.get(Note, 1, force_l2=True).text == "around"
    wait_until(lambda: older.get(Note, 1, default=None, force_l2=True) == Note(1, "around"))


def test_writes_that_left_a_full_buffer_are_still_flushed(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred(), write_behind_max_dirty=10)
    for id in range(10):
        store.set(Note, id, Note(id))
    hand_off(store)
    for id in range(10, 20):
        store.set(Note, id, Note(id))
    assert store.stats().dirty_count == 20
    store.flush_dirty(10)
    assert rows(dsn, "SELECT count(*) FROM note") == [(20,)]
    assert store.stats().dirty_count == 0


def test_a_write_that_left_a_full_buffer_and_was_written_anew_is_not_waited_for_ever(make: MakeStore) -> None:
    store = store_of(make, deferred(), write_behind_max_dirty=1)
    for id, text in ((1, "left"), (2, "left"), (1, "anew")):
        store.set(Note, id, Note(id, text))
        hand_off(store)
    assert persist(store, "note") == 2
    inspect(store).outcomes.collect()
    inspect(store).redrive.own()
    assert store.stats().dirty_count == 0


def test_flush_says_how_many_are_left(make: MakeStore, dsn: str) -> None:
    store = store_of(make, deferred())
    run(dsn, "DROP TABLE note")
    store.set(Note, 1, Note(1))
    store.set(Note, 2, Note(2))
    with pytest.raises(FlushTimeoutError) as caught:
        store.flush_dirty(0.1)
    assert caught.value.remaining == 2
    assert store.stats().dirty_count == 2


@dataclass
class Wide:
    """The newer version of a model that has fewer columns in an older process."""

    id: Annotated[int, strata.PrimaryKey]
    text: str = ""
    size: int = 7
    seen: Annotated[datetime | None, strata.AutoNowAdd] = None


@dataclass
class Narrow:
    """The older version."""

    id: Annotated[int, strata.PrimaryKey]
    text: str = ""


def test_a_newer_worker_gives_the_columns_that_an_older_writer_does_not_know_their_defaults(
    make: MakeStore, dsn: str
) -> None:
    newer = store_of(make, deferred(Wide, name="things"))
    older = make(write_behind_flush_interval=HOUR)
    paced(older)
    older.register(deferred(Narrow, name="things"))
    idle(older)
    newer.set_many(Wide, {1: Wide(1, "there", 42)})
    comes_after(older, newer)
    older.set(Narrow, 1, Narrow(1, "changed"))
    older.set(Narrow, 2, Narrow(2, "new"))
    hand_off(older)
    assert persist(newer, "things") == 2
    assert rows(dsn, "SELECT id, text, size, seen IS NOT NULL FROM things ORDER BY id") == [
        (1, "changed", 42, True),
        (2, "new", 7, True),
    ]


def test_an_older_worker_leaves_what_a_newer_process_wrote_to_newer_workers(make: MakeStore, dsn: str) -> None:
    newer = store_of(make, deferred(Wide, name="things"))
    older = make(write_behind_flush_interval=HOUR)
    paced(older)
    older.register(deferred(Narrow, name="things"))
    idle(older)
    newer.set(Wide, 1, Wide(1, "a", 42))
    hand_off(newer)
    for _ in range(3):
        assert persist(older, "things") == 0
    assert newer.dead_letters.list() == []
    newer.flush_dirty(10)
    assert rows(dsn, "SELECT text, size FROM things") == [("a", 42)]


def test_pending_stats_tell_what_the_ledger_holds(store: DataStore) -> None:
    behind = inspect(store).writebehind
    assert behind.pending_stats()["note"].pending == 0
    for id in range(30):
        store.set(Note, id, Note(id))
    hand_off(store)
    stats = behind.pending_stats()["note"]
    assert stats.pending == 30 and stats.oldest_age >= 0 and stats.dead == 0


def test_writes_that_nobody_takes_do_not_keep_the_flusher_busy(make: MakeStore) -> None:
    store = make(write_behind_flush_interval=0.5, write_behind_flush_threshold=2)
    paced(store, most=0)  # a ledger without room
    store.register(deferred())
    store.migrate()
    parts = inspect(store)
    rounds: list[int] = []
    run = parts.handoff.run

    def counted() -> int:
        rounds.append(1)
        return run()

    parts.handoff.run = counted  # type: ignore[method-assign]
    for id in range(5):
        store.set(Note, id, Note(id, "waits"))
    wait_until(lambda: parts.redrive._rounds > 5)
    assert 0 < len(rounds) <= parts.redrive._rounds
    with pytest.raises(FlushTimeoutError):
        store.close(timeout=0.1)


@dataclass
class Page:
    id: Annotated[int, PrimaryKey]
    title: str = ""
    body: Annotated[str, OmitL1] = ""
    extra: Annotated[dict[str, int], OmitCache] = field(default_factory=dict)


def test_what_set_returns_has_the_columns_that_the_caches_do_not_keep(make: MakeStore) -> None:
    store = store_of(make, deferred(Page))
    given = Page(1, "a", "long", {"n": 1})
    returned = store.set("page", 1, given)
    assert returned == given and returned is not given and returned.extra is not given.extra
    store.flush_dirty()
    assert store.get("page", 1, whole=True) == given
