"""Two instances, workers, evictions and a lost ledger in random order: reads are never older than what the instance
itself wrote, and L3 ends with the highest version of every key."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from strata import UNLOADED, Collection, DataStore
from strata.l3.values import Repair
from strata.protocol.messages import MessageOp
from strata.protocol.versions import NODE_BITS
from strata.testing import inspect
from strata.writebehind.service import WriteBehind
from tests.behind import client, comes_after, deferred, hand_off, idle, paced, persist, rows
from tests.models import Account, Note
from tests.stores import MakeStore, sure
from tests.support import wait_until

HOUR = 3600.0
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
STEPS = 120
SHARED = ["s1", "s2", "s3"]


class World:
    """What was written, by version; and the two instances that write."""

    def __init__(self, make: MakeStore, redis_addr: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.redis = client(redis_addr)
        self.instances: list[DataStore] = []
        for _ in range(2):
            store = make(
                write_behind_flush_interval=HOUR, write_behind_flush_threshold=10**9, encryption_key=bytes(range(32))
            )
            paced(store)
            store.register(deferred(Account))
            store.migrate()
            idle(store)
            self.instances.append(store)
        self.number = 0
        self.history: dict[str, dict[int, str | None]] = {}  # key -> version -> name, None for a deletion
        self.own: dict[tuple[int, str], int] = {}  # the version that an instance wrote last
        self.biographies: dict[str, str] = {}  # of keys that one instance alone writes

    def step(self) -> None:
        me = self.chance.randrange(2)
        store = self.instances[me]
        kind = self.chance.choices(
            ["set", "delete", "partial", "sync", "hand off", "persist", "flush", "forget L1", "evict L2", "lose"],
            [30, 8, 12, 3, 15, 15, 4, 6, 6, 1],
        )[0]
        getattr(self, kind.replace(" ", "_"))(me, store)
        self.check_reads()

    def set(self, me: int, store: DataStore) -> None:
        key = self.key(me)
        self.write(me, store, key, Account(key, self.name(), None, self.biography(key), None))

    def partial(self, me: int, store: DataStore) -> None:
        key = f"only{me}"
        if self.current(me, key) is None:
            return
        biography = self.biography(key) if self.chance.random() < 0.5 else UNLOADED
        self.write(me, store, key, Account(key, self.name(), UNLOADED, biography, UNLOADED))

    def delete(self, me: int, store: DataStore) -> None:
        self.write(me, store, self.key(me), None)

    def sync(self, me: int, store: DataStore) -> None:
        key = f"only{me}"
        record = Account(key, self.name(), None, self.biography(key), None)
        store.set_many(Account, {key: record})
        version = rows(store.config.postgres_dsn, f"SELECT _strata_version FROM account WHERE id = '{key}'")[0][0]
        self.history.setdefault(key, {})[version] = record.name
        self.own[me, key] = version

    def hand_off(self, me: int, store: DataStore) -> None:
        hand_off(store)

    def persist(self, me: int, store: DataStore) -> None:
        persist(store, "account")

    def flush(self, me: int, store: DataStore) -> None:
        store.flush_dirty(20)

    def forget_L1(self, me: int, store: DataStore) -> None:
        inspect(store).schemas["account"].l1.clear()

    def evict_L2(self, me: int, store: DataStore) -> None:
        for key in self.redis.keys("strata:account:*"):
            if self.chance.random() < 0.5:
                self.redis.delete(key)

    def lose(self, me: int, store: DataStore) -> None:
        """The ledger is lost, L2 with it, and every instance notices, as its flusher does within a second."""
        self.redis.flushall()
        for instance in self.instances:
            inspect(instance).redrive.own()
            hand_off(instance)

    def write(self, me: int, store: DataStore, key: str, record: Any) -> None:
        if record is None:
            store.delete(Account, key)
        else:
            store.set(Account, key, record)
        slot = inspect(store).buffer._slots["account", key]
        self.history.setdefault(key, {})[slot.item.version] = None if record is None else record.name
        self.own[me, key] = slot.item.version

    def key(self, me: int) -> str:
        return self.chance.choice([f"only{me}", *SHARED])

    def name(self) -> str:
        self.number += 1
        return f"n{self.number}"

    def biography(self, key: str) -> str:
        self.number += 1
        self.biographies[key] = f"b{self.number}"
        return self.biographies[key]

    def current(self, me: int, key: str) -> str | None:
        version = self.own.get((me, key))
        return None if version is None else self.history[key][version]

    def check_reads(self) -> None:
        me = self.chance.randrange(2)
        for key in [f"only{me}", *SHARED]:
            mine = self.own.get((me, key))
            if mine is None:
                continue
            found = self.instances[me].get(Account, key, default=None)
            name = None if found is None else found.name
            allowed = {n for version, n in self.history[key].items() if version >= mine}
            assert name in allowed, f"{key} is {name} and must be one of {allowed}"
            if key not in SHARED and found is not None and found.biography is not UNLOADED:
                assert found.biography == self.biographies[key]

    def check_l3(self, dsn: str) -> None:
        for store in self.instances:
            store.flush_dirty(20)
        held = rows(dsn, "SELECT id, name, biography FROM account")
        found = {id: (name, biography) for id, name, biography in held}
        for key, versions in self.history.items():
            last = versions[max(versions)]
            assert (found[key][0] if key in found else None) == last, key
            if last is not None and key not in SHARED:
                assert found[key][1] == self.biographies[key]
        assert [store.stats().dirty_count for store in self.instances] == [0, 0]
        assert self.redis.keys("strata:{account:*}:dirty") == []
        assert self.redis.keys("strata:{account:*}:dead") == []


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_order_reads_are_not_older_than_own_writes_and_the_highest_version_wins(
    make: MakeStore, dsn: str, redis_addr: str, seed: int
) -> None:
    world = World(make, redis_addr, seed)
    for _ in range(STEPS):
        world.step()
    world.check_l3(dsn)


def still(make: MakeStore, **options: Any) -> tuple[DataStore, Collection[Note]]:
    """A store that hands off and persists only when the test says so, and its notes."""
    store = make(write_behind_flush_interval=HOUR, write_behind_flush_threshold=10**9, **options)
    paced(store)
    notes = store.register(deferred(Note))
    store.migrate()
    idle(store)
    return store, notes


@pytest.mark.parametrize("how", ["get", "get_many"])
def test_a_read_that_is_slower_than_a_whole_write_behind_neither_fills_nor_is_shared(
    make: MakeStore, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, notes = still(make)
    notes.set(1, Note(1, "old"))
    store.flush_dirty(20)
    notes.invalidate(1)  # L1 is empty
    reader, bound = threading.current_thread(), inspect(store).schemas["note"]
    written, peeked, answered, persisted = (threading.Event() for _ in range(4))

    behind = inspect(store).writebehind
    look = behind.peek

    def peek(bound: Any, key: Any) -> Any:
        found = look(bound, key)
        if threading.current_thread() is reader:
            peeked.set()
            assert written.wait(20)
        return found

    def slow(real: Any) -> Any:
        def read(*args: Any, **options: Any) -> Any:
            found = real(*args, **options)
            if threading.current_thread() is reader:
                answered.set()
                assert persisted.wait(20)
            return found

        return read

    assert bound.l1.store is not None and bound.l2 is not None
    monkeypatch.setattr(behind, "peek", peek)
    monkeypatch.setattr(bound.l2, "read", slow(bound.l2.read))
    monkeypatch.setattr(bound.l2, "look", slow(bound.l2.look))
    reader = threading.Thread(target=lambda: getattr(notes, how)(1 if how == "get" else [1]))
    reader.start()
    assert peeked.wait(20)
    notes.set(1, Note(1, "new"))
    written.set()  # only now the reader's claim begins, and it reads L2 before the hand-off
    assert answered.wait(20)
    store.flush_dirty(20)
    bound.l1.store.clear()  # as by eviction
    shared = []
    second = threading.Thread(target=lambda: shared.append(notes.get(1, force_l2=True)))
    second.start()
    second.join(5)  # it does not wait for the slow one
    persisted.set()
    reader.join(20)
    assert [note.text for note in shared] == ["new"]
    assert notes.get(1).text == "new"


def test_what_one_thread_has_read_of_a_write_under_way_is_not_older_for_the_next(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, notes = still(make)
    notes.set(1, Note(1, "old"))
    store.flush_dirty(20)
    sure(store)
    notes.get(1)
    seen: list[str] = []
    put = WriteBehind.put

    def read(*args: Any, **options: Any) -> int:
        version = put(*args, **options)
        # The write is in the buffer, and not yet in L1.
        seen.extend([notes.get(1, force_l2=True).text, notes.get(1).text, notes.get_many([1])[1].text])
        return version

    monkeypatch.setattr(WriteBehind, "put", read)
    notes.set(1, Note(1, "new"))
    assert seen == ["new", "new", "new"]


def test_an_own_write_is_read_again_where_the_newer_one_that_overtook_it_is_lost(
    make: MakeStore, redis_addr: str
) -> None:
    (mine, _), (other, _) = still(make), still(make)
    mine.set(Note, 1, Note(1, "first"))
    mine.flush_dirty(20)
    sure(mine)
    mine.set(Note, 1, Note(1, "mine"))
    comes_after(other, mine)
    other.set(Note, 1, Note(1, "other's"))
    hand_off(other)
    wait_until(lambda: mine.get(Note, 1).text == "other's")
    client(redis_addr).flushall()  # the newer one is in the other process's buffer only
    inspect(mine).schemas["note"].l1.clear()
    assert mine.get(Note, 1).text == "mine"
    assert mine.get_many(Note, [1])[1].text == "mine"
    assert mine.exists(Note, 1)
    comes_after(other, mine)
    other.delete(Note, 1)
    other.flush_dirty(20)
    client(redis_addr).flushall()
    inspect(mine).schemas["note"].l1.clear()
    assert mine.get(Note, 1, default=None) is None
    assert mine.get_many(Note, [1]) == {}


def test_a_deferred_write_never_has_the_version_of_a_synchronous_one_that_is_under_way(
    make: MakeStore, dsn: str
) -> None:
    store, notes = still(make)
    notes.set_many({1: Note(1, "first")})
    # Another process, whose clock is ahead, commits between the stamp and the commit of a synchronous write.
    ahead = inspect(store).stamp() + (1_000_000 << NODE_BITS)
    with ThreadPoolExecutor(1) as pool, psycopg.connect(dsn) as other:
        other.execute("UPDATE note SET _strata_version = %s WHERE id = 1", (ahead,))
        synchronous = pool.submit(notes.set_many, {1: Note(1, "synchronous")})
        wait_until(lambda: rows(dsn, WAITING) == [(1,)])
        inspect(store).versions.observe(ahead)
        notes.set(1, Note(1, "deferred"))
        slot = inspect(store).buffer.slot("note", 1)
        assert slot is not None
        other.commit()
        synchronous.result()
    assert rows(dsn, "SELECT _strata_version FROM note") != [(slot.item.version,)]
    store.flush_dirty(20)
    assert rows(dsn, "SELECT text FROM note") == [(notes.get(1).text,)]


def test_own_writes_are_read_until_a_synchronous_one_has_seen_to_a_redis_that_lost_its_intent(
    make: MakeStore, redis_addr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, notes = still(make)
    notes.set_many({1: Note(1, "old")})
    redis, bound = client(redis_addr), inspect(store).schemas["note"]
    assert bound.l2 is not None
    key, put, seen = bound.l2.key("1"), bound.l2.put, []
    old = redis.get(key)
    notes.set(1, Note(1, "own"))

    def late(*args: Any) -> Any:
        redis.set(key, old)  # by a reader who had read it before the commit
        seen.append(notes.get(1, force_l2=True).text)
        return put(*args)

    monkeypatch.setattr(bound.l2, "put", late)
    notes.set_many({1: Note(1, "synchronous")})
    assert seen == ["own"]
    assert notes.get(1).text == "synchronous"


def test_own_writes_are_read_until_a_repair_has_seen_to_l2(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store, notes = still(make)
    notes.set_many({1: Note(1, "old")})
    notes.set(1, Note(1, "own"))
    mender, bound, seen = inspect(store).repairs._mender, inspect(store).schemas["note"], []
    tell = mender._tell

    def late(*args: Any) -> None:
        seen.append(notes.get(1, force_l2=True).text)
        tell(*args)

    monkeypatch.setattr(mender, "_tell", late)
    mender._keys(bound, [Repair("1", inspect(store).stamp())], ())  # another process's, whom nobody heard
    assert seen == ["own"]
    assert notes.get(1).text == "old"  # as L3 has it


def test_a_write_that_is_overtaken_on_its_way_into_l1_does_not_enter_it(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, notes = still(make)
    bound = inspect(store).schemas["note"]
    put = WriteBehind.put

    def overtaken(deferred: WriteBehind, bound: Any, key: Any, *args: Any, **options: Any) -> int:
        version = put(deferred, bound, key, *args, **options)
        inspect(store).inbox._apply(bound, MessageOp.SET, [(key, inspect(store).stamp())])
        return version

    monkeypatch.setattr(WriteBehind, "put", overtaken)
    notes.set(1, Note(1, "overtaken"))
    assert 1 not in bound.l1.entries


@pytest.mark.parametrize("apart", [False, True], ids=["one redis", "cache and ledger apart"])
def test_a_write_that_meets_a_commit_under_way_at_its_hand_off_leaves_l1(
    make: MakeStore, redis_addr: str, apart: bool
) -> None:
    ledger = {"ledger_addr": f"redis://{redis_addr}/1"} if apart else {}
    store, notes = still(make, **ledger)
    sure(store)
    bound = inspect(store).schemas["note"]
    assert bound.l2 is not None
    bound.l2.intend(bound.l2.token(), 60, store.config.invalidation_channel, {"1": b"", "2": b""})
    notes.set(1, Note(1, "own"))
    notes.set(3, Note(3, "own"))
    assert {1, 3} <= bound.l1.entries.keys()
    hand_off(store)
    # Should that commit come late, and its writer be gone, no message would take the entry away.
    assert 1 not in bound.l1.entries and 3 in bound.l1.entries
    assert notes.get(1).text == "own"


@pytest.mark.parametrize("tiers", [{}, {"l2": None}, {"l1": None}], ids=["all tiers", "without L2", "without L1"])
@pytest.mark.parametrize("apart", [False, True], ids=["one redis", "cache and ledger apart"])
@pytest.mark.parametrize("filled_by", ["search", "warming"])
def test_rows_that_are_read_in_bulk_do_not_hide_a_write_that_is_handed_off(
    make: MakeStore, redis_addr: str, tiers: dict[str, Any], apart: bool, filled_by: str
) -> None:
    ledger = {"ledger_addr": f"redis://{redis_addr}/1"} if apart else {}
    stores = [make(write_behind_flush_interval=HOUR, **ledger) for _ in range(2)]
    for store in stores:
        paced(store)
        store.register(deferred(Note, **tiers))
        store.migrate()
        idle(store)
        sure(store)
    writer, reader = stores
    writer.set(Note, 1, Note(1, "old"))
    writer.flush_dirty()
    writer.set(Note, 1, Note(1, "new"))
    hand_off(writer)
    for key in client(redis_addr).keys("strata:note:*"):
        client(redis_addr).delete(key)  # evicted
    if filled_by == "search":
        reader.search(Note)
    else:
        reader.warm_cache(Note)
    assert reader.get(Note, 1) == Note(1, "new")


def test_what_others_have_read_while_redis_was_lost_goes_once_the_write_is_persisted(
    make: MakeStore, redis_addr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (writer, mine), (reader, theirs) = still(make), still(make)
    sure(reader)
    mine.set(1, Note(1, "old"))
    writer.flush_dirty()
    mine.set(1, Note(1, "new"))
    hand_off(writer)
    table = inspect(writer).schemas["note"].rows.table
    apply = table.apply

    def late(conn: Any, changes: Any) -> Any:
        client(redis_addr).flushall()
        wait_until(lambda: theirs.get(1) == Note(1, "old") and client(redis_addr).exists("strata:note:1"))
        return apply(conn, changes)

    monkeypatch.setattr(table, "apply", late)
    persist(writer, "note")
    wait_until(lambda: theirs.get(1) == Note(1, "new"))
