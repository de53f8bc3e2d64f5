"""`invalidate_many` and `invalidate_all`: what was changed behind Strata's back in bulk is read anew everywhere."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from strata import DataStore, EncodeError, MemPolicy, Q, RedisPolicy, SearchExpiry, WriteMode
from strata.embedded import EmbeddedCluster
from strata.testing import inspect
from tests.behind import client, deferred, hand_off, idle, paced, persist
from tests.held import Held, execute
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.both_faces

IDS = (1, 2, 3)
OLD, NEW = ({id: Note(id, text) for id in IDS} for text in ("old", "new"))


@pytest.fixture
def held_up(dsn: str, redis_addr: str) -> Any:
    """As `make`, of stores that are called by threads: what is held up would hold up a loop."""
    with stores(dsn, redis_addr) as factory:
        yield factory


def ready(make: MakeStore, **options: Any) -> DataStore:
    store = make()
    store.register(schema(Note, name="notes", **options))
    store.migrate()
    sure(store)
    return store


def change(dsn: str) -> None:
    execute(dsn, "UPDATE notes SET text = 'new'")


def read(store: DataStore) -> dict[int, Note]:
    return {id: store.get("notes", id) for id in IDS}


TIERS: dict[str, dict[str, Any]] = {
    "all": {},
    "no L1": {"l1": None},
    "no L2": {"l2": None},
    "L1 later": {"write_mode": WriteMode.WRITE_THROUGH_L1_ASYNC},
    "never expiring": {"l1": MemPolicy(ttl=0), "l2": RedisPolicy(ttl=0)},
    "aging": {"l2": RedisPolicy(ttl=600, fail_safe=600, eager_refresh=0.9, jitter=0.1)},
    "fail-safe": {"l1": MemPolicy(ttl=60, fail_safe=60)},
}


@pytest.mark.parametrize("tiers", TIERS)
@pytest.mark.parametrize("call", ["many", "all"])
def test_every_process_reads_the_rows_anew(make: MakeStore, dsn: str, tiers: str, call: str) -> None:
    one, other = ready(make, **TIERS[tiers]), ready(make, **TIERS[tiers])
    one.set_many("notes", OLD)
    assert read(one) == read(other) == OLD
    change(dsn)
    if call == "all":
        one.invalidate_all("notes")
    else:
        one.invalidate_many("notes", IDS)
    assert read(one) == NEW
    wait_until(lambda: read(other) == NEW)
    assert one.get_many("notes", IDS) == other.get_many("notes", IDS) == NEW


def test_a_collection_has_both(make: MakeStore, dsn: str) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    sure(store)
    notes.set_many(OLD)
    change(dsn)
    notes.invalidate_many([1])
    assert read(store) == OLD | {1: NEW[1]}
    notes.invalidate_all()
    assert read(store) == NEW


def test_it_is_one_write_to_redis_however_many_records_there_are(make: MakeStore, redis_addr: str) -> None:
    store = ready(make)
    store.set_many("notes", {id: Note(id) for id in range(1000)})
    before = client(redis_addr).info("commandstats")["cmdstat_evalsha"]["calls"]
    store.invalidate_all("notes")
    keys = client(redis_addr).keys("strata:notes:*")
    assert len(keys) == 1000  # which nobody reads any more
    assert client(redis_addr).info("commandstats")["cmdstat_evalsha"]["calls"] - before < 10


def test_other_schemas_are_left_alone(make: MakeStore, dsn: str) -> None:
    store = make()
    for name in ("notes", "others"):
        store.register(schema(Note, name=name))
    store.migrate()
    sure(store)
    store.set("notes", 1, Note(1, "old"))
    store.set("others", 1, Note(1, "old"))
    execute(dsn, "UPDATE others SET text = 'new'")
    store.invalidate_all("notes")
    assert store.get("others", 1).text == "old"
    assert store.get("others", 1, force_l2=True).text == "old"


def test_what_is_read_afterwards_is_cached_as_before(make: MakeStore, dsn: str) -> None:
    store, other = ready(make), ready(make)
    store.set_many("notes", OLD)
    store.invalidate_all("notes")
    read(store)
    change(dsn)
    assert read(store) == read(other) == OLD  # from L1, and from L2
    assert other.stats().l3_hits == 0


def test_a_store_that_starts_later_honours_it(make: MakeStore, dsn: str) -> None:
    store = ready(make)
    store.set_many("notes", OLD)
    change(dsn)
    store.invalidate_all("notes")
    later = make()
    later.register(schema(Note, name="notes"))
    assert read(later) == NEW  # without waiting for its bus


@pytest.mark.parametrize("missing", ["none", "l1", "l2"])
@pytest.mark.parametrize("call", ["get", "get_many", "search", "search_cached", "warm_cache"])
def test_what_began_to_be_read_before_it_fills_nothing_after_it(
    held_up: MakeStore, dsn: str, call: str, missing: str
) -> None:
    tiers = {} if missing == "none" else {missing: None}
    store, other = ready(held_up, **tiers), ready(held_up, **tiers)
    store.set("notes", 1, Note(1, "old"))
    store.invalidate("notes", 1)
    held = Held(store)
    held.pause()
    args = {"get": (1,), "get_many": ([1],)}.get(call, ())
    thread = threading.Thread(target=getattr(store, call), args=("notes", *args))
    thread.start()
    assert held.arrived.wait(30)
    change(dsn)
    other.invalidate_all("notes")
    if missing == "l2":
        wait_until(lambda: inspect(store).inbox.messages)
    held.go()
    thread.join(30)
    wait_until(lambda: store.get("notes", 1) == Note(1, "new"))
    assert other.get("notes", 1) == Note(1, "new")


def test_a_commit_that_was_under_way_does_not_bring_back_what_was_before(held_up: MakeStore, dsn: str) -> None:
    store, other = ready(held_up), ready(held_up)
    store.set("notes", 1, Note(1, "old"))
    table: Any = inspect(store).schemas["notes"].rows.table
    upsert, arrived, gate = table.upsert, threading.Event(), threading.Event()

    def held(*args: Any) -> Any:
        written = upsert(*args)
        arrived.set()
        assert gate.wait(30)
        return written

    table.upsert = held
    thread = threading.Thread(target=store.set, args=("notes", 1, Note(1, "mine")))
    thread.start()
    assert arrived.wait(30)
    execute(dsn, "UPDATE notes SET text = 'new'")
    other.invalidate_all("notes")
    gate.set()
    thread.join(30)
    wait_until(lambda: store.get("notes", 1).text == "new")
    assert other.get("notes", 1).text == "new"


def test_it_is_repeated_when_a_transaction_that_was_under_way_has_ended(make: MakeStore, dsn: str) -> None:
    store = ready(make)
    store.set_many("notes", OLD)
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE notes SET text = 'new'")
        store.invalidate_all("notes")
        assert read(store) == OLD
        conn.commit()
    wait_until(lambda: read(store) == NEW)


def test_deletions_and_remembered_absences_are_looked_up_anew(make: MakeStore, dsn: str) -> None:
    tiers = {"l1": MemPolicy(ttl=60, negative_ttl=60), "l2": RedisPolicy(ttl=600, negative_ttl=60)}
    one, other = ready(make, **tiers), ready(make, **tiers)
    one.set("notes", 1, Note(1))
    one.delete("notes", 1)
    assert all(store.get("notes", id, default=None) is None for store in (one, other) for id in (1, 2))
    execute(dsn, "INSERT INTO notes (id, text, tags, meta) VALUES (1, 'new', '[]', '{}'), (2, 'new', '[]', '{}')")
    one.invalidate_all("notes")
    assert [one.get("notes", id) for id in (1, 2)] == [NEW[1], NEW[2]]
    wait_until(lambda: [other.get("notes", id, default=None) for id in (1, 2)] == [NEW[1], NEW[2]])


def test_pending_writes_stay(make: MakeStore, dsn: str) -> None:
    store = make()
    paced(store)
    store.register(deferred(Note, name="notes"))
    store.migrate()
    sure(store)
    idle(store)
    other = make()
    other.register(deferred(Note, name="notes"))
    sure(other)
    idle(other)
    store.set("notes", 1, Note(1, "buffered"))
    store.invalidate_all("notes")
    assert store.get("notes", 1) == Note(1, "buffered")
    hand_off(store)
    other.invalidate_all("notes")
    assert other.get("notes", 1) == Note(1, "buffered")
    assert store.get("notes", 1) == Note(1, "buffered")
    persist(store, "notes")
    assert execute(dsn, "SELECT text FROM notes") == ("buffered",)
    change(dsn)
    other.invalidate_all("notes")
    assert other.get("notes", 1) == Note(1, "new")


@pytest.mark.parametrize("tiers", [{"l3": None}, {"l1": None, "l3": None}, {"l2": None, "l3": None}])
@pytest.mark.parametrize("call", ["many", "all"])
def test_the_lowest_tier_of_a_schema_stays(make: MakeStore, tiers: dict[str, Any], call: str) -> None:
    store = make()
    store.register(schema(Note, name="notes", **tiers))
    if "l2" not in tiers:
        sure(store)
    store.set_many("notes", OLD)
    if call == "all":
        store.invalidate_all("notes")
    else:
        store.invalidate_many("notes", IDS)
    assert read(store) == OLD


@pytest.mark.parametrize("expiry", SearchExpiry)
def test_kept_results_are_searched_for_anew(make: MakeStore, dsn: str, expiry: SearchExpiry) -> None:
    tiers = {"l2": RedisPolicy(ttl=600, search_expiry=expiry)}
    one, other = ready(make, **tiers), ready(make, **tiers)
    one.set_many("notes", OLD)
    query = Q().order_by("id").fields("id", "text")

    def texts(store: DataStore) -> set[str]:
        return {note.text for note in store.search_cached("notes", query)}

    assert texts(one) == texts(other) == {"old"}
    change(dsn)
    assert texts(other) == {"old"}
    one.invalidate_all("notes")
    assert texts(one) == {"new"}
    wait_until(lambda: texts(other) == {"new"})
    execute(dsn, "UPDATE notes SET text = 'newer'")
    assert texts(one) == texts(other) == {"new"}  # which is kept


def test_a_wrong_list_of_ids_is_refused_before_anything_is_dropped(make: MakeStore, dsn: str) -> None:
    store = ready(make)
    store.set_many("notes", OLD)
    change(dsn)
    wrong: Any
    for wrong in ("123", 1, None, [1, "2"], [1, None]):
        with pytest.raises(EncodeError):
            store.invalidate_many("notes", wrong)
    store.invalidate_many("notes", [])
    assert read(store) == OLD


@pytest.mark.in_turn
@pytest.mark.slow
def test_on_a_cluster(dsn: str) -> None:
    with EmbeddedCluster() as cluster, stores(dsn, cluster.url) as make:
        one, other = ready(make), ready(make)
        one.set_many("notes", OLD)
        assert read(one) == read(other) == OLD
        change(dsn)
        one.invalidate_all("notes")
        assert read(one) == NEW
        wait_until(lambda: read(other) == NEW)
        execute(dsn, "UPDATE notes SET text = 'old'")
        one.invalidate_many("notes", IDS)
        assert read(one) == OLD
        wait_until(lambda: read(other) == OLD)
