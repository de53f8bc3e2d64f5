"""The ledger's scripts, one by one, on a real server: what they take, refuse, lease, forget and remember."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import redis

from strata.l2.address import connect
from strata.l2.client import RedisServer
from strata.policies import L2PoolConfig
from strata.protocol.entry import Entry, EntryOp, decode
from strata.protocol.keyspace import Keyspace
from strata.protocol.messages import MessageOp, parse
from strata.waits.clock import SystemClock
from strata.writebehind.ledger.answers import (
    Answer,
    KeyStatus,
    LedgerBatch,
    LedgerPut,
    Release,
    ShardAnswer,
    ShardTimes,
    Verdict,
)
from strata.writebehind.ledger.lag import LATE
from strata.writebehind.ledger.ledger import Ledger
from strata.writebehind.ledger.shard import Shard
from strata.writebehind.ledger.timing import Timing
from tests.behind import sound
from tests.support import wait_until

SHARD = Shard("things", 3)
HEAD = b'{"schema":"things","op":"set"'  # of a message
NOW = 1_700_000_000_000


@pytest.fixture
def server(redis_addr: str) -> Iterator[RedisServer]:
    made = RedisServer(lambda: connect(redis_addr, L2PoolConfig()), SystemClock())
    yield made
    made.close()


@pytest.fixture
def raw(redis_addr: str) -> Iterator[Any]:
    host, port = redis_addr.rsplit(":", 1)
    with redis.Redis(host=host, port=int(port)) as client:
        yield client


MakeLedger = Callable[..., Ledger]


@pytest.fixture
def make(server: RedisServer) -> MakeLedger:
    return lambda **timing: Ledger(server, Timing(**timing))


@pytest.fixture
def ledger(make: MakeLedger) -> Ledger:
    return make()


def entry(version: int, op: EntryOp = EntryOp.SET, row: bytes = b"row", since: int = NOW) -> Entry:
    return Entry(version, op, since, "me", row)


def handed(ledger: Ledger, item: LedgerPut, channel: str = "c", head: bytes = b"") -> ShardAnswer:
    """What the ledger answers to one that is handed off."""
    [answer] = ledger.hand_off([LedgerBatch.of(SHARD, [item], head)], channel)
    return sound(answer)


def look(ledger: Ledger) -> ShardTimes:
    """The times of the shard."""
    [times] = ledger.look([SHARD])
    return sound(times)


def put(
    ledger: Ledger,
    key: str,
    version: int,
    *,
    op: EntryOp = EntryOp.SET,
    expected: str = "*",
    head: bytes = b"",
    **handing: Any,
) -> Answer:
    item = LedgerPut(key, entry(version, op).encode(), expected, **handing)
    return handed(ledger, item, "channel", head).answers[0]


def claimed(ledger: Ledger, *keys: str) -> dict[str, tuple[int, int, int, int]]:
    """What a claim hands out: version, crashes, attempts, outages by key."""
    found = ledger.claim(SHARD, ledger.token(), keys)
    return {c.key_text: (decode(c.entry).version, c.crashes, c.attempts, c.outages) for c in found}


def read(ledger: Ledger, key: str) -> int | None:
    [[raw]] = ledger.read([(SHARD, [key])])
    return None if raw is None else decode(raw).version


# -- hand-off -------------------------------------------------------------------------------------------------------


def test_a_write_is_taken_once_and_the_same_again_is_there_already(ledger: Ledger) -> None:
    assert put(ledger, "a", 5).verdict is Verdict.TAKEN
    assert put(ledger, "a", 5).verdict is Verdict.THERE
    assert read(ledger, "a") == 5


def test_a_newer_write_takes_the_place_of_an_older_one_and_never_the_other_way_round(ledger: Ledger) -> None:
    put(ledger, "a", 5)
    assert put(ledger, "a", 7).verdict is Verdict.TAKEN
    assert put(ledger, "a", 6) == Answer(Verdict.NEWER, 7)
    assert read(ledger, "a") == 7


def test_versions_are_compared_exactly_beyond_what_a_double_holds(ledger: Ledger) -> None:
    big = 2**61
    put(ledger, "a", big + 1)
    assert put(ledger, "a", big) == Answer(Verdict.NEWER, big + 1)
    assert put(ledger, "a", big + 2).verdict is Verdict.TAKEN


def test_a_replaced_entry_keeps_the_time_of_its_first_write(ledger: Ledger) -> None:
    ledger.hand_off([LedgerBatch.of(SHARD, [LedgerPut("a", entry(1, since=NOW).encode())])], "c")
    ledger.hand_off([LedgerBatch.of(SHARD, [LedgerPut("a", entry(2, since=NOW + 5000, row=b"new").encode())])], "c")
    [[raw]] = ledger.read([(SHARD, ["a"])])
    assert raw is not None and decode(raw) == entry(2, since=NOW, row=b"new")


def test_what_l3_has_is_refused_whole_l2_included(ledger: Ledger, raw: Any) -> None:
    ledger.done([(SHARD, [("a", 9)])])
    answer = put(ledger, "a", 9, l2_key="strata:things:a", content=b"V1:old", px=1000, head=HEAD)
    assert answer == Answer(Verdict.PERSISTED, 9)
    assert raw.get("strata:things:a") is None and read(ledger, "a") is None


def test_a_taken_write_is_pending_in_l2_and_on_the_bus(ledger: Ledger, raw: Any) -> None:
    listener = raw.pubsub()
    listener.subscribe("channel")
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    content = b"V1:%019d:p:body" % 5
    put(ledger, "a", 5, l2_key="strata:things:a", content=content, px=60_000, head=HEAD)
    assert raw.get("strata:things:a") == content
    assert 0 < raw.pttl("strata:things:a") <= 60_000
    assert listener.get_message(timeout=5)["data"] == HEAD + b',"id":"a","v":"%019d"}' % 5
    listener.close()


def test_one_hand_off_is_one_message_whatever_its_keys_are(ledger: Ledger, raw: Any) -> None:
    listener = raw.pubsub()
    listener.subscribe("channel")
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    keys = ["a", 'with "quotes"', "a/b\\c", "\u00fc\U0001f600\x01", "1"]
    puts = [LedgerPut(key, entry(version).encode(), said=MessageOp.SET) for version, key in enumerate(keys, 1)]
    [answer] = ledger.hand_off([LedgerBatch.of(SHARD, puts, HEAD)], "channel")
    assert sound(answer).answers == [Answer(Verdict.TAKEN)] * len(keys)
    message = parse(listener.get_message(timeout=5)["data"])
    assert message is not None and (message.schema, message.op) == ("things", "set")
    assert message.each() == [(key, n) for n, key in enumerate(keys, 1)]
    assert listener.get_message(timeout=0.1) is None
    listener.close()


def test_what_l3_has_as_it_was_handed_off_is_settled_and_leaves_the_ledger(ledger: Ledger, raw: Any) -> None:
    puts = [
        LedgerPut(key, entry(5).encode(), l2_key=f"strata:things:{key}", content=b"V1:%019d:p:body" % 5)
        for key in "abcd"
    ]
    ledger.hand_off([LedgerBatch.of(SHARD, puts)], "channel")
    raw.set("strata:things:b", b"L1:a reader's")
    raw.set("strata:things:c", b"I1:c:writer=9999999999999;", px=60_000)
    raw.delete("strata:things:d")
    listener = raw.pubsub()
    listener.subscribe("channel")
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    assert ledger.finish(SHARD, [(key, 5) for key in "abcd"], "strata:things:{}".format, "channel", HEAD) == 4
    assert raw.mget(f"strata:things:{key}" for key in "abcd") == [
        b"V1:%019d:s:body" % 5, None, b"I1:s:writer=9999999999999;", None
    ]  # fmt: skip
    message = parse(listener.get_message(timeout=5)["data"])
    assert message is not None and message.each() == [(key, 5) for key in "bcd"]
    assert [read(ledger, key) for key in "abcd"] == [None] * 4
    assert put(ledger, "a", 5) == Answer(Verdict.PERSISTED, 5)
    listener.close()


def test_a_hand_off_that_meets_an_intent_spoils_it_and_stores_nothing(ledger: Ledger, raw: Any) -> None:
    raw.set("strata:things:a", b"I1:c:writer=9999999999999;", px=60_000)
    put(ledger, "a", 5, l2_key="strata:things:a", content=b"V1:%019d:p:body" % 5)
    assert raw.get("strata:things:a") == b"I1:s:writer=9999999999999;"
    assert read(ledger, "a") == 5


def test_a_partial_write_is_taken_only_over_the_entry_that_it_was_merged_with(ledger: Ledger) -> None:
    assert put(ledger, "a", 1, op=EntryOp.PARTIAL, expected="").verdict is Verdict.TAKEN
    refused = put(ledger, "a", 3, op=EntryOp.PARTIAL, expected="")
    assert refused.verdict is Verdict.UNEXPECTED and decode(refused.entry).version == 1
    assert put(ledger, "a", 3, op=EntryOp.PARTIAL, expected=f"{1:019d}").verdict is Verdict.TAKEN
    assert read(ledger, "a") == 3


@pytest.mark.parametrize("behind", [-25_000, 25_000])
def test_a_ledger_whose_clock_is_another_than_that_of_the_cache_takes_what_is_handed_off(
    server: RedisServer, behind: int
) -> None:
    ledger = Ledger(server, Timing(), lambda: round(server.time_ms()) - behind)
    for version in (5, 6):
        assert handed(ledger, LedgerPut("a", entry(version).encode())).answers == [Answer(Verdict.TAKEN)]


def test_a_full_shard_takes_newer_writes_of_its_keys_only(make: MakeLedger) -> None:
    ledger = make(most=1)
    put(ledger, "a", 1)
    assert put(ledger, "b", 2).verdict is Verdict.FULL
    assert put(ledger, "a", 3).verdict is Verdict.TAKEN


def rings(ledger: Ledger, key: str) -> bool:
    return handed(ledger, LedgerPut(key, entry(1).encode())).ring


def test_the_bell_is_rung_once_while_a_ring_is_under_way(ledger: Ledger) -> None:
    assert [rings(ledger, key) for key in "abc"] == [True, False, False]


def test_the_bell_is_not_rung_for_whoever_comes_back_until_nothing_is_due(ledger: Ledger) -> None:
    rings(ledger, "a")
    assert [item.key_text for item in ledger.claim(SHARD, ledger.token())] == ["a"]
    assert not rings(ledger, "b")
    assert [item.key_text for item in ledger.claim(SHARD, ledger.token())] == ["b"]
    assert ledger.claim(SHARD, ledger.token()) == []
    assert rings(ledger, "c")


def test_the_bell_is_rung_again_where_who_claimed_has_left(ledger: Ledger) -> None:
    rings(ledger, "a")
    ledger.claim(SHARD, ledger.token())
    ledger.leave([SHARD])
    assert rings(ledger, "b")


def test_the_bell_is_rung_again_where_who_claimed_does_not_come_back(make: MakeLedger) -> None:
    ledger = make(at_it=0.05)
    rings(ledger, "a")
    ledger.claim(SHARD, ledger.token())
    others = map(str, count())
    wait_until(lambda: rings(ledger, next(others)))


def test_who_seizes_keys_answers_no_bell(ledger: Ledger) -> None:
    rings(ledger, "a")
    ledger.claim(SHARD, ledger.token(), ["a"])
    assert not rings(ledger, "b")


def test_the_epoch_stays_until_the_ledger_is_lost(ledger: Ledger, raw: Any) -> None:
    first, second = (handed(ledger, LedgerPut(key, entry(1).encode())).epoch for key in "ab")
    assert first == second == look(ledger).epoch
    raw.flushall()
    assert look(ledger).epoch == b""
    assert handed(ledger, LedgerPut("c", entry(1).encode())).epoch != first


def test_entries_of_which_redis_has_evicted_the_times_are_due_now(ledger: Ledger, raw: Any) -> None:
    for key in "abc":
        put(ledger, key, 1)
    claimed(ledger)
    assert not look(ledger).untimed
    raw.delete(Keyspace().own(SHARD.tag, "due"))
    assert look(ledger) == ShardTimes(None, look(ledger).epoch, untimed=True)
    assert ledger.retime(SHARD) == 3
    assert not look(ledger).untimed
    assert ledger.retime(SHARD) == 0
    wait_until(lambda: set(claimed(ledger)) == set("abc"))


@pytest.mark.parametrize("score", [1e13, 1e300, float("inf")])
def test_a_time_that_is_further_ahead_than_any_lease_is_due_now(make: MakeLedger, raw: Any, score: float) -> None:
    ledger = make(ahead=60.0)
    for key in "abc":
        put(ledger, key, 1)
    claimed(ledger)
    raw.zadd(Keyspace().own(SHARD.tag, "due"), {"b": score})
    assert (look(ledger).last or 0) == score
    assert ledger.retime(SHARD) == 1
    wait_until(lambda: claimed(ledger).keys() == {"b"})  # the leases of the others last
    assert ledger.retime(SHARD) == 0


def test_no_lease_and_no_pause_is_longer_than_what_is_promised_nor_as_far_ahead_as_what_is_nobody_s() -> None:
    timing = Timing()
    pauses = [step(count) for step in (timing.after_outage, timing.after_order) for count in range(1, 40)]
    assert max(pauses) < timing.lease == LATE
    assert timing.lease < timing.ahead and timing.tries < timing.held


@pytest.mark.parametrize("name", ["bell", "claims"])
def test_a_mark_that_never_ends_is_nobody_s(ledger: Ledger, raw: Any, name: str) -> None:
    key = ledger.key(SHARD, name)
    raw.set(key, "x")
    assert ledger.mark(key, "mine", 5.0, new=True)
    assert not ledger.mark(key, "mine", 5.0, new=True)
    assert 0 < raw.pttl(key) <= 5_000


def test_the_age_of_a_shard_is_that_of_its_oldest_entry_also_where_that_is_claimed(
    ledger: Ledger, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger.oldest([SHARD]) == [None]
    ledger.hand_off([LedgerBatch.of(SHARD, [LedgerPut("old", entry(1, since=NOW - 70_000).encode())])], "channel")
    claimed(ledger)
    put(ledger, "new", 2)
    raw.hset(Keyspace().own(SHARD.tag, "dirty"), "odd", "what is no entry")
    raw.zadd(Keyspace().own(SHARD.tag, "due"), {"odd": 1})
    assert ledger.oldest([SHARD, Shard("things", 4)]) == [NOW - 70_000, None]
    for number in range(30):
        put(ledger, f"{number}", 3)
    monkeypatch.setattr("strata.writebehind.ledger.ledger._LOOKED_AT", 4)
    assert ledger.oldest([SHARD]) == [NOW - 70_000]  # the first and the last of many are always looked at


# -- claims ---------------------------------------------------------------------------------------------------------


def test_what_is_claimed_is_nobody_else_s(ledger: Ledger) -> None:
    put(ledger, "a", 1)
    put(ledger, "b", 2)
    assert claimed(ledger) == {"a": (1, 0, 0, 0), "b": (2, 0, 0, 0)}
    assert claimed(ledger) == {}


def test_a_lease_that_ran_out_is_claimed_again_and_counts_as_a_crash(make: MakeLedger) -> None:
    ledger = make(lease=0.02)
    put(ledger, "a", 1)
    claimed(ledger)
    wait_until(lambda: claimed(ledger) == {"a": (1, 1, 0, 0)})


def test_a_claim_that_is_renewed_outlasts_its_lease_and_is_no_crash(make: MakeLedger, raw: Any) -> None:
    ledger = make(lease=0.02)
    put(ledger, "a", 1)
    put(ledger, "b", 2)
    token = ledger.token()
    ledger.claim(SHARD, token)
    longer = make(lease=60)
    assert longer.renew(SHARD, token, ["a", "b"]) == 2
    wait_until(lambda: ledger.now() > raw.zscore(Keyspace().own(SHARD.tag, "due"), "a") - 59_900)
    assert claimed(ledger) == {}
    ledger.release(SHARD, token, [Release("a", 1, 0.0, 0, 0, 0)])
    assert claimed(ledger) == {"a": (1, 0, 0, 0)}
    assert longer.renew(SHARD, token, ["a", "b"]) == 1  # what another one claimed is not renewed by the first


def test_what_was_claimed_twice_and_ended_its_worker_is_claimed_alone(make: MakeLedger) -> None:
    ledger = make(lease=0.02)
    put(ledger, "bad", 1)
    for crashes in (0, 1):
        wait_until(lambda crashes=crashes: claimed(ledger) == {"bad": (1, crashes, 0, 0)})  # type: ignore[misc]
    put(ledger, "good", 2)
    seen: list[dict[str, Any]] = []
    wait_until(lambda: seen.append(claimed(ledger)) or any("bad" in one for one in seen))  # type: ignore[func-returns-value]
    assert all(len(one) == 1 for one in seen if "bad" in one)
    assert next(one for one in seen if "bad" in one)["bad"] == (1, 2, 0, 0)


def test_a_released_claim_is_no_crash_and_keeps_its_counts(ledger: Ledger) -> None:
    put(ledger, "a", 1)
    token = ledger.token()
    ledger.claim(SHARD, token)
    ledger.release(SHARD, token, [Release("a", 1, 0.0, 0, 2, 1)])
    assert claimed(ledger) == {"a": (1, 0, 2, 1)}


def test_a_released_claim_rests_for_its_pause(ledger: Ledger) -> None:
    put(ledger, "a", 1)
    token = ledger.token()
    ledger.claim(SHARD, token)
    ledger.release(SHARD, token, [Release("a", 1, 60.0, 0, 1, 0)])
    assert claimed(ledger) == {}
    assert claimed(ledger, "a") == {}  # for whoever asks by key too, since the failure was its own


def test_a_pause_for_an_outage_does_not_stop_those_who_ask_by_key(ledger: Ledger) -> None:
    put(ledger, "a", 1)
    token = ledger.token()
    ledger.claim(SHARD, token)
    ledger.release(SHARD, token, [Release("a", 1, 60.0, 0, 0, 1)])
    assert claimed(ledger) == {}
    assert claimed(ledger, "a") == {"a": (1, 0, 0, 1)}


def test_who_asks_by_key_gets_what_others_hold_and_the_others_release_nothing_then(ledger: Ledger) -> None:
    put(ledger, "a", 1)
    first = ledger.token()
    ledger.claim(SHARD, first)
    assert claimed(ledger, "a") == {"a": (1, 0, 0, 0)}
    ledger.release(SHARD, first, [Release("a", 1, 0.0, 0, 9, 9)])
    assert claimed(ledger) == {}


def test_a_newer_write_ends_the_pause_and_the_blame_of_an_older_one(ledger: Ledger) -> None:
    put(ledger, "a", 1)
    token = ledger.token()
    ledger.claim(SHARD, token)
    ledger.release(SHARD, token, [Release("a", 1, 60.0, 0, 3, 0)])
    put(ledger, "a", 2)
    assert claimed(ledger) == {"a": (2, 0, 0, 0)}


def test_a_claim_ends_where_its_bytes_do(make: MakeLedger) -> None:
    ledger = make(claim_bytes=150)
    for key in "abcd":
        put(ledger, key, 1)
    assert len(claimed(ledger)) == 3
    assert len(claimed(ledger)) == 1


# -- done -----------------------------------------------------------------------------------------------------------


def test_only_the_versions_that_l3_has_leave_the_ledger(ledger: Ledger) -> None:
    put(ledger, "a", 1)
    put(ledger, "b", 1)
    claimed(ledger)
    put(ledger, "b", 2)
    assert ledger.done([(SHARD, [("a", 1), ("b", 1)])]) == 1
    assert read(ledger, "a") is None and read(ledger, "b") == 2
    assert claimed(ledger) == {"b": (2, 0, 0, 0)}


def test_a_newer_version_in_l3_takes_older_pending_ones_with_it(ledger: Ledger) -> None:
    put(ledger, "a", 3)
    ledger.done([(SHARD, [("a", 8)])])
    assert read(ledger, "a") is None
    assert put(ledger, "a", 8) == Answer(Verdict.PERSISTED, 8)


def test_the_floor_never_sinks(ledger: Ledger) -> None:
    ledger.done([(SHARD, [("a", 8)])])
    ledger.done([(SHARD, [("a", 5)])])
    assert put(ledger, "a", 6) == Answer(Verdict.PERSISTED, 8)


def test_the_floor_is_kept_for_a_minute_and_not_for_ever(ledger: Ledger, raw: Any) -> None:
    ledger.done([(SHARD, [("a", 8)])])
    [key] = raw.keys("*floor*")
    assert 59_000 <= raw.pttl(key) <= 120_000


def test_a_probe_tells_what_became_of_a_write(ledger: Ledger) -> None:
    put(ledger, "pending", 4)
    ledger.done([(SHARD, [("done", 6)])])
    ledger.bury(SHARD, "dead", 7, b"letter")
    [fates] = ledger.probe([(SHARD, ["pending", "done", "dead", "unknown"])])
    assert fates == [KeyStatus(4, 0, ()), KeyStatus(0, 6, ()), KeyStatus(0, 0, (7,)), KeyStatus(0, 0, ())]


# -- dead letters ---------------------------------------------------------------------------------------------------


def test_a_buried_write_leaves_the_ledger(ledger: Ledger, raw: Any) -> None:
    put(ledger, "a", 1)
    claimed(ledger)
    assert ledger.bury(SHARD, "a", 1, b"letter")
    assert read(ledger, "a") is None and claimed(ledger) == {}
    assert raw.hgetall(Keyspace().own(SHARD.tag, "dead")) == {b"%019d" % 1: b"letter"}


def test_a_write_that_was_overtaken_is_not_buried(ledger: Ledger) -> None:
    put(ledger, "a", 2)
    assert not ledger.bury(SHARD, "a", 1, b"letter")
    ledger.done([(SHARD, [("b", 5)])])
    assert not ledger.bury(SHARD, "b", 5, b"letter")


def test_a_newer_write_that_reaches_l3_clears_the_dead_letter_of_its_key(ledger: Ledger, raw: Any) -> None:
    ledger.bury(SHARD, "a", 1, b"letter")
    ledger.bury(SHARD, "a", 9, b"later")
    ledger.done([(SHARD, [("a", 5)])])
    assert raw.hkeys(Keyspace().own(SHARD.tag, "dead")) == [b"%019d" % 9]
    assert raw.hget(Keyspace().own(SHARD.tag, "graves"), "a") == b"%019d " % 9


def test_an_exhumed_letter_leaves_nothing_behind(ledger: Ledger, raw: Any) -> None:
    ledger.bury(SHARD, "a", 1, b"letter")
    assert ledger.exhume(SHARD, "a", b"%019d" % 1)
    assert not ledger.exhume(SHARD, "a", b"%019d" % 1)
    assert raw.keys("*dea*") == raw.keys("*graves*") == raw.keys("*untold*") == []


def test_nothing_is_left_of_a_write_that_went_its_way_but_its_floor(ledger: Ledger, raw: Any) -> None:
    put(ledger, "a", 1)
    claimed(ledger)
    ledger.done([(SHARD, [("a", 1)])])
    ledger.claim(SHARD, ledger.token())
    names = {key.decode().rsplit(":", 1)[1].rstrip("01") for key in raw.keys("*")}
    assert names == {"epoch", "floor"}
