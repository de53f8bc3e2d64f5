"""`increment`: numbers are added to, in every mode, and none of it is lost or counted twice."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import permutations
from typing import Annotated, Any

import pytest

import strata
from strata import (
    UNLOADED,
    DataStore,
    EncodeError,
    MemPolicy,
    NotFoundError,
    PostgresPolicy,
    Q,
    RedisPolicy,
    Schema,
    WriteMode,
)
from strata.engine.read import Reader
from strata.protocol.versions import NODE_BITS
from strata.testing import inspect
from strata.writebehind.dirty import changes, tally
from strata.writebehind.persist.outcomes import OutcomeReport, Outcomes, Persisted
from tests.behind import Errors, client, comes_after, deferred, hand_off, idle, paced, persist, run
from tests.stores import MakeStore, sure
from tests.support import wait_until

pytestmark = pytest.mark.both_faces

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
BEHIND = WriteMode.WRITE_BEHIND
TIERS: dict[str, dict[str, Any]] = {
    "through": {"l1": L1, "l2": L2, "l3": L3},
    "through, L1 later": {"l1": L1, "l2": L2, "l3": L3, "write_mode": WriteMode.WRITE_THROUGH_L1_ASYNC},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L1": {"l1": None, "l2": L2, "l3": L3, "write_mode": BEHIND},
    "behind, no L2": {"l1": L1, "l2": None, "l3": L3, "write_mode": BEHIND},
    "L1+L2": {"l1": L1, "l2": L2, "l3": None},
    "L2": {"l1": None, "l2": L2, "l3": None},
    "L1": {"l1": L1, "l2": None, "l3": None},
}


@dataclass
class Counter:
    id: Annotated[int, strata.PrimaryKey]
    hits: int = 0
    weight: float = 0.0
    money: Decimal = Decimal(0)
    seen: int | None = None
    title: str = ""
    changed: Annotated[datetime | None, strata.AutoNow] = None


@dataclass
class Named:
    """Columns of the names that tables have in the statements over them."""

    id: Annotated[int, strata.PrimaryKey]
    p: str = ""
    r: int = 0
    s: int = 0
    d: str = ""
    h: str = ""
    n: int = 0


@pytest.fixture(params=TIERS)
def store(request: pytest.FixtureRequest, make: MakeStore) -> DataStore:
    return store_of(make, TIERS[request.param])


def store_of(make: MakeStore, tiers: dict[str, Any], **options: Any) -> DataStore:
    store = make()
    store.register(Schema(Counter, name="counters", **(tiers | options)))
    store.migrate()
    if any(tiers[name] is not None for name in ("l2", "l3")):
        sure(store)
    return store


def flushed(store: DataStore) -> Any:
    """The record, once everything deferred is in L3."""
    store.flush_dirty()
    return store.get(Counter, 1)


def test_what_is_added_is_returned_read_and_kept(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1, hits=10, title="kept"))
    assert store.increment(Counter, 1, hits=5).hits == 15
    found = store.increment(Counter, 1, hits=-2, weight=1.5, money=Decimal("0.10"))
    assert (found.hits, found.weight, found.money) == (13, 1.5, Decimal("0.10"))
    assert store.get(Counter, 1).hits == 13
    kept = flushed(store)
    assert (kept.hits, kept.weight, kept.money, kept.title) == (13, 1.5, Decimal("0.10"), "kept")
    assert store.get_many(Counter, [1])[1].hits == 13


def test_a_record_that_is_not_there_is_not_made(store: DataStore) -> None:
    with pytest.raises(NotFoundError):
        store.increment(Counter, 1, hits=5)
    assert store.get(Counter, 1, default=None) is None


def test_with_a_default_it_is_made_and_added_to(store: DataStore) -> None:
    assert store.increment(Counter, 1, hits=5, default=Counter(1, hits=100, title="new")).hits == 105
    assert store.increment(Counter, 1, hits=5, default=Counter(1, hits=100)).hits == 110
    kept = flushed(store)
    assert (kept.hits, kept.title) == (110, "new")


def test_a_set_takes_the_place_of_what_was_added_before_it_and_not_after(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    store.increment(Counter, 1, hits=5)
    store.set(Counter, 1, Counter(1, hits=1000))
    assert store.increment(Counter, 1, hits=7).hits == 1007
    assert flushed(store).hits == 1007


def test_after_a_deletion_it_begins_anew(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    store.increment(Counter, 1, hits=5)
    store.delete(Counter, 1)
    with pytest.raises(NotFoundError):
        store.increment(Counter, 1, hits=1)
    assert store.increment(Counter, 1, hits=2, default=Counter(1, hits=10)).hits == 12
    assert store.get(Counter, 1).hits == 12
    assert flushed(store).hits == 12


def test_fields_that_are_none_count_from_zero(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    assert store.increment(Counter, 1, seen=3).seen == 3
    assert flushed(store).seen == 3


def test_auto_now_is_stamped(store: DataStore) -> None:
    before = store.set(Counter, 1, Counter(1)).changed
    after = store.increment(Counter, 1, hits=1).changed
    assert before is not None and after is not None and after > before
    assert flushed(store).changed == after


def test_what_a_caller_changes_of_the_record_changes_nothing(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    store.increment(Counter, 1, hits=1).hits = 100
    assert store.increment(Counter, 1, hits=1).hits == 2
    assert flushed(store).hits == 2


@pytest.mark.parametrize(
    ("deltas", "told"),
    [
        ({}, "no field"),
        ({"nothing": 1}, "no number 'nothing'"),
        ({"id": 1}, "no number 'id'"),
        ({"title": 1}, "no number 'title'"),
        ({"hits": 1.5}, "is of type float"),
        ({"hits": True}, "is of type bool"),
        ({"hits": "1"}, "is of type str"),
        ({"hits": 1 << 63}, "BIGINT"),
        ({"weight": float("nan")}, "not finite"),
        ({"weight": 10**400}, "below 1.8e308"),
        ({"money": 0.1}, "is of type float"),
        ({"money": Decimal("Infinity")}, "not finite"),
        ({"money": Decimal("1E+131072")}, "131,072 digits before the point"),
        ({"money": Decimal("1E-16384")}, "16,383 after it"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(
    make: MakeStore, deltas: dict[str, Any], told: str
) -> None:
    store = store_of(make, TIERS["behind"])
    store.set(Counter, 1, Counter(1))
    with pytest.raises(EncodeError, match=told):
        store.increment(Counter, 1, **deltas)
    assert flushed(store) == store.get(Counter, 1, force_l3=True)
    assert store.get(Counter, 1).hits == 0


def test_threads_that_add_at_once_are_all_counted(store: DataStore) -> None:
    store.set(Counter, 1, Counter(1))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: store.increment(Counter, 1, hits=1).hits, range(80)))
    assert store.get(Counter, 1).hits == 80
    assert flushed(store).hits == 80
    assert sorted(found) == list(range(1, 81))


def test_a_record_that_is_forgotten_just_then_is_returned_whole(make: MakeStore, monkeypatch: Any) -> None:
    store = counting(make)
    store.set_many(Counter, {1: Counter(1, hits=7, title="kept")})
    store.increment(Counter, 1, hits=1)
    inspect(store).schemas["counters"].l1.forget(1)
    monkeypatch.setattr(tally, "KNOWN_FOR", 0.0)
    monkeypatch.setattr(tally.Tallies, "knows", lambda *_: True)  # a moment ago
    found = store.increment(Counter, 1, hits=2)
    assert (found.hits, found.title) == (10, "kept")


# -- written behind: what travels, and what may happen to it --------------------------------------------------------


def counting(make: MakeStore, *, watch: bool = False, **timing: Any) -> DataStore:
    """A store that defers, and does nothing by itself but what a test asks of it."""
    store = make()
    paced(store, **timing)
    store.register(deferred(Counter, name="counters", l3=PostgresPolicy(watch=watch)))
    store.migrate()
    sure(store)
    idle(store)
    return store


def sums(store: DataStore, id: int = 1) -> int:
    """What L3 has."""
    return int(store.get(Counter, id, force_l3=True).hits)


def entry_of(store: DataStore, redis_addr: str) -> bytes:
    """The one entry of the ledger."""
    server = client(redis_addr)
    [raw] = [raw for key in server.scan_iter("*:dirty") for raw in server.hvals(key)]
    return bytes(raw)


def test_a_thousand_increments_are_one_entry_and_one_update(make: MakeStore, redis_addr: str) -> None:
    store = counting(make)
    store.set_many(Counter, {1: Counter(1)})
    for _ in range(1000):
        store.increment(Counter, 1, hits=1)
    assert hand_off(store) == 1
    assert len(entry_of(store, redis_addr)) < 300
    assert persist(store, "counters") == 1
    assert sums(store) == 1000


def test_what_several_processes_add_meets_in_the_ledger(make: MakeStore) -> None:
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1)})
    one.increment(Counter, 1, hits=1)
    other.increment(Counter, 1, hits=10)
    hand_off(one)
    hand_off(other)
    one.increment(Counter, 1, hits=100)
    hand_off(one)
    assert persist(one, "counters") == 1
    assert sums(one) == 111
    assert other.get(Counter, 1).hits == one.get(Counter, 1).hits == 111


def test_a_worker_that_dies_between_its_commit_and_its_word_counts_nothing_twice(
    make: MakeStore, monkeypatch: Any
) -> None:
    store = counting(make, lease=0.1)
    store.set_many(Counter, {1: Counter(1)})
    store.increment(Counter, 1, hits=5)
    hand_off(store)
    ledger = inspect(store).ledger
    with monkeypatch.context() as patch:
        patch.setattr(type(ledger), "done", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            persist(store, "counters")
    assert sums(store) == 5
    store.increment(Counter, 1, hits=10)
    hand_off(store)
    wait_until(lambda: persist(store, "counters") == 1)
    assert sums(store) == 15


def test_a_ledger_that_is_lost_loses_nothing_and_adds_nothing_twice(make: MakeStore, redis_addr: str) -> None:
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1)})
    for store, number in ((one, 1), (other, 10)):
        store.increment(Counter, 1, hits=number)
        hand_off(store)
    persist(one, "counters")  # of which `other` is not told
    server = client(redis_addr)
    server.delete(*server.keys("*{counters:*"))
    for store in (one, other):
        store.increment(Counter, 1, hits=100)
        hand_off(store)
        hand_off(store)  # what was kept is handed off again, now that the ledger is another
    persist(one, "counters")
    assert sums(one) == 211


def test_what_is_handed_off_twice_or_in_any_order_counts_once(make: MakeStore) -> None:
    store = counting(make)
    store.set_many(Counter, {1: Counter(1)})
    bound, parts = inspect(store).schemas["counters"], []
    for number in (1, 10, 100):
        store.increment(Counter, 1, hits=number)
        (_, item), *_ = inspect(store).buffer.pending()
        parts.append(changes.of_item(bound, 1, "1", item))
    for order in permutations(parts):
        with bound.rows.primary.transaction() as conn:
            for change in (*order, *order):
                changes.apply(bound, conn, [change])
        assert sums(store) == 111


def test_a_set_that_comes_late_is_under_what_was_added_after_it(make: MakeStore) -> None:
    early, late = counting(make), counting(make)
    early.set_many(Counter, {1: Counter(1, hits=7)})
    early.set(Counter, 1, Counter(1, hits=1000))
    comes_after(late, early)
    late.increment(Counter, 1, hits=5)
    for store in (late, early):  # the later first
        hand_off(store)
        persist(store, "counters")
    assert sums(early) == 1005


def test_who_writes_around_the_ledger_ends_nothing_that_others_added(make: MakeStore) -> None:
    """The answer to its hand-off was lost, and with it that the entry is another's as well, who may be gone by now."""
    gone, one = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1)})
    gone.increment(Counter, 1, hits=1)
    hand_off(gone)
    comes_after(one, gone)
    one.increment(Counter, 1, hits=10)
    (pending, *_) = inspect(one).buffer.pending()
    hand_off(one)
    inspect(one).bypass.overtaken(inspect(one).schemas["counters"], [pending])
    persist(one, "counters")
    assert sums(one) == 11


def test_a_worker_that_was_overtaken_ends_nothing_that_it_did_not_claim(make: MakeStore, monkeypatch: Any) -> None:
    """It wakes when what it persisted has gone, and what others added stands there at the very same version."""
    slow, worker, one, other, newest = (counting(make, lease=0.1) for _ in range(5))
    newest.set_many(Counter, {1: Counter(1)})
    one.increment(Counter, 1, hits=1)
    other.increment(Counter, 1, hits=10)
    comes_after(newest, one)
    comes_after(newest, other)
    newest.increment(Counter, 1, hits=100)
    ((slot, item), *_) = inspect(newest).buffer.pending()
    hand_off(newest)
    hand_off(one)
    ledger, late = inspect(slow).ledger, []
    monkeypatch.setattr(ledger, "done", lambda *args: late.append(args))
    assert persist(slow, "counters")
    wait_until(lambda: persist(worker, "counters") == 1)
    inspect(newest).buffer.again(slot, item.version)  # it was not told, and the ledger has nothing of it
    hand_off(newest)
    hand_off(other)
    monkeypatch.undo()
    ledger.done(*late[0])
    wait_until(lambda: persist(worker, "counters") == 1)
    assert sums(worker) == 111


@pytest.mark.parametrize("known", [True, False], ids=["L1 knows it", "L1 knows nothing"])
def test_a_write_of_others_that_was_heard_of_takes_the_place_of_what_was_added_before(
    make: MakeStore, known: bool
) -> None:
    one, other = counting(make), counting(make)
    other.set_many(Counter, {1: Counter(1)})
    if known:
        one.get(Counter, 1)
    one.increment(Counter, 1, hits=5)
    comes_after(other, one)
    other.set_many(Counter, {1: Counter(1, hits=74)})
    wait_until(lambda: any(slot.overtaken for slot, _ in inspect(one).buffer.pending()))
    assert one.increment(Counter, 1, hits=4).hits == 78
    assert one.get(Counter, 1).hits == 78
    hand_off(one)
    persist(one, "counters")
    assert sums(one) == 78


def asked(store: DataStore) -> int:
    """How often a tier below was read."""
    stats = store.stats()
    return stats.l2_hits + stats.l3_hits + stats.misses


def test_who_adds_on_asks_no_tier_for_a_while_and_then_sees_what_others_have_added(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1, title="kept")})
    other.increment(Counter, 1, hits=100)
    monkeypatch.setattr(tally, "KNOWN_FOR", 3600.0)
    assert one.increment(Counter, 1, hits=1).hits == 1
    before = asked(one)
    hand_off(one)
    hand_off(other)
    forgotten(one)
    found = one.increment(Counter, 1, hits=1)
    assert (found.hits, found.title) == (2, "kept")
    assert asked(one) == before
    monkeypatch.setattr(tally, "KNOWN_FOR", 0.0)
    hand_off(one)
    persist(other, "counters")
    assert one.increment(Counter, 1, hits=1).hits == one.get(Counter, 1).hits == 103


def forgotten(store: DataStore) -> None:
    """L1 has heard that the record is another by now."""
    wait_until(lambda: inspect(store).schemas["counters"].l1.entries.get(1) is None, what="the message")


def heard(store: DataStore) -> None:
    """The store was told what became of what it has handed off."""
    assert inspect(store).outcomes.collect() == 1


def test_what_others_have_added_comes_with_the_outcome_of_what_was_added_here(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1, title="kept")})
    inspect(one).outcomes.beat()
    monkeypatch.setattr(tally, "KNOWN_FOR", 3600.0)
    assert one.increment(Counter, 1, hits=1, weight=0.5).hits == 1
    before = asked(one)
    for turn in range(1, 4):
        other.increment(Counter, 1, hits=100, money=Decimal("0.1"))
        comes_after(one, other)
        assert one.increment(Counter, 1, hits=1, weight=0.5).hits == 100 * (turn - 1) + 3 * turn - 1
        hand_off(other)
        hand_off(one)
        assert one.increment(Counter, 1, hits=1, weight=0.5).hits == 100 * (turn - 1) + 3 * turn
        persist(other, "counters")
        heard(one)
        forgotten(one)
        found = one.increment(Counter, 1, hits=1, weight=0.5)
        hits, money = 103 * turn + 1, turn * Decimal("0.1")
        assert found == Counter(1, hits, 1.5 * turn + 0.5, money, title="kept", changed=found.changed)
    assert asked(one) == before
    hand_off(one)
    persist(other, "counters")
    assert found == one.get(Counter, 1, force_l3=True)


def test_an_outcome_takes_nothing_back_that_was_heard_since(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "KNOWN_FOR", 3600.0)
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1, title="old")})
    inspect(one).outcomes.beat()
    one.increment(Counter, 1, hits=1)
    hand_off(one)
    persist(other, "counters")
    comes_after(other, one)
    other.set(Counter, 1, Counter(1, hits=50, title="new"))
    hand_off(other)
    wait_until(lambda: not inspect(one).buffer.tallies.knows(("counters", 1)), what="the message")
    heard(one)
    found = one.increment(Counter, 1, hits=1)
    assert (found.hits, found.title) == (51, "new")


def test_an_outcome_takes_nothing_back_that_was_read_since(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1)})
    inspect(one).outcomes.beat()
    one.increment(Counter, 1, hits=1)
    hand_off(one)
    persist(other, "counters")
    other.increment(Counter, 1, hits=100)
    hand_off(other)
    forgotten(one)
    monkeypatch.setattr(tally, "KNOWN_FOR", 0.0)
    assert one.increment(Counter, 1, hits=1).hits == 102
    monkeypatch.setattr(tally, "KNOWN_FOR", 3600.0)
    heard(one)
    inspect(one).schemas["counters"].l1.forget(1)
    assert one.increment(Counter, 1, hits=1).hits == 103


def test_an_outcome_takes_nothing_back_that_was_written_here_since(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "KNOWN_FOR", 3600.0)
    store = counting(make)
    store.set_many(Counter, {1: Counter(1)})
    store.increment(Counter, 1, hits=1)
    hand_off(store)
    bare = dict.fromkeys(("hits", "weight", "money", "seen"), UNLOADED)
    store.set(Counter, 1, Counter(1, title="mine", **bare))
    persist(store, "counters")
    found = store.increment(Counter, 1, hits=1)
    assert (found.hits, found.title) == (2, "mine")
    hand_off(store)
    store.set(Counter, 1, Counter(1, hits=50))
    persist(store, "counters")
    assert store.increment(Counter, 1, hits=1).hits == 51


def test_a_row_that_has_more_of_what_was_added_here_than_was_handed_off_is_not_told_of(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was brought around the ledger, and nobody can tell how much of it."""
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1)})
    one.increment(Counter, 1, hits=1)
    hand_off(one)
    other.increment(Counter, 1, hits=100)
    hand_off(other)
    one.increment(Counter, 1, hits=10)
    inspect(one).bypass.many(inspect(one).schemas["counters"], inspect(one).buffer.pending())
    sent: dict[str, OutcomeReport] = {}
    monkeypatch.setattr(Outcomes, "send", lambda _, origin, report: sent.update({origin: report}))
    persist(other, "counters")
    assert sums(one) == 111
    assert not sent[inspect(one).source].persisted[0].row
    assert sent[inspect(other).source].persisted[0].row


def test_a_large_row_is_read_by_who_adds_to_it(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = counting(make)
    store.set_many(Counter, {1: Counter(1, title="x" * 5000)})
    store.increment(Counter, 1, hits=1)
    hand_off(store)
    sent = []
    monkeypatch.setattr(Outcomes, "send", lambda _, origin, report: sent.extend(report.persisted))
    persist(store, "counters")
    assert [item.row for item in sent] == [b""]


@pytest.mark.parametrize("row", [b"nothing", b"\x82\xa2id\x02\xa4hits\x01", b"\x82\xa2id\x01\xa4hits\x01"])
def test_a_row_that_comes_with_an_outcome_and_is_none_is_left_out(make: MakeStore, row: bytes) -> None:
    store = counting(make)
    store.set_many(Counter, {1: Counter(1)})
    store.increment(Counter, 1, hits=1)
    [(_, item)] = inspect(store).buffer.pending()
    version = item.version
    report = OutcomeReport("counters", [Persisted("1", version, True, version, row, version)])
    assert inspect(store).outcomes.apply(report)
    assert not inspect(store).buffer.pending()
    assert inspect(store).schemas["counters"].l1.entries.get(1) is None
    assert store.increment(Counter, 1, hits=1).hits == 2


def test_what_became_of_a_write_is_heard_although_its_key_was_written_once_more(make: MakeStore) -> None:
    one, other = make(write_behind_flush_interval=60.0), counting(make)
    paced(one)
    one.register(deferred(Counter, name="counters"))
    other.set_many(Counter, {1: Counter(1)})
    one.increment(Counter, 1, hits=1)
    inspect(one).drainer.stop(2.0)
    inspect(one).outcomes.beat()
    hand_off(one)
    one.increment(Counter, 1, hits=1)
    persist(other, "counters")
    wait_until(lambda: any(slot.persisted for slot, _ in inspect(one).buffer.pending()), what="the outcome")


MEANWHILE: dict[str, Callable[[DataStore], Any]] = {
    "is added to": lambda store: store.increment(Counter, 1, hits=1),
    "is changed": lambda store: store.modify(Counter, 1, lambda held: replace(held, hits=held.hits + 1)),
}


@pytest.mark.parametrize("how", MEANWHILE)
def test_what_was_read_before_it_was_written_by_another_thread_is_not_what_is_added_to(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    store = make()
    paced(store)
    store.register(deferred(Counter, name="counters", l1=None))
    store.migrate()
    idle(store)
    store.set_many(Counter, {1: Counter(1)})
    find = Reader.find

    def found_late(*args: Any) -> Any:
        found = find(*args)
        monkeypatch.undo()
        MEANWHILE[how](store)
        return found

    monkeypatch.setattr(Reader, "find", found_late)
    assert store.increment(Counter, 1, hits=10).hits == 11
    assert store.increment(Counter, 1, hits=100).hits == 111


OTHERWISE: dict[str, Callable[[DataStore], Any]] = {
    "set": lambda store: store.set(Counter, 1, Counter(1, hits=50)),
    "set_many": lambda store: store.set_many(Counter, {1: Counter(1, hits=50)}),
    "update": lambda store: store.update(Counter, 1, hits=50),
    "update, expecting": lambda store: store.update(Counter, 1, hits=50, expect={"title": "kept"}),
    "modify": lambda store: store.modify(Counter, 1, lambda held: replace(held, hits=50)),
    "update_where": lambda store: store.update_where(Counter, Q(), hits=50),
    "in a transaction": lambda store: store.tx().set(Counter, 1, Counter(1, hits=50)).commit(),
    "delete": lambda store: store.delete(Counter, 1),
    "delete_many": lambda store: store.delete_many(Counter, [1]),
    "delete_where": lambda store: store.delete_where(Counter, Q()),
}


@pytest.mark.parametrize("by", ["itself", "another"])
@pytest.mark.parametrize("how", OTHERWISE)
def test_what_else_became_of_a_record_is_known_to_who_adds_to_it(
    make: MakeStore, monkeypatch: pytest.MonkeyPatch, how: str, by: str
) -> None:
    monkeypatch.setattr(tally, "KNOWN_FOR", 3600.0)
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1, title="kept")})
    one.increment(Counter, 1, hits=1)
    one.flush_dirty()
    assert other.get(Counter, 1).hits == 1
    if by == "itself":
        OTHERWISE[how](one)
    else:
        comes_after(other, one)
        OTHERWISE[how](other)
        other.flush_dirty()
        buffer = inspect(one).buffer
        wait_until(lambda: not buffer.tallies.knows(("counters", 1)), what="the message")
    if how.startswith("delete"):
        with pytest.raises(NotFoundError):
            one.increment(Counter, 1, hits=1)
    else:
        assert one.increment(Counter, 1, hits=1).hits == 51
    one.flush_dirty()
    assert one.get(Counter, 1, default=Counter(1, hits=0), force_l3=True).hits == (51 if "delete" not in how else 0)


@pytest.mark.parametrize("large", [1e17, 1.5e308])
def test_what_is_small_beside_what_was_counted_before_is_not_lost(make: MakeStore, large: float) -> None:
    store = counting(make)
    store.set_many(Counter, {1: Counter(1)})
    for _ in range(2):
        store.increment(Counter, 1, weight=large)
    store.flush_dirty(10)
    store.set(Counter, 1, Counter(1))
    store.flush_dirty(10)
    for _ in range(3):
        store.increment(Counter, 1, weight=0.1)
    assert store.get(Counter, 1).weight == pytest.approx(0.3)
    store.flush_dirty(10)
    assert store.get(Counter, 1, force_l3=True).weight == pytest.approx(0.3)


@pytest.mark.parametrize("where", ["the ledger", "the row"])
def test_a_deletion_after_all_that_was_added_ends_it(make: MakeStore, where: str) -> None:
    """Even where its writer's clock is late: it has nothing but the newest version it knew to stamp by."""
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1)})
    inspect(other).versions.observe(inspect(one).stamp() + (10_000_000 << NODE_BITS))
    one.increment(Counter, 1, hits=1)
    other.increment(Counter, 1, hits=10)
    hand_off(other)
    if where == "the row":
        persist(other, "counters")
    other.delete(Counter, 1)
    hand_off(one)
    if where == "the row":
        persist(one, "counters")
        assert sums(one) == 11
    for store in (other, one):
        store.flush_dirty(10)
    assert one.get(Counter, 1, default=None, force_l3=True) is None


def test_without_redis_it_goes_to_postgresql_and_counts_once(make: MakeStore, redis_addr: str) -> None:
    store = make(redis_addr="127.0.0.1:1")
    store.register(deferred(Counter, name="counters"))
    store.migrate()
    store.increment(Counter, 1, hits=5, default=Counter(1))
    store.increment(Counter, 1, hits=6)
    store.flush_dirty()
    store.increment(Counter, 1, hits=7)
    store.flush_dirty()
    assert sums(store) == 18


def test_more_than_bigint_can_hold_is_a_dead_letter_that_says_so_and_can_be_retried(make: MakeStore) -> None:
    errors = Errors()
    store = make(write_behind_max_retry=1)
    paced(store)
    store.register(deferred(Counter, name="counters", hooks=errors.hooks()))
    store.migrate()
    sure(store)
    store.set_many(Counter, {1: Counter(1, hits=(1 << 63) - 2)})
    store.increment(Counter, 1, hits=5)
    wait_until(lambda: len(errors.calls) == 1)
    [letter] = store.dead_letters.list()
    assert (letter.sqlstate, letter.key) == ("22003", 1) and "out of range" in letter.error
    assert sums(store) == (1 << 63) - 2
    assert store.get(Counter, 1).hits == (1 << 63) - 2
    store.set_many(Counter, {1: Counter(1, hits=0)})
    assert store.increment(Counter, 1, hits=3).hits == 3
    store.flush_dirty()
    assert sums(store) == 3


def test_an_increment_of_what_another_process_has_deleted_is_a_dead_letter(make: MakeStore) -> None:
    one, other = counting(make), counting(make)
    one.set_many(Counter, {1: Counter(1)})
    one.get(Counter, 1)
    other.delete(Counter, 1)
    comes_after(one, other)
    one.increment(Counter, 1, hits=1)
    for store in (other, one):
        hand_off(store)
        persist(store, "counters")
    assert [letter.key for letter in one.dead_letters.list()] == [1]
    assert one.get(Counter, 1, default=None) is None


def test_in_a_transaction_what_was_added_before_is_in_it(make: MakeStore) -> None:
    store = counting(make)
    store.set_many(Counter, {1: Counter(1)})
    store.increment(Counter, 1, hits=5)

    def double(counter: Counter) -> Counter:
        counter.hits *= 2
        return counter

    assert store.modify(Counter, 1, double).hits == 10
    assert store.increment(Counter, 1, hits=1).hits == 11
    store.flush_dirty()
    assert sums(store) == 11


PLACES = ["the buffer", "the ledger"]


def added(counter: Counter) -> Counter:
    counter.hits += 100
    return counter


def by_sql(store: DataStore, dsn: str) -> None:
    run(dsn, "UPDATE counters SET hits = hits + 100")


def by_modify(store: DataStore, dsn: str) -> None:
    assert store.modify(Counter, 1, added).hits in (100, 110)


def by_modify_of_all_fields(store: DataStore, dsn: str) -> None:
    """Which is no part of a record, but made of what there was all the same."""
    store.modify(Counter, 1, lambda counter: replace(added(counter), weight=2.5, money=Decimal(1), seen=1, title="all"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", [by_sql, by_modify, by_modify_of_all_fields])
def test_what_was_made_of_the_row_takes_no_increment_away_that_was_pending(
    make: MakeStore, dsn: str, change: Callable[[DataStore, str], None], place: str
) -> None:
    one, other = (counting(make, watch=True) for _ in range(2))
    one.set_many(Counter, {1: Counter(1)})
    one.increment(Counter, 1, hits=10)
    if place == "the ledger":
        hand_off(one)
    comes_after(other, one)
    change(other, dsn)
    one.increment(Counter, 1, hits=1)
    for _ in range(2):  # once more what is there already
        hand_off(one)
        persist(one, "counters")
    assert sums(one) == sums(other) == 111
    one.increment(Counter, 1, hits=1000)
    hand_off(one)
    persist(one, "counters")
    assert sums(one) == 1111


@pytest.mark.parametrize("place", PLACES)
def test_what_was_added_before_a_truncation_is_not_in_the_row_that_is_made_after_it(
    make: MakeStore, dsn: str, place: str
) -> None:
    one, other = (counting(make, watch=True) for _ in range(2))
    one.set_many(Counter, {1: Counter(1, hits=10)})
    one.increment(Counter, 1, hits=5)
    if place == "the ledger":
        hand_off(one)
    run(dsn, "TRUNCATE counters")
    comes_after(other, one)
    wait_until(lambda: other.get(Counter, 1, default=None, force_l3=True) is None)
    other.increment(Counter, 1, hits=1, default=Counter(1))
    for store in (other, one):
        store.flush_dirty()
    assert sums(other) == 1


def test_an_older_set_does_not_take_away_what_was_made_of_the_row(make: MakeStore, dsn: str) -> None:
    early, late = (counting(make, watch=True) for _ in range(2))
    early.set_many(Counter, {1: Counter(1, hits=7)})
    early.set(Counter, 1, Counter(1, hits=1000, title="set"))
    comes_after(late, early)
    late.modify(Counter, 1, added)
    late.increment(Counter, 1, hits=5)
    for store in (late, early):  # the later first
        store.flush_dirty()
    kept = early.get(Counter, 1, force_l3=True)
    assert (kept.hits, kept.title) == (112, "set")


def test_a_database_that_an_earlier_release_has_made_gets_what_it_lacks(make: MakeStore, dsn: str) -> None:
    store = counting(make)
    store.set_many(Counter, {1: Counter(1)})
    run(dsn, "ALTER TABLE _strata_partials DROP COLUMN counted, DROP COLUMN changed")
    store.increment(Counter, 1, hits=5)
    hand_off(store)
    persist(store, "counters")  # it waits
    assert (sums(store), store.dead_letters.list()) == (0, [])
    assert store.get(Counter, 1).hits == 5
    lacking = {f"ALTER TABLE _strata_partials ADD COLUMN {name} JSONB" for name in ("counted", "changed")}
    assert lacking <= set(store.migrate().applied)
    wait_until(lambda: persist(store, "counters") == 1)
    assert sums(store) == 5


def test_columns_of_any_names_are_added_to_once(make: MakeStore) -> None:
    store = make()
    paced(store)
    named = store.register(Schema(Named, name="named", **TIERS["behind"]))
    store.migrate()
    for turn in range(1, 4):
        named.increment(1, default=Named(1), r=1, s=10, n=100)
        named.update(1, p=f"turn {turn}", d="d", h="h")
        store.flush_dirty()
        assert named.get(1, force_l3=True) == Named(1, f"turn {turn}", turn, 10 * turn, "d", "h", 100 * turn)
