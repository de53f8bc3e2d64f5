"""L1 as the protocol sees it: what may enter it, one record at a time or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from strata import EvictionPolicy
from strata.l1 import tier as memory
from strata.l1.claims import Claim, Claims, ManyClaim
from strata.l1.evicted import Evicted
from strata.l1.store import MemStore
from strata.l1.tier import L1Tier
from strata.l1.trust import ALWAYS
from strata.protocol.versions import VersionClock
from strata.waits.clock import ManualClock

Fill = tuple[Claim, Any, int, bool]


class Bench:
    """An L1 of some entries, and what had to leave it."""

    def __init__(self, capacity: int = 0) -> None:
        self.clock = ManualClock()
        self.evicted: list[Any] = []
        store = MemStore(capacity=capacity, ttl=60, eviction=EvictionPolicy.FIFO, clock=self.clock)
        self.under_way = Claims(store.lock)
        self.memory = L1Tier(store, self.under_way, ALWAYS, self._report, VersionClock(self.clock))

    def fill(self, fills: Sequence[Fill]) -> None:
        """The fills at once, or one by one."""
        self.memory.fill_many([(claim, claim.key, *rest) for claim, *rest in fills], self.clock.monotonic())

    def claim(self, keys: str) -> ManyClaim:
        """One claim of all keys."""
        claim = ManyClaim(list(keys))
        self.under_way.enter_many(claim)
        return claim

    def fill_under(self, claim: ManyClaim, *keys: str) -> list[Any]:
        """Those that were refused."""
        fills = [(claim, key, f"{key} under one", 2, False) for key in keys]
        return self.memory.fill_many(fills, self.clock.monotonic())

    def claims(self, keys: str) -> list[Claim]:
        """A claim of each key."""
        claims = [Claim(key) for key in keys]
        self.under_way.enter(*claims)
        return claims

    @property
    def held(self) -> dict[Any, tuple[Any, int]]:
        return {key: (entry.value, entry.version) for key, entry in self.memory.entries.items()}

    def _report(self, gone: Sequence[Evicted]) -> None:
        self.evicted += [item.key for item in gone]


class OneByOne(Bench):
    """The same, in the way of a single read."""

    def fill(self, fills: Sequence[Fill]) -> None:
        for claim, value, version, pending in fills:
            self.memory.fill(claim, value, version, pending=pending, loaded=self.clock.monotonic())


@pytest.fixture(params=[Bench, OneByOne])
def bench(request: pytest.FixtureRequest) -> Bench:
    made: Bench = request.param()
    return made


def test_what_was_read_enters_where_nothing_happened_meanwhile(bench: Bench) -> None:
    a, b = bench.claims("ab")
    bench.fill([(a, "one", 1, False), (b, "two", 2, False)])
    assert bench.held == {"a": ("one", 1), "b": ("two", 2)}


def test_a_key_of_which_something_was_heard_stays_out_and_the_others_enter(bench: Bench) -> None:
    a, b = bench.claims("ab")
    bench.memory.forget("a")
    bench.fill([(a, "old", 1, False), (b, "two", 2, False)])
    assert bench.held == {"b": ("two", 2)}


def test_nothing_older_takes_the_place_of_what_is_newer(bench: Bench) -> None:
    a, b = bench.claims("ab")
    bench.fill([(a, "new", 5, False)])
    [again] = bench.claims("a")
    bench.fill([(again, "old", 4, False), (b, "two", 2, False)])
    assert bench.held == {"a": ("new", 5), "b": ("two", 2)}


def test_what_is_settled_beats_what_is_pending_at_the_same_version(bench: Bench) -> None:
    first, second, third = bench.claims("aaa")
    bench.fill([(first, "pending", 5, True)])
    [fresh] = bench.claims("a")
    bench.fill([(fresh, "settled", 5, False)])
    [last] = bench.claims("a")
    bench.fill([(last, "pending", 5, True)])
    assert bench.held == {"a": ("settled", 5)}
    assert not second.alive and not third.alive  # what others have under way is not newer than what was found


def test_a_claim_that_was_released_fills_nothing(bench: Bench) -> None:
    claims = bench.claims("ab")
    bench.under_way.release(*claims)
    bench.fill([(claim, "late", 1, False) for claim in claims])
    assert bench.held == {}


@pytest.mark.parametrize("make", [Bench, OneByOne])
def test_everything_that_had_to_leave_is_reported(make: type[Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FILLED", 2)  # more than one hold of the lock
    bench = make(capacity=3)
    bench.fill([(claim, claim.key, 1, False) for claim in bench.claims("abcde")])
    assert bench.evicted == ["a", "b"]
    assert list(bench.held) == ["c", "d", "e"]


def test_one_claim_of_many_keys_is_void_for_those_alone_of_which_something_was_heard() -> None:
    bench = Bench()
    claim = bench.claim("abc")
    bench.memory.forget("b")
    assert bench.fill_under(claim, "a", "b", "c") == ["b"]
    assert sorted(bench.held) == ["a", "c"]


def test_one_claim_of_many_keys_is_void_for_all_once_everything_was_cleared() -> None:
    bench = Bench()
    claim = bench.claim("ab")
    bench.memory.clear()
    assert bench.fill_under(claim, "a", "b") == ["a", "b"]


@pytest.mark.parametrize("first", ["one", "many"])
def test_claims_of_one_key_and_of_many_void_each_other(first: str) -> None:
    bench = Bench()
    before, [single], after = bench.claim("ab"), bench.claims("a"), bench.claim("ac")
    if first == "one":
        bench.fill([(single, "one", 5, False)])
        assert (before.voided, after.voided) == ({"a"}, {"a"})
    else:
        assert bench.fill_under(after, "a", "c") == []
        assert before.voided == {"a"} and not single.alive and not after.voided


def test_a_claim_taken_out_of_one_of_many_is_as_good_as_that() -> None:
    bench = Bench()
    claim = bench.claim("ab")
    bench.memory.forget("a")
    apart = bench.under_way.apart(claim, {"a": "a", "b": "b"})
    bench.fill([(apart["a"], "late", 1, False), (apart["b"], "two", 2, False)])
    assert bench.held == {"b": ("two", 2)}


def test_one_claim_of_many_keys_leaves_nothing_behind_nor_takes_others_with_it() -> None:
    bench = Bench()
    claim, [single] = bench.claim("ab"), bench.claims("b")
    bench.under_way.release_many(claim)
    bench.memory.forget("b")
    assert not single.alive
    bench.under_way.release(single)
    assert bench.under_way._claims == {}


def test_one_claim_of_many_keys_that_nobody_released_is_swept_away() -> None:
    bench = Bench()
    bench.claim("ab")  # whose call was broken off
    for number in range(300):
        bench.under_way.enter(Claim(number))
    assert "a" not in bench.under_way._claims


def test_the_message_of_a_write_voids_every_claim_but_its_own() -> None:
    bench = Bench()
    claim, [single] = bench.claim("ab"), bench.claims("a")
    claim.stamp = 2
    bench.memory.forget("a", below=2)
    assert not single.alive
    assert bench.fill_under(claim, "a") == []
    bench.memory.forget("b", below=3)
    assert bench.fill_under(claim, "b") == ["b"]
