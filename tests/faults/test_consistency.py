"""No process reads an older value than it read or wrote before, whatever happens to the servers; at rest all agree."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest
import redis

from strata import WriteMode
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from tests.faults.history import KEYS, make_store

pytestmark = pytest.mark.faults

PROCESSES = 3
SECONDS = float(os.environ.get("STRATA_CHECK_SECONDS", "8"))


def cut_connections(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    with redis.Redis(port=valkey.port) as client:
        client.client_kill_filter(_type="normal", skipme=True)


def cut_subscriptions(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    with redis.Redis(port=valkey.port) as client:
        client.client_kill_filter(_type="pubsub")


def freeze_redis(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    valkey.freeze()
    time.sleep(0.7)
    valkey.thaw()


def empty_redis(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    with redis.Redis(port=valkey.port) as client:
        client.flushall()


def restart_redis(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    valkey.kill()
    valkey.restart()


def restart_postgres(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    postgres.restart()


def cut_backends(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename IS NOT NULL"
        )


FAULTS = [
    cut_connections,
    cut_subscriptions,
    freeze_redis,
    empty_redis,
    restart_redis,
    restart_postgres,
    cut_backends,
]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND], ids=lambda mode: mode.value)
@pytest.mark.timeout(300)
def test_histories_are_consistent_under_faults(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, mode: WriteMode, capsys: pytest.CaptureFixture[str]
) -> None:
    with make_store(own_postgres.dsn, own_valkey.addr, mode) as store:
        store.migrate()
    command = [sys.executable, "-m", "tests.faults.history", own_postgres.dsn, own_valkey.addr, mode.name]
    actors = [
        subprocess.Popen(
            [*command, str(number), str(PROCESSES), str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    injected = _inject(own_postgres, own_valkey)
    results = [_line(actor) for actor in actors]
    with psycopg.connect(own_postgres.dsn) as conn:
        truth: dict[int, int] = dict(conn.execute("SELECT id, n FROM counts").fetchall())
    at_rest = []
    for actor in actors:
        assert actor.stdin is not None
        actor.stdin.close()
        at_rest.append({int(key): value for key, value in _line(actor).items()})
        actor.wait(60)
    with capsys.disabled():
        operations = sum(result["operations"] for result in results)
        refused = sum(result["unavailable"] for result in results)
        print(f"\n{mode.value}: {operations} operations, {refused} refused, {injected} faults injected")
    assert all(result["flushed"] for result in results)
    assert [violation for result in results for violation in result["violations"]] == []
    for key in range(KEYS):
        newest = max(result["seen"][str(key)] for result in results)
        assert truth.get(key, 0) >= newest, f"key {key}: an acknowledged write is lost"
        assert {values[key] for values in at_rest} == {truth.get(key, 0)}, f"key {key}: caches disagree at rest"


def _inject(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> int:
    rng = random.Random(7)
    end = time.monotonic() + SECONDS - 1
    injected = 0
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.2, 0.8))
        rng.choice(FAULTS)(postgres, valkey)
        injected += 1
    return injected


def _line(actor: subprocess.Popen[str]) -> Any:
    assert actor.stdout is not None
    line = actor.stdout.readline()
    assert line, "a process of the run died; see its traceback"
    return json.loads(line)
