"""The doctor's judgement, apart from the servers."""

from __future__ import annotations

import time

import pytest

from strata.cli.doctor.clocks import clock
from strata.cli.doctor.finding import Finding
from strata.cli.doctor.finding import FindingState as State
from strata.cli.doctor.redis import _forgetting, _version


def states(findings: list[Finding]) -> list[State]:
    return [finding.state for finding in findings]


@pytest.mark.parametrize(
    ("facts", "state", "shown"),
    [
        ({"redis_version": "5.0.14"}, State.FAIL, "Redis 5.0.14"),
        ({"redis_version": "6.2.0"}, State.OK, "Redis 6.2.0"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, State.OK, "Valkey 9.1.2"),
    ],
)
def test_the_version_of_redis(facts: dict[str, str], state: State, shown: str) -> None:
    finding = _version("Redis", facts)
    assert (finding.state, finding.found) == (state, shown)


@pytest.mark.parametrize(
    ("policy", "state"),
    [("noeviction", State.OK), ("volatile-lru", State.OK), ("allkeys-lru", State.FAIL), ("volatile-ttl", State.FAIL)],
)
def test_a_ledger_that_could_be_evicted_fails(policy: str, state: State) -> None:
    facts = {"maxmemory_policy": policy, "maxmemory": "1048576", "aof_enabled": "1"}
    assert states(list(_forgetting("Redis", facts, ledger=True))) == [state, State.OK]


def test_a_ledger_without_aof_is_a_warning_that_says_what_to_do() -> None:
    facts = {"maxmemory_policy": "noeviction", "aof_enabled": "0"}
    last = list(_forgetting("Redis", facts, ledger=True))[-1]
    assert last.state is State.WARN and "appendonly yes" in last.advice


def test_a_full_cache_should_forget() -> None:
    facts = {"maxmemory_policy": "noeviction", "maxmemory": "1048576"}
    assert states(list(_forgetting("Redis", facts, ledger=False))) == [State.WARN]


@pytest.mark.parametrize(
    ("offset", "state"), [(0.0, State.OK), (0.4, State.OK), (-3.0, State.WARN), (-90.0, State.FAIL)]
)
def test_clocks_that_differ_are_a_warning(offset: float, state: State) -> None:
    assert clock("Redis", lambda: time.time() + offset).state is state
