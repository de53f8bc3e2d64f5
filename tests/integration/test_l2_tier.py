"""What the scripts of L2 promise, one key at a time, on a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from strata.errors import InvalidConfigError, L2UnavailableError
from strata.l2.address import adopt, connect
from strata.l2.client import RedisServer
from strata.l2.content import Contents, Found, State
from strata.l2.lifetimes import Lifetimes
from strata.l2.tier import L2Tier
from strata.l2.values import Put
from strata.observe.server_call import ServerCall
from strata.policies import L2PoolConfig
from strata.protocol.versions import VersionClock
from strata.waits.clock import SystemClock

CHANNEL = "test:bus"
POOL = L2PoolConfig(read_timeout=1, write_timeout=1, dial_timeout=1)


@pytest.fixture
def server(redis_addr: str) -> Iterator[RedisServer]:
    server = RedisServer(lambda: connect(redis_addr, POOL), SystemClock())
    yield server
    server.close()


@pytest.fixture
def corrupt() -> list[int]:
    return []


@pytest.fixture
def tier(server: RedisServer, corrupt: list[int]) -> L2Tier:
    return tier_of(server, on_corrupt=corrupt.append)


def tier_of(
    server: RedisServer, ttl: float = 60.0, negative: float = 0.0, on_corrupt: Callable[[int], None] = print
) -> L2Tier:
    """A tier whose records are texts."""
    clock = SystemClock()
    versions, lifetimes = VersionClock(clock), Lifetimes(ttl, negative=negative)
    contents = Contents(str.encode, bytes.decode, lifetimes, versions, clock)
    return L2Tier(server, "things", contents, lifetimes, versions, on_corrupt)


def put(tier: L2Tier, key: str, version: int, record: str | None, token: str = "") -> bool:
    return bool(tier.put(token or "nobody", CHANNEL, [Put(key, version, record, b"{}")]))


def commit(tier: L2Tier, key: str, version: int, record: str | None) -> bool:
    token = tier.token()
    tier.intend(token, 10, CHANNEL, {key: b"{}"})
    return put(tier, key, version, record, token)


def fill(tier: L2Tier, token: str, key: str, version: int, record: str | None) -> bool:
    return bool(tier.fill(token, [Put(key, version, record)]))


def test_a_read_that_misses_leaves_a_lease_and_may_fill_once(tier: L2Tier) -> None:
    found = tier.read("a")
    assert found.state is State.LEASED
    assert fill(tier, found.token, "a", 5, "five")
    assert not fill(tier, found.token, "a", 6, "six")
    assert tier.read("a") == Found(State.VALUE, 5, False, "five")


def test_a_second_reader_does_not_get_the_lease_of_the_first(tier: L2Tier) -> None:
    first = tier.read("a")
    assert tier.read("a").state is State.LOADING
    assert fill(tier, first.token, "a", 1, "one")


def test_an_empty_key_refuses_a_fill(tier: L2Tier, server: RedisServer) -> None:
    found = tier.read("a")
    server.execute("DEL", tier.key("a"))
    assert not fill(tier, found.token, "a", 1, "one")


def test_a_write_between_read_and_fill_refuses_the_fill(tier: L2Tier) -> None:
    found = tier.read("a")
    assert commit(tier, "a", 9, "new")
    assert not fill(tier, found.token, "a", 1, "old")
    assert tier.read("a").record == "new"


def test_a_reader_during_an_intent_cannot_fill(tier: L2Tier) -> None:
    token = tier.token()
    tier.intend(token, 10, CHANNEL, {"a": b"{}"})
    assert tier.read("a").state is State.BUSY
    assert put(tier, "a", 2, "two", token)
    assert tier.read("a").record == "two"


def test_intents_that_meet_are_spoiled_and_the_last_to_leave_empties_the_key(tier: L2Tier) -> None:
    one, two = tier.token(), tier.token()
    tier.intend(one, 10, CHANNEL, {"a": b"{}"})
    tier.intend(two, 10, CHANNEL, {"a": b"{}"})
    assert not put(tier, "a", 1, "one", one)
    assert tier.read("a").state is State.BUSY
    assert not put(tier, "a", 2, "two", two)
    assert tier.read("a").state is State.LEASED


def test_a_put_without_its_intent_removes_what_is_older_and_stores_nothing(tier: L2Tier) -> None:
    commit(tier, "a", 5, "five")
    assert not put(tier, "a", 9, "nine")
    assert tier.read("a").state is State.LEASED


def test_a_put_without_its_intent_removes_what_is_newer_too_unless_it_is_pending(tier: L2Tier) -> None:
    commit(tier, "a", 9, "nine")
    assert not put(tier, "a", 5, "five")
    found = tier.read("a")
    assert found.state is State.LEASED
    tier.fill(found.token, [Put("a", 9, "nine", pending=True)])
    assert not put(tier, "a", 5, "five")
    assert tier.read("a").record == "nine"


def test_what_is_told_once_more_removes_only_what_is_older(tier: L2Tier) -> None:
    commit(tier, "a", 9, "nine")
    for version in (5, 9):
        assert not tier.put("", CHANNEL, [Put("a", version, "told")])
        assert tier.read("a").record == "nine"
    assert not tier.put("", CHANNEL, [Put("a", 10, "told")])
    assert tier.read("a").state is State.LEASED


def test_a_put_without_its_intent_spoils_those_of_others(tier: L2Tier) -> None:
    other = tier.token()
    tier.intend(other, 10, CHANNEL, {"a": b"{}"})
    assert not put(tier, "a", 5, "five")
    assert not put(tier, "a", 6, "six", other)
    assert tier.read("a").state is State.LEASED


def test_an_abandoned_intent_leaves_the_key_empty(tier: L2Tier) -> None:
    token = tier.token()
    tier.intend(token, 10, CHANNEL, {"a": b"{}"})
    tier.abandon(token, ["a"])
    assert tier.read("a").state is State.LEASED


def test_an_intent_expires_with_its_writer(tier: L2Tier, server: RedisServer) -> None:
    tier.intend(tier.token(), 10, CHANNEL, {"a": b"{}"})
    assert 9_000 < server.execute("PTTL", tier.key("a")) <= 10_000


def test_a_value_that_comes_between_the_look_and_the_lease_is_found(
    tier: L2Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(tier, "a", 3, "three")
    monkeypatch.setattr(tier.server, "values", lambda keys, step: [None] * len(keys))
    assert tier.read_many(["a"]) == {"a": Found(State.VALUE, 3, False, "three")}


def test_a_delete_leaves_a_tombstone_that_expires(tier: L2Tier, server: RedisServer) -> None:
    commit(tier, "a", 3, None)
    assert tier.read("a") == Found(State.TOMBSTONE, 3)
    assert server.execute("PTTL", tier.key("a")) > 0


def test_where_l2_is_the_lowest_tier_the_newest_version_wins(tier: L2Tier) -> None:
    assert tier.own(CHANNEL, [Put("a", 7, "seven")]) == {}
    assert tier.own(CHANNEL, [Put("a", 6, "six"), Put("b", 1, "b")]) == {"a": 7}
    assert tier.read("a").record == "seven"


def test_versions_beyond_the_exact_range_of_doubles_compare_exactly(tier: L2Tier) -> None:
    high = (1 << 61) + 1
    tier.own(CHANNEL, [Put("a", high, "high")])
    assert tier.own(CHANNEL, [Put("a", high - 1, "low")]) == {"a": high}
    assert tier.own(CHANNEL, [Put("a", high + 1, "higher")]) == {}


def test_invalidate_drops_a_value_and_voids_leases(tier: L2Tier) -> None:
    commit(tier, "a", 5, "five")
    tier.invalidate(CHANNEL, {"a": b"{}"})
    found = tier.read("a")
    assert found.state is State.LEASED
    tier.invalidate(CHANNEL, {"a": b"{}"})
    assert not fill(tier, found.token, "a", 5, "five")


def test_what_is_being_committed_at_an_invalidation_is_not_stored(tier: L2Tier) -> None:
    token = tier.token()
    tier.intend(token, 10, CHANNEL, {"a": b"{}"})
    tier.invalidate(CHANNEL, {"a": b"{}"})
    assert not put(tier, "a", 5, "five", token)
    assert tier.read("a").state is State.LEASED


def test_invalidate_leaves_what_is_pending(tier: L2Tier) -> None:
    found = tier.read("a")
    tier.fill(found.token, [Put("a", 5, "five", pending=True)])
    tier.invalidate(CHANNEL, {"a": b"{}"})
    assert tier.read("a").record == "five"


def test_settling_makes_a_pending_value_settled_and_keeps_its_bytes(tier: L2Tier) -> None:
    found = tier.read("a")
    tier.fill(found.token, [Put("a", 5, "five", pending=True)])
    tier.settle(CHANNEL, [("a", 5, b"", 0, b"", 1)])
    assert tier.read("a") == Found(State.VALUE, 5, False, "five")


def test_settling_never_creates_a_key(tier: L2Tier) -> None:
    tier.settle(CHANNEL, [("a", 5, tier.held(5, "five")[0], 1000, b"", 1)])
    assert tier.read("a").state is State.LEASED


def test_settling_removes_what_is_older_than_l3(tier: L2Tier) -> None:
    commit(tier, "a", 4, "four")
    tier.settle(CHANNEL, [("a", 5, b"", 0, b"", 1)])
    assert tier.read("a").state is State.LEASED


def test_a_purge_takes_back_values_up_to_its_version_only(tier: L2Tier) -> None:
    commit(tier, "a", 5, "five")
    commit(tier, "b", 6, "six")
    tier.purge(CHANNEL, [("a", 5, b""), ("b", 5, b"")])
    assert tier.read("a").state is State.LEASED
    assert tier.read("b").record == "six"


def test_an_entry_that_cannot_be_read_is_a_miss_counted_and_repaired(
    tier: L2Tier, server: RedisServer, corrupt: list[int]
) -> None:
    for junk in (
        b"",
        b"junk",
        b"V9:x",
        b"V1:short",
        b"V1:" + b"x" * 19 + b":s:abc",
        b"V1:" + b"0" * 19 + b":s:\xff\xff",
    ):
        server.execute("SET", tier.key("a"), junk)
        found = tier.read("a")
        assert found.state is State.LEASED
        assert fill(tier, found.token, "a", 1, "good")
        assert tier.read("a").record == "good"
    assert corrupt == [1] * 6


def test_what_cannot_be_read_is_leased_only_while_it_is_still_there(
    tier: L2Tier, server: RedisServer, corrupt: list[int]
) -> None:
    server.pipeline([("SET", tier.key(key), "junk") for key in "abc"])
    commit(tier, "d", 1, "one")
    looked = server.values

    def values(keys: list[str], step: int) -> list[bytes | None]:
        found = looked(keys, step)
        commit(tier, "a", 7, "seven")  # between the look and the leases
        server.execute("SET", tier.key("b"), "other junk")
        return found

    server.values = values  # type: ignore[method-assign,assignment]
    found = tier.read_many(["a", "b", "c", "d", "e"])
    states = {key: answer.state for key, answer in found.items()}
    assert states == {
        "a": State.VALUE, "b": State.BUSY, "c": State.LEASED, "d": State.VALUE, "e": State.LEASED,
    }  # fmt: skip
    assert (found["a"].record, corrupt) == ("seven", [3])
    assert fill(tier, found["c"].token, "c", 1, "good") and not fill(tier, found["c"].token, "b", 1, "bad")


@pytest.mark.parametrize(
    "junk",
    [b"junk", b"V1:short", b"V1:" + b"x" * 19 + b":s:abc", b"V1:" + b"9" * 19 + b":s:abc", b"V1:%019d:s:\xff" % 1],
    ids=["no entry", "short", "no version", "of the far future", "undecodable"],
)
def test_one_of_many_that_cannot_be_read_costs_the_others_nothing(
    junk: bytes, tier: L2Tier, server: RedisServer, corrupt: list[int]
) -> None:
    commit(tier, "a", 1, "one")
    commit(tier, "c", 3, None)
    commit(tier, "d", 2, "two")
    server.execute("SET", tier.key("b"), junk)
    now = tier.server.clock.monotonic()
    tier._versions.discipline(server.time_ms() / 1000, now, now)  # else no clock is there to judge the far future
    found = tier.read_many(["a", "b", "c", "d", "e"])
    assert {key: (answer.state, answer.version, answer.record) for key, answer in found.items()} == {
        "a": (State.VALUE, 1, "one"), "b": (State.LEASED, 0, None), "c": (State.TOMBSTONE, 3, None),
        "d": (State.VALUE, 2, "two"), "e": (State.LEASED, 0, None),
    }  # fmt: skip
    assert corrupt == [1]


def test_plain_values_are_told_apart_from_what_there_is_more_to_say_of(tier: L2Tier) -> None:
    commit(tier, "a", 1, "one")
    tier.own(CHANNEL, [Put("b", 2, "two", b"{}", life=9.0)])
    plain, others = tier.look(["a", "b", "c"])
    assert (plain.records, plain.versions) == ({"a": "one"}, [1])
    assert {key: answer.state for key, answer in others.items()} == {"b": State.VALUE, "c": State.LEASED}
    assert 8 < (others["b"].life or 0) <= 9


def test_two_thousand_keys_take_one_round_trip_and_one_more_for_those_that_are_leased(
    tier: L2Tier, server: RedisServer
) -> None:
    texts = [f"k{number}" for number in range(2000)]
    trips: list[ServerCall] = []
    server.on_call = trips.append
    token = tier.read_many(texts)["k0"].token
    assert len(tier.fill(token, [Put(text, 1, text) for text in texts])) == 2000
    assert len(trips) == 3
    assert all(found.record == text for text, found in tier.read_many(texts).items())
    assert len(trips) == 4


def test_an_absence_is_leased_only_to_one_that_has_seen_the_row(server: RedisServer) -> None:
    tier = tier_of(server, negative=30.0)

    def forget(key: str) -> None:
        found = tier.read(key)
        assert tier.fill(found.token, [Put(key, 0, None, absent=True)]) == {key}

    forget("a")
    commit(tier, "b", 5, None)
    assert [found.state for found in tier.read_many(["a", "b"]).values()] == [State.TOMBSTONE] * 2
    found = tier.read_many(["a", "b"], exist=True)
    assert (found["a"].state, found["b"].state) == (State.LEASED, State.TOMBSTONE)
    tier.invalidate(CHANNEL, {"a": b"{}"})
    forget("a")  # the very same content once more
    assert not fill(tier, found["a"].token, "a", 1, "stale")
    found = tier.read_many(["a"], exist=True)
    assert fill(tier, found["a"].token, "a", 1, "row")
    assert tier.read("a").record == "row"


def test_many_keys_go_in_chunks_and_come_back_in_one_piece(tier: L2Tier) -> None:
    token = tier.token()
    texts = [f"k{n}" for n in range(777)]
    tier.intend(token, 10, CHANNEL, dict.fromkeys(texts, b"{}"))
    assert tier.put(token, CHANNEL, [Put(text, 1, text, b"{}") for text in texts]) == set(texts)
    found = tier.read_many([*texts, "missing"])
    assert all(found[text].record == text for text in texts)
    assert found["missing"].state is State.LEASED


def test_keys_with_colons_newlines_and_emoji_simply_work(tier: L2Tier) -> None:
    for key in ("a:b:c", "line\nbreak", "🦊", "{tag}", "=;"):
        assert commit(tier, key, 1, key)
        assert tier.read(key).record == key


def test_a_script_that_the_server_forgot_is_sent_again(tier: L2Tier, server: RedisServer) -> None:
    commit(tier, "a", 1, "one")
    server.execute("SCRIPT", "FLUSH")
    assert tier.read("a").record == "one"


def test_values_expire_after_the_ttl_and_a_ttl_of_zero_never(server: RedisServer) -> None:
    tier = tier_of(server, ttl=0)
    commit(tier, "a", 1, "one")
    assert server.execute("PTTL", tier.key("a")) == -1


def test_a_server_that_is_not_there_raises_and_is_then_left_alone() -> None:
    server = RedisServer(lambda: connect("127.0.0.1:1", POOL), SystemClock())
    tier = tier_of(server)
    for _ in range(3):
        with pytest.raises(L2UnavailableError):
            tier.read("a")
    assert not server.breaker.closed
    with pytest.raises(L2UnavailableError, match=r"was not asked.* did not answer .ConnectionError"):
        tier.read("a")


def test_a_client_of_the_users_is_copied_without_its_retries_and_keeps_its_address(redis_addr: str) -> None:
    mine = connect(redis_addr, POOL)
    copy = adopt(mine, L2PoolConfig(read_timeout=0.25, write_timeout=0.25))
    assert copy.ping()
    kwargs = copy.connection_pool.connection_kwargs
    assert (kwargs["socket_timeout"], kwargs["retry"]._retries) == (0.25, 0)
    assert copy.connection_pool is not mine.connection_pool


@pytest.mark.parametrize("addr", ["", "nohost", "host:port", "http://x", "redis+sentinel://a:1", "redis+cluster://a"])
def test_an_address_that_cannot_be_read_is_refused_at_once(addr: str) -> None:
    with pytest.raises(InvalidConfigError, match="redis_addr"):
        connect(addr, POOL)


@pytest.mark.parametrize("client", [None, "redis", 5])
def test_what_is_not_a_redis_client_is_refused(client: object) -> None:
    with pytest.raises(InvalidConfigError, match="redis_client"):
        adopt(client, POOL)
