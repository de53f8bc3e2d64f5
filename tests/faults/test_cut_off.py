"""A writer that alone is cut off from Redis: those who are connected to everything read what it writes all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from strata import Collection, DataStore, L2PoolConfig, MemPolicy, PostgresPolicy, RedisPolicy, WriteMode
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.l1.trust import BUS_GRACE
from strata.protocol.versions import NODE_BITS
from strata.testing import Proxy, inspect
from tests.models import Note
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.faults

SHORT = L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5)
TIERS: dict[str, dict[str, Any]] = {
    "all tiers": {},
    "without L1": {"l1": None},
    "without L2": {"l2": None},
}


@pytest.fixture
def link(redis_addr: str) -> Iterator[Proxy]:
    with Proxy(redis_addr) as proxy:
        yield proxy


def registered(store: DataStore, **options: Any) -> Collection[Note]:
    made = store.register(schema(Note, name="notes", **options))
    store.migrate()
    sure(store)
    return made


def cut(link: Proxy) -> None:
    link.refuse()
    link.cut()


def text(notes: Collection[Note], id: int = 1) -> str | None:
    found = notes.get(id, default=None)
    return None if found is None else found.text


WRITES: dict[str, Callable[[DataStore, Collection[Note]], object]] = {
    "set": lambda store, notes: notes.set(1, Note(1, "new")),
    "set_many": lambda store, notes: notes.set_many({1: Note(1, "new"), 2: Note(2, "new")}),
    "tx": lambda store, notes: store.tx().set("notes", 1, Note(1, "new")).commit(),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("tiers", TIERS)
def test_what_a_writer_without_redis_commits_others_read_while_it_is_still_cut_off(
    make: MakeStore, link: Proxy, tiers: str, write: str
) -> None:
    writer, reader = make(redis_addr=link.addr, l2_pool=SHORT), make()
    written, read = registered(writer, **TIERS[tiers]), registered(reader, **TIERS[tiers])
    written.set(1, Note(1, "old"))
    wait_until(lambda: text(read) == "old")
    cut(link)
    WRITES[write](writer, written)
    assert text(written) == "new"
    wait_until(lambda: text(read) == "new", what="the new value")
    assert not link.connections


def test_the_first_read_of_an_instance_finds_what_was_written_without_redis(make: MakeStore, link: Proxy) -> None:
    writer = make(redis_addr=link.addr, l2_pool=SHORT)
    written = registered(writer)
    written.set(1, Note(1, "old"))
    cut(link)
    written.set(1, Note(1, "new"))
    assert text(make().register(schema(Note, name="notes"))) == "new"


def test_what_is_written_without_redis_stays_in_memory_for_a_moment_only(make: MakeStore, link: Proxy) -> None:
    # Another writer may have announced its commit before, and put nothing after it.
    writer = make(redis_addr=link.addr, l2_pool=SHORT)
    written = registered(writer)
    cut(link)
    written.set(1, Note(1, "new"))
    entry = inspect(writer).schemas["notes"].l1.entries[1]
    assert entry.ends <= entry.loaded + BUS_GRACE


def test_what_is_deleted_without_redis_is_gone_for_others(make: MakeStore, link: Proxy) -> None:
    writer, reader = make(redis_addr=link.addr, l2_pool=SHORT), make()
    written, read = registered(writer), registered(reader)
    written.set(1, Note(1, "old"))
    assert text(read) == "old"
    cut(link)
    written.delete(1)
    wait_until(lambda: text(read) is None, what="the deletion")


def test_what_is_written_without_redis_after_a_deletion_of_a_faster_clock_others_read(
    make: MakeStore, link: Proxy
) -> None:
    writer, deleter = make(redis_addr=link.addr, l2_pool=SHORT), make()
    written, deleted = registered(writer), registered(deleter)
    deleted.set(1, Note(1, "old"))
    cut(link)
    inspect(deleter).versions.observe(inspect(deleter).stamp() + (20_000_000 << NODE_BITS))
    deleted.delete(1)
    written.set(1, Note(1, "new"))
    wait_until(lambda: text(deleted) == "new", timeout=5, what="the new value")


@pytest.mark.parametrize("tiers", ["all tiers", "without L2"])
def test_a_deferred_write_that_went_around_the_ledger_others_read(make: MakeStore, link: Proxy, tiers: str) -> None:
    behind = {**TIERS[tiers], "write_mode": WriteMode.WRITE_BEHIND}
    writer, reader = make(redis_addr=link.addr, l2_pool=SHORT), make()
    written, read = registered(writer, **behind), registered(reader, **behind)
    written.set(1, Note(1, "old"))
    writer.flush_dirty()
    wait_until(lambda: text(read) == "old")
    cut(link)
    written.set(1, Note(1, "new"))
    writer.flush_dirty()
    wait_until(lambda: text(read) == "new", what="the new value")


def test_while_the_ledger_is_away_what_went_around_it_is_read_by_those_who_reach_redis(
    dsn: str, redis_addr: str, own_valkey: EmbeddedValkey
) -> None:
    with stores(dsn, redis_addr) as make:
        ledger = {"ledger_addr": own_valkey.addr, "broker_url": "memory://", "l2_pool": SHORT}
        writer, reader = make(**ledger), make(**ledger)
        written, read = (registered(store, write_mode=WriteMode.WRITE_BEHIND) for store in (writer, reader))
        written.set(1, Note(1, "old"))
        writer.flush_dirty()
        wait_until(lambda: text(read) == "old")
        own_valkey.kill()
        written.set(1, Note(1, "new"))
        writer.flush_dirty()
        wait_until(lambda: text(read) == "new", what="the new value")


def test_a_deferred_write_of_which_only_the_ledger_heard_is_told_once_it_is_persisted(
    dsn: str, redis_addr: str, own_valkey: EmbeddedValkey, link: Proxy
) -> None:
    """The writer reaches the ledger's Redis, and not the cache's."""
    with stores(dsn, redis_addr) as make:
        ledger = {"ledger_addr": own_valkey.addr, "broker_url": "memory://", "l2_pool": SHORT}
        writer, reader = make(redis_addr=link.addr, **ledger), make(**ledger)
        written, read = (registered(store, write_mode=WriteMode.WRITE_BEHIND) for store in (writer, reader))
        written.set(1, Note(1, "old"))
        writer.flush_dirty()
        wait_until(lambda: text(read) == "old")
        cut(link)
        written.set(1, Note(1, "new"))
        wait_until(lambda: text(read) == "new", what="the new value")


def test_one_of_many_looks_for_repairs_and_each_takes_its_turn(make: MakeStore) -> None:
    many = [make() for _ in range(4)]
    for store in many:
        registered(store)
    repairs = [inspect(store).repairs for store in many]
    pulse = repairs[0]._pulse
    assert pulse is not None
    assert repairs[0].turns() == ("notes",)
    wait_until(lambda: pulse.beat(0, ("notes",)) == ["notes"], what="a turn")
    assert pulse.beat(0, ("notes",)) == []  # the turn of that second is taken


def test_an_instance_without_postgres_leaves_the_looking_to_others(make: MakeStore, dsn: str, link: Proxy) -> None:
    parts = conninfo_to_dict(dsn)
    with Proxy(f"{parts['host']}:{parts['port']}") as way:
        writer, reader = make(redis_addr=link.addr, l2_pool=SHORT), make()
        blind = make(postgres_dsn=make_conninfo(dsn, host="127.0.0.1", port=way.port))
        written, read, _ = (registered(store) for store in (writer, reader, blind))
        written.set(1, Note(1, "old"))
        assert text(read) == "old"
        cut(way)
        repairs = inspect(blind).repairs
        repairs.look(["notes"])
        wait_until(lambda: repairs._blind and repairs.turns() == (), what="a look that fails")
        cut(link)
        written.set(1, Note(1, "new"))
        wait_until(lambda: text(read) == "new", what="the new value")
        way.resume()
        wait_until(lambda: repairs.turns() == ("notes",), what="a look that succeeds")


def test_l1_and_postgres_without_any_redis_need_no_repairs(make: MakeStore) -> None:
    store = make(redis_addr="")
    notes = store.register(schema(Note, name="notes", l1=MemPolicy(ttl=60), l2=None, l3=PostgresPolicy()))
    store.migrate()
    notes.set(1, Note(1, "kept"))
    assert text(notes) == "kept"


def test_a_store_trusts_redis_from_its_first_call_on(make: MakeStore) -> None:
    first, second = make(), make()
    one = first.register(schema(Note, name="notes", l2=RedisPolicy(ttl=60)))
    first.migrate()
    one.set(1, Note(1, "kept"))
    other = second.register(schema(Note, name="notes", l2=RedisPolicy(ttl=60)))
    assert text(other) == "kept"
    assert second.stats().l2_hits == 1


@pytest.mark.parametrize("read", ["get", "get_many", "exists"])
def test_who_is_cut_off_does_not_go_on_reading_its_own_deferred_write_that_another_has_overtaken(
    make: MakeStore, link: Proxy, read: str
) -> None:
    calls: dict[str, Callable[[Collection[Note]], bool]] = {
        "get": lambda notes: notes.get(1, default=None) is None,
        "get_many": lambda notes: notes.get_many([1]) == {},
        "exists": lambda notes: not notes.exists(1),
    }
    alone, other = make(redis_addr=link.addr, l2_pool=SHORT, write_behind_flush_interval=600), make()
    mine, theirs = (registered(store, write_mode=WriteMode.WRITE_BEHIND) for store in (alone, other))
    mine.set(1, Note(1, "mine"))
    cut(link)
    theirs.delete(1)
    other.flush_dirty()
    assert calls[read](theirs)
    wait_until(lambda: calls[read](mine), what="what the other wrote")
    link.resume()
    sure(alone)
    assert calls[read](mine), "nobody has told it of what it missed"


@pytest.mark.parametrize("read", ["get", "get_many", "exists"])
def test_who_reaches_neither_redis_nor_postgres_still_reads_what_it_wrote_itself(
    own_postgres: EmbeddedPostgres, redis_addr: str, link: Proxy, read: str
) -> None:
    place = conninfo_to_dict(own_postgres.dsn)
    calls: dict[str, Callable[[Collection[Note]], bool]] = {
        "get": lambda notes: text(notes) == "mine",
        "get_many": lambda notes: notes.get_many([1]) == {1: Note(1, "mine")},
        "exists": lambda notes: notes.exists(1),
    }
    with Proxy(f"{place['host']}:{place['port']}") as rows, stores(own_postgres.dsn, redis_addr) as make:
        dsn = make_conninfo(own_postgres.dsn, host="127.0.0.1", port=rows.addr.rpartition(":")[2])
        store = make(redis_addr=link.addr, postgres_dsn=dsn, l2_pool=SHORT, write_behind_flush_interval=600)
        notes = registered(store, write_mode=WriteMode.WRITE_BEHIND, l1=None)
        notes.set(1, Note(1, "mine"))
        for proxy in (link, rows):
            cut(proxy)
        wait_until(lambda: not inspect(store).sure)
        assert calls[read](notes)
