"""A version of the far future, through whatever door it comes, costs a cached copy at most, and never a write."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import msgspec
import pytest

from strata import DataStore, EncodeError, FlushTimeoutError, PostgresPolicy, WriteMode
from strata.embedded import EmbeddedPostgres
from strata.protocol.entry import Entry, EntryOp
from strata.protocol.versions import NODE_BITS, text
from strata.testing import inspect
from strata.writebehind.ledger.shard import home_of
from tests.behind import Errors, client, deferred, hand_off, idle, paced, persist, rows, run
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

HOUR = 3600.0
LAST = 10**19 - 1


def soon(seconds: float = 0.0) -> int:
    return int((time.time() + seconds) * 1e6) << NODE_BITS


BEYOND = (LAST, (1 << 63) - 1, soon(HOUR))


def quiet(make: MakeStore, **options: Any) -> DataStore:
    """A store whose write-behind does nothing by itself."""
    config = {key: options.pop(key) for key in list(options) if key.startswith("write_behind")}
    store = make(write_behind_flush_interval=HOUR, write_behind_flush_threshold=10**9, **config)
    paced(store)
    store.register(deferred(**options))
    store.migrate()
    idle(store)
    return store


def place(id: int, part: str) -> str:
    """A part of the ledger's shard in which a note's writes are."""
    return f"strata:{{{home_of('note', str(id)).tag}}}:{part}"


def in_ledger(addr: str, id: int) -> bytes | None:
    raw: bytes | None = client(addr).hget(place(id, "dirty"), str(id))
    return raw


def kept_and_written(store: DataStore, addr: str, dsn: str, ids: Any = (1,)) -> None:
    """These notes are read, counted, taken by the ledger and written to L3, as if nothing had come."""
    wanted = [("mine",)] * len(ids)
    assert [(store.get(Note, id).text,) for id in ids] == wanted
    assert store.stats().dirty_count == len(ids)
    hand_off(store)
    assert None not in [in_ledger(addr, id) for id in ids]
    persist(store, "note")
    assert rows(dsn, "SELECT text FROM note") == wanted


# -- messages -------------------------------------------------------------------------------------------------------


def test_a_message_takes_no_pending_write_away(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make)
    sure(store)
    forged = list(itertools.product(("set", "delete", "purge", "invalidate", "intent"), BEYOND))
    for id in range(len(forged)):
        store.set(Note, id, Note(id, "mine"))
    heard = inspect(store).inbox.unreadable
    for id, (op, version) in enumerate(forged):
        message = {"schema": "note", "id": f"{id}", "op": op, "v": text(version)}
        client(redis_addr).publish("strata:invalidate", json.dumps(message))
    wait_until(lambda: inspect(store).inbox.unreadable == heard + len(forged))
    kept_and_written(store, redis_addr, dsn, range(len(forged)))


def test_a_message_whose_version_is_no_version_drops_the_entry(make: MakeStore, redis_addr: str) -> None:
    store = make()
    store.register(schema(Note))
    store.migrate()
    sure(store)
    bus = inspect(store).bus
    resets = bus.resets
    for v in ("9" * 5000, "\u00b2", "-5", "", " 1", "1_0"):
        store.set(Note, 1, Note(1, "cached"))
        message = {"schema": "note", "id": "1", "op": "set", "v": v}
        client(redis_addr).publish("strata:invalidate", json.dumps(message))
        wait_until(lambda: store.stats().l1_entries == 0)
    assert bus.resets == resets


def test_a_notification_takes_no_pending_write_away(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make, l3=PostgresPolicy(watch=True))
    store.set(Note, 1, Note(1, "mine"))
    told = json.dumps({"table": "note", "keys": {"1": (1 << 63) - 1, "2": -soon(HOUR)}})
    inspect(store).outside.changed(told)
    kept_and_written(store, redis_addr, dsn)


def overtaken(store: DataStore, id: int) -> None:
    """A newer version of the note is heard of, one that may be true."""
    inspect(store).writebehind.supersede(inspect(store).schemas["note"], id, soon(30))


def test_a_write_of_which_a_newer_one_was_only_heard_of_is_not_safe(
    own_postgres: EmbeddedPostgres, redis_addr: str
) -> None:
    with stores(own_postgres.dsn, redis_addr) as make:
        store = quiet(make)
        store.set(Note, 1, Note(1, "mine"))
        overtaken(store, 1)
        own_postgres.kill()
        hand_off(store)
        assert (in_ledger(redis_addr, 1), store.stats().dirty_count) == (None, 1)
        with pytest.raises(FlushTimeoutError) as raised:
            store.close(timeout=0.3)
        assert raised.value.remaining == 1


def test_a_write_of_which_a_newer_one_was_only_heard_of_reaches_l3(make: MakeStore, dsn: str) -> None:
    store = quiet(make)
    store.set(Note, 1, Note(1, "mine"))
    overtaken(store, 1)
    store.flush_dirty(10)
    assert rows(dsn, "SELECT text FROM note") == [("mine",)]


# -- the ledger -----------------------------------------------------------------------------------------------------


def test_an_outcome_ends_no_write(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make)
    store.set(Note, 1, Note(1, "mine"))
    for version in BEYOND:
        for persisted, failed in (
            ([["1", version, False]], []),
            ([["1", version, True]], []),
            ([], [["1", version, "", "forged", 9, True]]),
        ):
            report = msgspec.msgpack.encode(["note", persisted, failed])
            client(redis_addr).rpush(f"strata:{{{inspect(store).instance}}}:outcomes", report)
    assert inspect(store).outcomes.collect() == 3 * len(BEYOND)
    kept_and_written(store, redis_addr, dsn)


def test_a_floor_refuses_no_hand_off(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make)
    floors = list(itertools.product(("floor0", "floor1"), BEYOND))
    for id, (floor, version) in enumerate(floors):
        store.set(Note, id, Note(id, "mine"))
        client(redis_addr).hset(place(id, floor), str(id), text(version))
    kept_and_written(store, redis_addr, dsn, range(len(floors)))


def forged_entry(store: DataStore, addr: str, id: int, version: int) -> None:
    plan = inspect(store).schemas["note"].plan
    row = plan.pack_row(plan.to_row(Note(id, "forged"), None))
    client(addr).hset(place(id, "dirty"), str(id), Entry(version, EntryOp.SET, 1, "nobody", row).encode())
    client(addr).zadd(place(id, "due"), {str(id): 1})


def test_a_pending_entry_gives_way_to_a_write(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make)
    for id, version in enumerate(BEYOND):
        store.set(Note, id, Note(id, "mine"))
        forged_entry(store, redis_addr, id, version)
    kept_and_written(store, redis_addr, dsn, range(len(BEYOND)))


def test_a_pending_entry_is_not_read_and_becomes_a_dead_letter(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make)
    for id, version in enumerate(BEYOND):
        forged_entry(store, redis_addr, id, version)
        assert store.get(Note, id, default=None) is None
    persist(store, "note")
    assert rows(dsn, "SELECT * FROM note") == [] and in_ledger(redis_addr, 1) is None
    letters = store.dead_letters.list()
    assert {letter.version for letter in letters} == set(BEYOND)
    assert all("far future" in letter.error for letter in letters)
    # Whoever retries them wants them written now.
    assert store.dead_letters.retry(all=True) == len(BEYOND)
    persist(store, "note")
    assert rows(dsn, "SELECT text FROM note") == [("forged",)] * len(BEYOND)
    assert rows(dsn, "SELECT max(_strata_version) FROM note")[0][0] < soon(60)
    assert store.dead_letters.list() == []


def test_a_row_of_the_repairs_ends_no_write(make: MakeStore, redis_addr: str, dsn: str) -> None:
    store = quiet(make)
    store.set(Note, 1, Note(1, "mine"))
    run(dsn, f"INSERT INTO _strata_repairs (schema, id, version) VALUES ('note', '1', {(1 << 63) - 1})")
    assert inspect(store).repairs._attempt()
    assert rows(dsn, "SELECT * FROM _strata_repairs") == []
    kept_and_written(store, redis_addr, dsn)


# -- L2 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND])
def test_a_value_in_l2_is_not_served_and_heals(make: MakeStore, redis_addr: str, mode: WriteMode) -> None:
    store = make()
    store.register(schema(Note, write_mode=mode))
    store.migrate()
    if mode is WriteMode.WRITE_BEHIND:
        idle(store)  # or it settles what was written while the test looks
    redis = client(redis_addr)
    forged = list(itertools.product(("V1:{}:s:", "V1:{}:p:", "T1:{}:s:"), BEYOND))
    for id, (head, version) in enumerate(forged):
        key, wrong = f"strata:note:{id}", head.format(text(version)) + '{"id":1,"text":"forged","tags":[],"meta":{}}'
        store.set(Note, id, Note(id, "mine"))
        store.flush_dirty()
        redis.set(key, wrong)
        assert store.get(Note, id, force_l2=True).text == "mine"
        assert b"mine" in redis.get(key)
        redis.set(key, wrong)
        store.set(Note, id, Note(id, "newer"))
        store.flush_dirty()
        assert store.get_many(Note, [id])[id].text == "newer"
        assert store.get(Note, id, force_l2=True).text == "newer"
        assert b"newer" in redis.get(key)
    assert store.stats().corrupt >= len(forged)


def test_an_intent_that_never_ends_is_nobody_s(make: MakeStore, redis_addr: str) -> None:
    store = make()
    store.register(schema(Note))
    store.migrate()
    redis = client(redis_addr)
    for intent in ("I1:c:x=99999999999999;", "I1:s:x=9000000000000000000;", "I1:c:anything", "I1:c:"):
        store.set(Note, 1, Note(1, "mine"))
        redis.set("strata:note:1", intent)
        assert store.get(Note, 1, force_l2=True).text == "mine"
        assert b"mine" in redis.get("strata:note:1")
        redis.set("strata:note:1", intent)
        store.set(Note, 1, Note(1, "newer"))
        assert b"newer" in redis.get("strata:note:1")


def test_where_l2_is_the_lowest_tier_a_write_takes_its_place(make: MakeStore, redis_addr: str) -> None:
    store = make()
    store.register(schema(Note, l3=None))
    for record in (Note(1, "first"), None, Note(1, "second")):
        client(redis_addr).set("strata:note:1", f"V1:{LAST}:s:forged")
        assert store.get(Note, 1, default=None, force_l2=True) is None
        if record is None:
            store.delete(Note, 1)
        else:
            store.set(Note, 1, record)
        assert store.get(Note, 1, default=None, force_l2=True) == record


# -- L3 -------------------------------------------------------------------------------------------------------------


def restored(dsn: str, version: int = soon(HOUR)) -> None:
    run(dsn, f"UPDATE note SET _strata_version = {version}")


def test_a_row_of_the_far_future_can_be_written_through_and_is_not_cached(
    make: MakeStore, redis_addr: str, dsn: str
) -> None:
    one, other = make(), make()
    for store in (one, other):
        store.register(schema(Note))
        store.migrate()
        sure(store)
    one.set(Note, 1, Note(1, "before"))
    restored(dsn)
    one.invalidate(Note, 1)
    for number in range(3):
        for store in (one, other):
            store.set(Note, 1, Note(1, f"{number}"))
            assert (one.get(Note, 1).text, other.get(Note, 1).text) == (f"{number}", f"{number}")
            assert client(redis_addr).get("strata:note:1") is None
    run(dsn, "UPDATE note SET _strata_version = 0")
    one.set(Note, 1, Note(1, "mended"))
    assert b"mended" in client(redis_addr).get("strata:note:1")
    assert one.stats().l1_entries == 1


@pytest.mark.parametrize("what", ["row", "tombstone"])
def test_a_deferred_write_behind_one_becomes_a_dead_letter_that_says_so(
    make: MakeStore, redis_addr: str, dsn: str, what: str
) -> None:
    errors = Errors()
    store = quiet(make, hooks=errors.hooks())
    store.set(Note, 1, Note(1, "before"))
    if what == "tombstone":
        store.delete(Note, 1)
    store.flush_dirty()
    restored(dsn)
    run(dsn, f"UPDATE _strata_tombstones SET version = {soon(HOUR)}")
    store.set(Note, 1, Note(1, "mine"))
    store.flush_dirty(10)
    wait_until(lambda: errors.keys == [1])
    [letter] = store.dead_letters.list()
    assert "far future" in letter.error and "_strata_version" in letter.error
    assert store.stats().dirty_count == 0
    run(dsn, "UPDATE note SET _strata_version = 0")
    run(dsn, "UPDATE _strata_tombstones SET version = 0")
    store.dead_letters.retry(letter.id)
    store.flush_dirty(10)
    assert rows(dsn, "SELECT text FROM note") == [("mine",)]


def test_one_that_was_overtaken_too_does_not_wait_for_ever(make: MakeStore, dsn: str) -> None:
    store = quiet(make)
    store.set(Note, 1, Note(1, "before"))
    store.flush_dirty()
    restored(dsn)
    store.set(Note, 1, Note(1, "mine"))
    overtaken(store, 1)
    store.flush_dirty(10)
    assert [letter.op for letter in store.dead_letters.list()] == ["set"]


def test_a_full_buffer_s_write_behind_one_is_refused(make: MakeStore, dsn: str) -> None:
    store = quiet(make, write_behind_max_dirty=1)
    store.set(Note, 1, Note(1, "before"))
    store.flush_dirty()
    restored(dsn)
    store.set(Note, 2, Note(2, "fills the buffer"))
    with pytest.raises(EncodeError, match="far future"):
        store.set(Note, 1, Note(1, "mine"))


# -- the own clock --------------------------------------------------------------------------------------------------


def test_what_a_clock_gone_wrong_has_stamped_is_stamped_anew_before_anybody_sees_it(
    make: MakeStore, redis_addr: str, dsn: str
) -> None:
    store = quiet(make)
    clock = inspect(store).versions
    store.set(Note, 0, Note(0, "an identity first"))
    now = time.time()
    clock.discipline(now + HOUR, now, now)
    store.set(Note, 1, Note(1, "an hour ahead"))
    store.set(Note, 2, Note(2, "an hour ahead"))
    now = time.time()
    clock.discipline(now, now, now)
    store.set(Note, 2, Note(2, "newer"))
    assert store.get(Note, 2).text == "newer"
    hand_off(store)
    persist(store, "note")
    assert rows(dsn, "SELECT text FROM note WHERE id > 0 ORDER BY id") == [("an hour ahead",), ("newer",)]
    assert rows(dsn, "SELECT max(_strata_version) FROM note")[0][0] < soon(60)
    assert store.dead_letters.list() == []
