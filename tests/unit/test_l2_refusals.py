"""What Redis's errors mean: every one that it can answer, and every one that its driver has."""

from __future__ import annotations

import inspect
import ssl
import time
from typing import Any

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from strata.errors import L2RefusedError, L2UnavailableError
from strata.l2.client import RedisServer
from strata.l2.refusals import CODES, SAYINGS, Effect, refusal_of
from strata.l2.wire import _reply_error
from strata.waits.clock import SystemClock

OUT, FULL, NO, ONE = Effect.OUTAGE, Effect.FULL, Effect.REFUSED, Effect.ALONE
# As Redis 7 and Valkey 9 say them, but for those that are marked.
ANSWERS = {
    "NOAUTH Authentication required.": OUT,
    "WRONGPASS invalid username-password pair or user is disabled.": OUT,
    "ERR AUTH <password> called without any password configured for the default user. Are you sure?": OUT,
    "DENIED Redis is running in protected mode because protected mode is enabled": OUT,
    "NOPROTO unsupported protocol version": OUT,
    "ERR max number of clients reached": OUT,
    "ERR DB index is out of range": OUT,
    "READONLY You can't write against a read only replica.": OUT,
    "LOADING Redis is loading the dataset in memory": OUT,
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": OUT,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": OUT,
    "CLUSTERDOWN The cluster is down": OUT,
    "CLUSTERDOWN Hash slot not served": OUT,
    "TRYAGAIN Multiple keys request during rehashing of slot": OUT,
    "NOREPLICAS Not enough good replicas to write.": OUT,
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.": OUT,
    "ERR Protocol error: invalid multibulk length": OUT,
    "OOM command not allowed when used memory > 'maxmemory'.": FULL,
    "ERR Error running script (call to f_0): @user_script:2: -OOM command not allowed when used memory": FULL,  # 6
    "NOPERM User app has no permissions to run the 'get' command": NO,
    "NOPERM No permissions to access a key": NO,
    "NOPERM No permissions to access a channel": NO,
    "ERR ACL failure in script: User app has no permissions to run the 'publish' command": NO,
    "ERR The user executing the script can't run this command or subcommand script: 00, on @user_script:2.": NO,  # 6
    "ERR unknown command 'GETEX', with args beginning with: 'hush' ": NO,
    "ERR Unknown Redis command called from script script: 00, on @user_script:2.": NO,
    "WRONGTYPE Operation against a key holding the wrong kind of value": ONE,
    "ERR Error running script (call to f_0): @user_script:2: WRONGTYPE Operation against a key": ONE,  # 6
    "MOVED 3999 127.0.0.1:6381": NO,
    "ASK 3999 127.0.0.1:6381": NO,
    "CROSSSLOT Keys in request don't hash to the same slot": NO,
    "EXECABORT Transaction discarded because of previous errors.": NO,
    "NOSCRIPT No matching script. Please use EVAL.": ONE,
    "ERR wrong number of arguments for 'get' command": ONE,
    "ERR value is not an integer or out of range hush": ONE,
    "ERR user_script:3: attempt to index a nil value script: 00, on @user_script:3.": ONE,
    "ERR syntax error": ONE,
    "UNKILLABLE Sorry the script already executed write commands against the dataset.": ONE,
    "SOMETHINGNEW of a later release, about hush": ONE,
}
# Those of redis-py that say of themselves what they are; None: nothing was answered, or it is not met by what we send.
DRIVER: dict[str, Effect | None] = {
    "AskError": NO, "AuthenticationError": None, "AuthenticationWrongNumberOfArgsError": ONE,
    "AuthorizationError": None, "BusyLoadingError": OUT, "ClusterCrossSlotError": NO, "ClusterDownError": OUT,
    "ClusterError": None,
    "ConnectionError": None, "DataError": ONE, "ExecAbortError": NO, "ExternalAuthProviderError": None,
    "InvalidResponse": None, "LockError": None, "LockNotOwnedError": None, "MasterDownError": OUT,
    "MaxConnectionsError": None, "ModuleError": ONE, "MovedError": NO, "NoPermissionError": NO, "NoScriptError": ONE,
    "NoSuchFieldsetError": ONE, "OutOfMemoryError": FULL, "PubSubError": None, "ReadOnlyError": OUT, "RedisError": None,
    "ResponseError": ONE, "TimeoutError": None, "TryAgainError": OUT, "WatchError": None,
}  # fmt: skip


def made(kind: type[Exception], text: str = "0 127.0.0.1:1") -> Exception:
    return kind(text)


def server() -> RedisServer:
    return RedisServer(lambda: None, SystemClock(), place="redis:1")


@pytest.mark.parametrize("answer", ANSWERS)
def test_every_answer_has_its_meaning_over_our_own_connections_and_over_the_drivers(answer: str) -> None:
    drivers: Any = BaseParser
    for error in (_reply_error(answer), drivers.parse_error(answer)):
        found = refusal_of(error)
        assert found is not None and found.effect is ANSWERS[answer], error
        told = server().unavailable(error)
        assert type(told) is (L2RefusedError if ANSWERS[answer] in (NO, ONE) else L2UnavailableError)
        assert "hush" not in str(told) and "redis:1" in str(told)


def test_every_error_of_the_driver_is_in_the_table() -> None:
    kinds = [kind for _, kind in inspect.getmembers(exceptions, inspect.isclass)]
    assert {kind.__name__ for kind in kinds if issubclass(kind, exceptions.RedisError)} == set(DRIVER)


@pytest.mark.parametrize("name", DRIVER)
def test_an_error_of_the_driver_without_a_code_has_its_meaning(name: str) -> None:
    found = refusal_of(made(getattr(exceptions, name)))
    assert (found and found.effect) is DRIVER[name]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(), TimeoutError(), OSError(), exceptions.RedisClusterException("no node"),
        exceptions.SlotNotCoveredError("slot"), exceptions.ConnectionError("the server closed the connection"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_an_outage(error: Exception) -> None:
    assert refusal_of(error) is None
    assert type(server().unavailable(error)) is L2UnavailableError


def test_what_tls_says_is_an_outage_with_its_cause() -> None:
    found = refusal_of(ssl.SSLError("wrong version number"))
    assert found is not None and found.effect is OUT and "rediss://" in found.advice


@pytest.mark.parametrize("effect", Effect)
def test_only_an_outage_opens_a_breaker(effect: Effect) -> None:
    for answer in (answer for answer, expected in ANSWERS.items() if expected is effect):
        asked = server()
        for _ in range(5):
            asked._failed(_reply_error(answer), time.monotonic())
        assert asked.breaker.closed is (effect is not OUT)


def test_every_code_says_what_was_found_and_what_is_right() -> None:
    for found in (*CODES.values(), *(refusal for _, refusal in SAYINGS)):
        assert found.found and found.advice
