"""The life of one record: `ttl` in `set`, `set_many` and `get_or_set`, and `touch`, in every mode and set of tiers."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from strata import (
    DataStore,
    Durability,
    InvalidConfigError,
    L2UnavailableError,
    MemPolicy,
    NotFoundError,
    PostgresPolicy,
    Q,
    RedisPolicy,
    Schema,
    SearchExpiry,
    WriteMode,
)
from strata.embedded import EmbeddedCluster
from strata.l1.entry import L1Entry
from strata.l2.values import Put
from strata.testing import Proxy, inspect
from strata.writebehind.writer.handoff import HandOff
from tests import forked
from tests.behind import client, hand_off, idle, paced, persist, run
from tests.fleet import ROOT, environment
from tests.models import Note
from tests.stores import MakeStore, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.both_faces

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
BEHIND, L1_LATER = WriteMode.WRITE_BEHIND, WriteMode.WRITE_THROUGH_L1_ASYNC
KEY = "strata:notes:1"
ENDING: dict[str, dict[str, Any]] = {  # where the record itself ends
    "L1": {"l1": L1},
    "L2": {"l2": L2},
    "L1+L2": {"l1": L1, "l2": L2},
    "L1+L2, aging": {
        "l1": MemPolicy(ttl=60, jitter=0.5, eager_refresh=0.5, fail_safe=60),
        "l2": RedisPolicy(ttl=600, jitter=0.5),
    },
}
LASTING: dict[str, dict[str, Any]] = {  # where it is in L3 afterwards
    "through": {"l1": L1, "l2": L2, "l3": L3},
    "through, L1 later": {"l1": L1, "l2": L2, "l3": L3, "write_mode": L1_LATER},
    "through, no L1": {"l2": L2, "l3": L3},
    "through, no L2": {"l1": L1, "l3": L3},
    "L3": {"l3": L3},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L1": {"l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L2": {"l1": L1, "l3": L3, "write_mode": BEHIND},
    "aging": {
        "l1": MemPolicy(ttl=60, jitter=0.5, eager_refresh=0.5, fail_safe=60),
        "l2": RedisPolicy(ttl=600, jitter=0.5, eager_refresh=0.5, fail_safe=600),
        "l3": L3,
    },
}
IN_L2 = {name: tiers for name, tiers in LASTING.items() if "l2" in tiers}
SHORT = 0.2
KILLED = """
import os, sys
from strata import Config, DataStore, Durability, MemPolicy, PostgresPolicy, RedisPolicy, Schema, WriteMode
from strata.testing import inspect
from tests.behind import idle, paced
from tests.models import Note
store = DataStore(Config.from_env(
    write_behind_durability=Durability.JOURNAL, journal_dir=sys.argv[1], write_behind_flush_interval=3600,
))
paced(store)
schema = Schema(Note, name="notes", l1=MemPolicy(ttl=60), l2=RedisPolicy(ttl=600), l3=PostgresPolicy(),
    write_mode=WriteMode.WRITE_BEHIND)
store.register(schema)
idle(store)
store.set(Note, 1, Note(1), ttl=300)
store.set(Note, 2, Note(2), ttl=0)
store.set(Note, 3, Note(3))
store.set(Note, 4, Note(4))
inspect(store).handoff.run_for = lambda schema, key: (_ for _ in ()).throw(inspect(store).redis.unavailable(OSError()))
store.touch(Note, 4, 200)
os.kill(os.getpid(), 9)
"""
Make = Callable[..., DataStore]


@pytest.fixture
def plain(dsn: str, redis_addr: str) -> Any:
    """Stores of the synchronous face alone, where both go the same way."""
    with stores(dsn, redis_addr) as factory:
        yield factory


@pytest.fixture
def l2(redis_addr: str) -> Any:
    return client(redis_addr)


def opened(make: MakeStore, tiers: dict[str, Any], **options: Any) -> DataStore:
    store = make(**options)
    if "l3" in tiers:
        paced(store)
    store.register(Schema(Note, name="notes", **({"l1": None, "l2": None, "l3": None} | tiers)))
    if "l3" in tiers:
        store.migrate()
    if "l2" in tiers or "l3" in tiers:
        sure(store)
    return store


@pytest.fixture(params=ENDING)
def ending(request: pytest.FixtureRequest, make: MakeStore) -> DataStore:
    return opened(make, ENDING[request.param])


@pytest.fixture(params=LASTING)
def lasting(request: pytest.FixtureRequest, make: MakeStore) -> DataStore:
    return opened(make, LASTING[request.param])


@pytest.fixture(params=ENDING | LASTING)
def store(request: pytest.FixtureRequest, make: MakeStore) -> DataStore:
    return opened(make, (ENDING | LASTING)[request.param])


def entry_of(store: DataStore) -> L1Entry | None:
    entries = inspect(store).schemas["notes"].l1.entries
    return entries.get(1)


def life_in_l1(store: DataStore) -> float:
    entry = entry_of(store)
    assert entry is not None
    return round(entry.ends - entry.loaded, 3)


def over(store: DataStore) -> bool:
    """Whether L1 has no copy that it may serve."""
    entry = entry_of(store)
    return entry is None or entry.ends <= inspect(store).schemas["notes"].clock.monotonic()


def cached(store: DataStore) -> L1Entry:
    """The copy in L1, once it is there: an own message that comes late keeps it out."""

    def read() -> L1Entry | None:
        store.get("notes", 1)
        return entry_of(store)

    wait_until(read)
    entry = entry_of(store)
    assert entry is not None
    return entry


def is_gone(store: DataStore, id: int) -> bool:
    return store.get("notes", id, default=None) is None


def text(store: DataStore) -> str | None:
    found = store.get("notes", 1, default=None)
    return None if found is None else str(found.text)


def gone(store: DataStore) -> bool:
    """Whether no call shows the record any more."""
    return (
        text(store) is None
        and not store.get_many("notes", [1])
        and not store.exists("notes", 1)
        and store.get("notes", 1, default=None, force_l2=True) is None
    )


def served_past_l3(store: DataStore, dsn: str) -> bool:
    """Whether the record comes from a cache: L3 says something else."""
    run(dsn, "UPDATE notes SET text = 'L3'")
    return text(store) != "L3"


# -- where the lowest tier is a cache the record ends ----------------------------------------------------------------


def test_without_l3_a_record_ends_with_its_own_life(ending: DataStore) -> None:
    ending.set("notes", 1, Note(1, "short"), ttl=SHORT)
    ending.set("notes", 2, Note(2, "long"))
    wait_until(lambda: text(ending) is None)
    assert gone(ending)
    with pytest.raises(NotFoundError):
        ending.get("notes", 1)
    with pytest.raises(NotFoundError):
        ending.touch("notes", 1, 60)
    assert ending.get("notes", 2).text == "long"


def test_a_life_of_its_own_may_be_longer_than_that_of_the_policies(make: MakeStore) -> None:
    for tiers in ({"l1": MemPolicy(ttl=SHORT)}, {"l1": MemPolicy(ttl=SHORT), "l2": RedisPolicy(ttl=SHORT)}):
        store = opened(make, tiers)
        store.set("notes", 1, Note(1, "long"), ttl=timedelta(hours=1))
        store.set("notes", 2, Note(2, "as all"))
        wait_until(partial(is_gone, store, 2))
        assert text(store) == "long"
        entry = cached(store)
        assert 3590 < entry.ends - entry.loaded < 3601


def test_zero_is_without_end_as_in_the_policies(make: MakeStore, l2: Any) -> None:
    one, other = (opened(make, {"l1": MemPolicy(ttl=1), "l2": RedisPolicy(ttl=1)}) for _ in range(2))
    one.set("notes", 1, Note(1, "for ever"), ttl=0)
    assert text(other) == "for ever"
    assert l2.pttl(KEY) == -1 and cached(one).ends == cached(other).ends == math.inf


def test_set_many_and_get_or_set_give_lives_too(ending: DataStore) -> None:
    ending.set_many("notes", {1: Note(1, "many"), 2: Note(2, "many")}, ttl=SHORT)
    ending.set_many("notes", {3: Note(3, "many")})
    assert ending.get_or_set("notes", 4, lambda: Note(4, "made"), ttl=SHORT).text == "made"
    wait_until(lambda: set(ending.get_many("notes", [1, 2, 3, 4])) == {3})
    assert ending.get_or_set("notes", 4, lambda: Note(4, "made anew"), ttl=60).text == "made anew"


def test_a_set_without_ttl_has_the_life_of_the_policies_again(ending: DataStore) -> None:
    ending.set("notes", 2, Note(2, "short"), ttl=SHORT)
    ending.set("notes", 1, Note(1, "short"), ttl=SHORT)
    ending.set("notes", 1, Note(1, "long"))
    wait_until(lambda: ending.get("notes", 2, default=None) is None)
    assert text(ending) == "long"


def test_what_is_changed_in_place_keeps_its_life(ending: DataStore) -> None:
    for change in (
        lambda: ending.update("notes", 1, text="changed"),
        lambda: ending.modify("notes", 1, lambda note: Note(1, "changed")),
    ):
        ending.set("notes", 1, Note(1, "short"), ttl=SHORT)
        change()
        wait_until(lambda: text(ending) is None)
        ending.set("notes", 1, Note(1, "for ever"), ttl=0)
        change()
        assert text(ending) == "changed"
        entry = entry_of(ending)
        assert entry is None or entry.ends == math.inf


def test_what_is_changed_in_l2_ends_when_it_would_have(plain: MakeStore, l2: Any) -> None:
    store = opened(plain, ENDING["L2"])
    store.set("notes", 1, Note(1), ttl=60)
    ends = l2.pexpiretime("strata:notes:1")
    for number in range(5):
        store.update("notes", 1, text=f"changed {number}")
    assert l2.pexpiretime("strata:notes:1") == ends > 0


def test_no_process_shows_a_record_after_its_end(plain: MakeStore, l2: Any) -> None:
    readers = [opened(plain, ENDING["L1+L2"]) for _ in range(3)]
    readers[0].set("notes", 1, Note(1, "short"), ttl=SHORT)
    assert [text(store) for store in readers] == ["short"] * 3
    assert readers[2].get_many("notes", [1])[1].text == "short"
    wait_until(lambda: not l2.exists(KEY))
    assert all(gone(store) for store in readers)


@pytest.mark.parametrize("read", ["get", "get_many", "get_or_set"])
def test_what_another_process_read_from_l2_has_what_is_left_there(plain: MakeStore, l2: Any, read: str) -> None:
    one, other = (opened(plain, ENDING["L1+L2"]) for _ in range(2))
    for ttl in (3600.0, 30.0):
        one.set("notes", 1, Note(1, "a life"), ttl=ttl)
        l2.pexpire(KEY, 20_000)  # some of it has passed
        wait_until(lambda: entry_of(other) is None)
        reads: dict[str, Callable[[], object]] = {
            "get": lambda: other.get("notes", 1),
            "get_many": lambda: other.get_many("notes", [1]),
            "get_or_set": lambda: other.get_or_set("notes", 1, lambda: Note(1)),
        }
        reads[read]()
        assert 15 < life_in_l1(other) <= 20


def test_many_records_of_both_kinds_are_read_together(plain: MakeStore) -> None:
    one, other = (opened(plain, ENDING["L1+L2"]) for _ in range(2))
    one.set_many("notes", {n: Note(n, "own") for n in range(300)}, ttl=30)
    one.set_many("notes", {n: Note(n, "as all") for n in range(300, 600)})
    entries = inspect(other).schemas["notes"].l1.entries
    wait_until(lambda: len(other.get_many("notes", range(600))) == len(entries) == 600)  # all messages have come
    assert {entry.own for n, entry in entries.items() if n < 300} == {True}
    assert {round(entry.ends - entry.loaded, 3) for n, entry in entries.items() if n >= 300} == {60}
    assert max(entry.ends - entry.loaded for n, entry in entries.items() if n < 300) < 30.001


def test_the_bytes_are_those_that_a_release_without_such_lives_reads(plain: MakeStore, l2: Any) -> None:
    """It takes 25 bytes for the header, and looks at the first 24."""
    store = opened(plain, ENDING["L1+L2"])
    store.set("notes", 1, Note(1, "short"), ttl=30)
    own = l2.get(KEY)
    store.set("notes", 1, Note(1, "short"))
    other = l2.get(KEY)
    assert own[:3] == other[:3] and own[22:24] == other[22:24] == b":s" and own[25:] == other[25:]
    assert (own[24:25], other[24:25]) == (b";", b":")


@pytest.mark.in_turn
def test_a_cluster_keeps_lives() -> None:
    with EmbeddedCluster() as cluster, stores("", cluster.url) as make:
        one, other = (opened(make, ENDING["L1+L2"]) for _ in range(2))
        one.set_many("notes", {n: Note(n, "own") for n in range(20)}, ttl=30)
        assert len(other.get_many("notes", range(20))) == 20
        assert max(entry.ends - entry.loaded for entry in inspect(other).schemas["notes"].l1.entries.values()) < 30.001
        one.touch("notes", 1, SHORT)
        wait_until(lambda: entry_of(other) is None)
        wait_until(lambda: text(other) is None)
        assert gone(one)


# -- with L3 it is read from there -----------------------------------------------------------------------------------


def test_with_l3_a_record_is_read_from_there_when_its_life_in_the_caches_is_over(lasting: DataStore, dsn: str) -> None:
    lasting.set("notes", 1, Note(1, "cached"), ttl=SHORT)
    lasting.flush_dirty()
    run(dsn, "UPDATE notes SET text = 'L3'")
    wait_until(lambda: text(lasting) == "L3")
    entry = entry_of(lasting)
    if entry is not None:
        assert not entry.own and life_in_l1(lasting) <= 60  # the life of the policies


@pytest.mark.parametrize("tiers", IN_L2.values(), ids=IN_L2)
def test_no_process_serves_a_copy_after_its_life(plain: MakeStore, dsn: str, l2: Any, tiers: dict[str, Any]) -> None:
    one, other = (opened(plain, tiers) for _ in range(2))
    one.set("notes", 1, Note(1, "cached"), ttl=2)
    one.flush_dirty()
    assert text(other) == text(one) == "cached"
    assert 0 < l2.pttl(KEY) <= 2000
    for store in (one, other):
        assert (entry := entry_of(store)) is None or (entry.own and life_in_l1(store) <= 2)
    run(dsn, "UPDATE notes SET text = 'L3'")
    wait_until(lambda: not l2.exists(KEY))
    assert text(other) == text(one) == "L3"
    assert l2.pttl(KEY) > 2000


def test_a_life_of_its_own_outlives_that_of_the_policies_beside_l3(plain: MakeStore, dsn: str, l2: Any) -> None:
    tiers = {"l1": MemPolicy(ttl=SHORT), "l2": RedisPolicy(ttl=SHORT), "l3": L3}
    one, other = (opened(plain, tiers) for _ in range(2))
    one.set_many("notes", {1: Note(1, "cached")}, ttl=60)
    one.set("notes", 2, Note(2))
    wait_until(lambda: not l2.exists("strata:notes:2"))
    assert served_past_l3(one, dsn) and served_past_l3(other, dsn)


def test_fail_safe_keeps_no_copy_beyond_a_life_of_its_own(plain: MakeStore, l2: Any) -> None:
    store = opened(plain, LASTING["aging"])
    store.set("notes", 1, Note(1, "short"), ttl=SHORT)
    assert l2.pttl(KEY) <= SHORT * 1000
    wait_until(lambda: not l2.exists(KEY))
    bound = inspect(store).schemas["notes"]
    assert bound.l1.stale(1, bound.clock.monotonic()) is None
    assert bound.l1.store is not None
    bound.l1.store.sweep(bound.clock.monotonic())
    assert entry_of(store) is None


def test_search_fills_copies_with_what_is_left(plain: MakeStore, l2: Any) -> None:
    one, other = (opened(plain, LASTING["through"]) for _ in range(2))
    one.set("notes", 1, Note(1, "cached"), ttl=30)
    entries = inspect(other).schemas["notes"].l1.entries
    wait_until(lambda: [note.text for note in other.search("notes")] == ["cached"] and 1 in entries)  # else told of it
    assert life_in_l1(other) <= 30


@pytest.mark.parametrize("known", [False, True], ids=["by L2", "by L1"])
@pytest.mark.parametrize("expiry", list(SearchExpiry), ids=lambda expiry: expiry.value)
def test_a_kept_search_ends_with_the_first_life_of_a_record_in_it(
    plain: MakeStore, dsn: str, l2: Any, expiry: SearchExpiry, known: bool
) -> None:
    store = opened(plain, {"l1": L1, "l2": RedisPolicy(ttl=600, search_expiry=expiry), "l3": L3})
    store.set("notes", 2, Note(2, "long"))
    store.set("notes", 1, Note(1, "short"), ttl=2)
    if not known:
        inspect(store).schemas["notes"].l1.clear()
    query = Q().where("id < $1", 9).order_by("id")
    assert [note.text for note in store.search_cached("notes", query)] == ["short", "long"]
    run(dsn, "UPDATE notes SET text = 'L3' WHERE id = 1")
    wait_until(lambda: [note.text for note in store.search_cached("notes", query)] == ["L3", "long"])
    wait_until(lambda: (l2.get(KEY) or b"")[24:25] in (b"", b":"), what="the end of L2's copy")


def test_get_or_set_beside_l3_gives_what_it_makes_a_life_and_leaves_what_is_there(lasting: DataStore, dsn: str) -> None:
    assert lasting.get_or_set("notes", 1, lambda: Note(1, "made"), ttl=SHORT).text == "made"
    run(dsn, "UPDATE notes SET text = 'L3'")
    wait_until(lambda: text(lasting) == "L3")
    assert lasting.get_or_set("notes", 1, lambda: Note(1, "never"), ttl=SHORT).text == "L3"
    assert (entry := entry_of(lasting)) is None or not entry.own


# -- written behind --------------------------------------------------------------------------------------------------


def test_a_deferred_write_keeps_its_life_through_hand_off_and_persist(plain: MakeStore, dsn: str, l2: Any) -> None:
    one, other = (opened(plain, LASTING["behind"]) for _ in range(2))
    idle(one)
    idle(other)
    one.set("notes", 1, Note(1, "deferred"), ttl=30)
    assert life_in_l1(one) == pytest.approx(30) and not l2.exists(KEY)
    hand_off(one)
    handed = l2.pttl(KEY)
    assert 0 < handed <= 30_000 and l2.get(KEY)[23:25] == b"p;"
    # Told of the hand-off a moment later, it fills only then.
    wait_until(lambda: text(other) == "deferred" and entry_of(other) is not None)
    assert life_in_l1(other) <= 30
    persist(one, "notes")
    assert l2.get(KEY)[23:25] == b"s;" and 0 < l2.pttl(KEY) <= handed


def test_what_l3_makes_of_a_deferred_write_has_its_life_too(plain: MakeStore, dsn: str, l2: Any) -> None:
    store = opened(plain, LASTING["behind"])
    idle(store)
    run(
        dsn,
        "CREATE FUNCTION louder() RETURNS trigger AS $$ BEGIN NEW.text := upper(NEW.text); RETURN NEW; END $$ "
        "LANGUAGE plpgsql; CREATE TRIGGER louder BEFORE INSERT OR UPDATE ON notes FOR EACH ROW EXECUTE "
        "FUNCTION louder()",
    )
    store.migrate()
    store.set("notes", 1, Note(1, "deferred"), ttl=30)
    hand_off(store)
    persist(store, "notes")
    assert text(store) == "DEFERRED"
    assert l2.get(KEY)[23:25] == b"s;" and 0 < l2.pttl(KEY) <= 30_000


def test_a_life_that_is_over_before_the_hand_off_leaves_nothing_in_l2(plain: MakeStore, l2: Any) -> None:
    store = opened(plain, LASTING["behind"])
    store.set("notes", 1, Note(1, "before"))
    store.flush_dirty()
    assert l2.exists(KEY)
    idle(store)
    store.set("notes", 1, Note(1, "deferred"), ttl=SHORT)
    wait_until(
        lambda: (entry := entry_of(store)) is None or entry.ends < inspect(store).schemas["notes"].clock.monotonic()
    )
    hand_off(store)
    assert not l2.exists(KEY)
    assert text(store) == "deferred"  # it is still this process's own


def test_the_journal_of_a_writer_that_was_killed_keeps_lives(
    plain: MakeStore, dsn: str, redis_addr: str, l2: Any, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert forked.run(words, env=environment(dsn, redis_addr), cwd=ROOT, timeout=60).returncode == -9
    assert not l2.exists(KEY)
    store = opened(plain, LASTING["behind"], write_behind_durability=Durability.JOURNAL, journal_dir=tmp_path)
    idle(store)
    inspect(store).replay.take_over()
    hand_off(store)
    wait_until(lambda: len(l2.keys("strata:notes:*")) == 4)
    assert [l2.get(f"strata:notes:{id}")[24:25] for id in (1, 2, 3, 4)] == [b";", b";", b":", b";"]
    assert 0 < l2.pttl("strata:notes:1") <= 300_000
    assert l2.pttl("strata:notes:2") == -1
    assert 300_000 < l2.pttl("strata:notes:3") <= 600_000
    assert 0 < l2.pttl("strata:notes:4") <= 200_000  # touched, with Redis away


# -- touch -----------------------------------------------------------------------------------------------------------


def test_touch_makes_a_life_longer_and_shorter(ending: DataStore) -> None:
    ending.set("notes", 2, Note(2), ttl=SHORT)
    ending.set("notes", 1, Note(1, "touched"), ttl=SHORT)
    ending.touch("notes", 1, 60)
    wait_until(lambda: ending.get("notes", 2, default=None) is None)
    assert text(ending) == "touched"
    ending.touch("notes", 1, ttl=timedelta(seconds=SHORT))
    wait_until(lambda: text(ending) is None)
    assert gone(ending)


def test_touch_by_none_gives_the_life_of_the_policies(store: DataStore) -> None:
    store.set("notes", 1, Note(1, "touched"), ttl=0)
    store.touch("notes", 1, None)
    store.get("notes", 1)
    entry = entry_of(store)
    assert entry is None or (not entry.own and entry.ends < inspect(store).schemas["notes"].clock.monotonic() + 61)


def test_what_is_not_there_is_not_touched(store: DataStore) -> None:
    with pytest.raises(NotFoundError):
        store.touch("notes", 1, 60)
    store.set("notes", 1, Note(1))
    store.delete("notes", 1)
    with pytest.raises(NotFoundError):
        store.touch("notes", 1, 60)
    store.flush_dirty()
    assert text(store) is None
    with pytest.raises(NotFoundError):
        store.touch("notes", 1, 60)


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "60", True, timedelta(seconds=-1)], ids=repr)
def test_what_is_no_duration_is_refused_before_anything_is_written(make: MakeStore, wrong: Any) -> None:
    store = opened(make, LASTING["through"])
    notes = store.register(Schema(Note, name="others", l1=L1))
    for call in (
        lambda: store.set("notes", 1, Note(1), ttl=wrong),
        lambda: store.set_many("notes", {1: Note(1)}, ttl=wrong),
        lambda: store.get_or_set("notes", 1, lambda: Note(1), ttl=wrong),
        lambda: store.touch("notes", 1, wrong),
        lambda: notes.set(1, Note(1), ttl=wrong),
        lambda: notes.touch(1, wrong),
    ):
        with pytest.raises(InvalidConfigError, match=r"ttl is .*0 or more"):
            call()
    assert text(store) is None


def test_a_touch_reaches_the_copies_of_other_processes(plain: MakeStore, l2: Any) -> None:
    for tiers in (ENDING["L1+L2"], LASTING["through"], LASTING["behind"]):
        one, other = (opened(plain, tiers) for _ in range(2))
        for before in (None, 0, 300):
            one.set("notes", 1, Note(1, "touched"), ttl=before)
            one.flush_dirty()
            wait_until(lambda other=other: text(other) == "touched")  # type: ignore[misc]
            one.touch("notes", 1, 30)
            wait_until(lambda other=other: entry_of(other) is None, what="the other copy goes")  # type: ignore[misc]
            assert 0 < l2.pttl(KEY) <= 30_000
            assert text(other) == text(one) == "touched"
            for store in (one, other):
                entry = cached(store)
                assert entry.own and entry.ends <= inspect(store).schemas["notes"].clock.monotonic() + 30


def test_a_life_that_is_made_longer_leaves_copies_where_they_are(plain: MakeStore, l2: Any) -> None:
    """They end with what they know, and are read again then: a session that is touched by every request costs the bus
    nothing."""
    one, other = (opened(plain, ENDING["L1+L2"]) for _ in range(2))
    one.set("notes", 1, Note(1, "session"), ttl=SHORT)
    assert text(other) == "session"
    with l2.pubsub() as heard:
        heard.subscribe("strata:invalidate")
        wait_until(lambda: heard.get_message())
        one.touch("notes", 1, 60)
        one.set("notes", 2, Note(2))
        messages: list[bytes] = []

        def told() -> bool:
            message = heard.get_message(ignore_subscribe_messages=True)
            messages.extend([message["data"]] if message else [])
            return any(b'"id":"2"' in data for data in messages)

        wait_until(told)
    assert not any(b'"id":"1"' in data for data in messages)
    wait_until(
        lambda: (entry := entry_of(other)) is None or entry.ends < inspect(other).schemas["notes"].clock.monotonic()
    )
    assert text(other) == text(one) == "session"


def test_what_the_caches_lost_is_loaded_and_has_the_life(lasting: DataStore, l2: Any) -> None:
    lasting.set("notes", 1, Note(1, "there"))
    lasting.flush_dirty()
    inspect(lasting).schemas["notes"].l1.clear()
    l2.delete(KEY)
    lasting.touch("notes", 1, 30)
    bound = inspect(lasting).schemas["notes"]
    if bound.l2 is not None:
        assert 0 < l2.pttl(KEY) <= 30_000 and l2.get(KEY)[24:25] == b";"
    assert (entry := entry_of(lasting)) is None or (entry.own and life_in_l1(lasting) <= 31)
    assert text(lasting) == "there"


def test_the_lease_of_a_reader_does_not_bring_the_life_before_back(plain: MakeStore, l2: Any) -> None:
    store = opened(plain, LASTING["through"])
    store.set("notes", 1, Note(1, "there"))
    inspect(store).schemas["notes"].l1.clear()
    l2.set(KEY, "L1:somebody's", px=5000)
    store.touch("notes", 1, 30)
    assert l2.get(KEY)[:3] == b"V1:" and 0 < l2.pttl(KEY) <= 30_000


def test_a_pending_write_is_handed_off_with_the_life_of_a_touch(plain: MakeStore, l2: Any) -> None:
    store = opened(plain, LASTING["behind"])
    idle(store)
    store.set("notes", 1, Note(1, "deferred"))
    store.touch("notes", 1, 30)
    assert l2.get(KEY)[23:25] == b"p;" and 0 < l2.pttl(KEY) <= 30_000
    store.touch("notes", 1, 20)  # handed off, and not persisted
    assert l2.get(KEY)[23:25] == b"p;" and 0 < l2.pttl(KEY) <= 20_000
    persist(store, "notes")
    assert l2.get(KEY)[23:25] == b"s;" and 0 < l2.pttl(KEY) <= 20_000
    assert text(store) == "deferred" and life_in_l1(store) <= 21


def test_a_touch_beside_a_hand_off_is_not_undone_by_it(
    plain: MakeStore, l2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(plain, LASTING["behind"])
    idle(store)
    store.set("notes", 1, Note(1, "deferred"))
    hand = HandOff._hand_off

    def touched_meanwhile(self: HandOff, *what: Any) -> Any:
        monkeypatch.setattr(HandOff, "_hand_off", hand)
        inspect(store).buffer.touch("notes", 1, inspect(store).schemas["notes"].clock.monotonic() + 30)
        return hand(self, *what)

    monkeypatch.setattr(HandOff, "_hand_off", touched_meanwhile)
    hand_off(store)  # of the life before
    assert l2.pttl(KEY) > 30_000
    store.touch("notes", 1, 30)
    assert 0 < l2.pttl(KEY) <= 30_000


# -- races, and servers that are away --------------------------------------------------------------------------------


def test_a_touch_neither_brings_back_what_was_deleted_nor_touches_what_is_newer(plain: MakeStore, l2: Any) -> None:
    store = opened(plain, ENDING["L1+L2"])
    context, bound = inspect(store), inspect(store).schemas["notes"]
    assert bound.l2 is not None
    late = Put("1", context.stamp(), None, b"{}", life=1.0)  # a touch whose script runs late
    store.set("notes", 1, Note(1, "newer"), ttl=3600)
    assert bound.l2.touch("strata:invalidate", late)[1] is False
    assert l2.pttl(KEY) > 3_000_000
    store.delete("notes", 1)
    assert bound.l2.touch("strata:invalidate", late) == (None, False)
    assert text(store) is None


def test_a_touch_by_a_clock_that_is_late_is_made_again(plain: MakeStore, l2: Any) -> None:
    one, other = (opened(plain, ENDING["L1+L2"]) for _ in range(2))
    inspect(one).versions.observe(inspect(one).stamp() + (30_000_000 << 11))  # half a minute ahead
    one.set("notes", 1, Note(1, "ahead"))
    other.touch("notes", 1, 30)
    assert 0 < l2.pttl(KEY) <= 30_000


@pytest.mark.parametrize("tiers", [ENDING["L2"], ENDING["L1+L2"], LASTING["through"]], ids=["L2", "L1+L2", "through"])
def test_where_redis_is_away_a_touch_says_so(plain: MakeStore, redis_addr: str, l2: Any, tiers: dict[str, Any]) -> None:
    with Proxy(redis_addr) as proxy:
        store = opened(plain, tiers, redis_addr=proxy.addr)
        store.set("notes", 1, Note(1, "there"), ttl=60)
        proxy.refuse()
        proxy.cut()
        with pytest.raises(L2UnavailableError):
            store.touch("notes", 1, 30)
        assert l2.pttl(KEY) > 30_000
        assert entry_of(store) is None


def test_a_pending_write_is_touched_while_redis_is_away(plain: MakeStore, redis_addr: str, l2: Any) -> None:
    with Proxy(redis_addr) as proxy:
        store = opened(plain, LASTING["behind"], redis_addr=proxy.addr)
        idle(store)
        store.set("notes", 1, Note(1, "deferred"), ttl=3600)
        proxy.refuse()
        proxy.cut()
        store.touch("notes", 1, 30)
        proxy.resume()
        with contextlib.suppress(L2UnavailableError):
            wait_until(lambda: _handed(store))
        assert 0 < l2.pttl(KEY) <= 30_000


def _handed(store: DataStore) -> bool:
    with contextlib.suppress(L2UnavailableError):
        hand_off(store)
    return not inspect(store).buffer.unsent
