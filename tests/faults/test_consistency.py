"""No process reads an older value than it read or wrote before, whatever happens to the servers; at rest all agree."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import redis

from strata import WriteMode
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.testing.history import BOUNDS, KEYS, disagreements
from tests.faults.history import make_store
from tests.forked import Forked

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(300)]

Fault = Callable[[EmbeddedPostgres, EmbeddedValkey], None]

PROCESSES = 3
SEARCHES = 5  # runs in which a seeded bug must be found, on a machine however busy
SECONDS = float(os.environ.get("STRATA_CHECK_SECONDS", "3"))


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
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND usename IS NOT NULL"
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

AMONG_FAULTS = pytest.mark.parametrize(
    "faults", [pytest.param([], id="without", marks=pytest.mark.long), pytest.param(FAULTS, id="with")]
)


@pytest.mark.long  # the simulator shows it in thousands of schedules
def test_without_a_fault_no_process_is_ever_shown_an_older_value(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, capsys: pytest.CaptureFixture[str]
) -> None:
    Run(own_postgres, own_valkey, WriteMode.WRITE_THROUGH, strict=True).check([], capsys)


def test_under_faults_nothing_is_lost_own_writes_stay_and_nothing_is_older_than_the_bound(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, capsys: pytest.CaptureFixture[str]
) -> None:
    Run(own_postgres, own_valkey, WriteMode.WRITE_THROUGH, strict=False).check(FAULTS, capsys)


@pytest.mark.long  # as above
@AMONG_FAULTS
def test_written_behind_nothing_is_lost_own_writes_stay_and_all_agree_at_rest(
    own_postgres: EmbeddedPostgres,
    own_valkey: EmbeddedValkey,
    faults: Sequence[Fault],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Run(own_postgres, own_valkey, WriteMode.WRITE_BEHIND, strict=False).check(faults, capsys)


@AMONG_FAULTS
@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(WriteMode.WRITE_THROUGH, id="write_through", marks=pytest.mark.long),
        pytest.param(WriteMode.WRITE_BEHIND, id="write_behind"),
    ],
)
def test_the_freshness_options_change_nothing_of_that(
    own_postgres: EmbeddedPostgres,
    own_valkey: EmbeddedValkey,
    mode: WriteMode,
    faults: Sequence[Fault],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Run(own_postgres, own_valkey, mode, strict=False, program=("tests.faults.fresh",)).check(faults, capsys)


@pytest.mark.parametrize(
    ("bug", "mode", "faults"),
    [
        pytest.param("fills_need_no_lease", WriteMode.WRITE_THROUGH, [], marks=pytest.mark.long),
        pytest.param("l1_survives_a_lost_subscription", WriteMode.WRITE_THROUGH, [], marks=pytest.mark.long),
        pytest.param("reads_pass_the_dirty_buffer", WriteMode.WRITE_BEHIND, [], marks=pytest.mark.long),
        pytest.param("refreshes_replace_whatever_is_there", WriteMode.WRITE_THROUGH, [], marks=pytest.mark.long),
    ],
)
def test_a_rule_of_the_protocol_left_out_is_found(
    own_postgres: EmbeddedPostgres,
    own_valkey: EmbeddedValkey,
    bug: str,
    mode: WriteMode,
    faults: Sequence[Fault],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(SEARCHES):
        run = Run(own_postgres, own_valkey, mode, strict=False, program=("tests.faults.seeded", bug))
        try:
            run.check(faults, capsys)
        except AssertionError as error:
            assert re.search(r"read \d+ after|at rest", str(error))
            return
    pytest.fail(f"{bug} was not found in {SEARCHES} runs")


class Run:
    """Processes on the same servers, faults, and what must hold afterwards."""

    def __init__(
        self,
        postgres: EmbeddedPostgres,
        valkey: EmbeddedValkey,
        mode: WriteMode,
        *,
        strict: bool,
        program: Sequence[str] = ("tests.faults.history",),
    ) -> None:
        self._postgres = postgres
        self._valkey = valkey
        self._mode = mode
        with make_store(postgres.dsn, valkey.addr, mode) as store:
            store.migrate()
        command = [sys.executable, "-m", *program, postgres.dsn, valkey.addr, mode.name]
        self._actors = [
            Forked(
                [*command, str(number), str(PROCESSES), str(SECONDS), "strict" if strict else "bounded"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]

    def check(self, faults: Sequence[Fault], capsys: pytest.CaptureFixture[str]) -> None:
        """Inject the faults, wait for the end, and compare what everybody saw with what PostgreSQL holds."""
        try:
            self._check(faults, capsys)
        finally:
            for actor in self._actors:
                with actor:  # whose pipes are closed
                    actor.kill()

    def _check(self, faults: Sequence[Fault], capsys: pytest.CaptureFixture[str]) -> None:
        for actor in self._actors:
            _line(actor)
        injected = self._inject(faults)
        results = [_line(actor) for actor in self._actors]
        with capsys.disabled():
            totals = {
                name: sum(result[name] for result in results) for name in ("operations", "unavailable", "regressions")
            }
            print(f"\n{self._mode.value}: {totals}, faults: {injected}")
        assert all(result["flushed"] for result in results)
        self._write_unheard()
        violations = [violation for result in results for violation in result["violations"]]
        assert violations == []
        with psycopg.connect(self._postgres.dsn) as conn:
            truth: dict[int, int] = dict(conn.execute("SELECT id, n FROM counts").fetchall())
        seen = [{int(key): count for key, count in result["seen"].items()} for result in results]
        assert disagreements({key: truth.get(key, 0) for key in range(KEYS)}, seen, self._at_rest()) == []

    def _write_unheard(self) -> None:
        """Everybody reads everything, then writes once more, and one of them hears nothing of it."""
        with redis.Redis(port=self._valkey.port) as client, ThreadPoolExecutor() as pool:
            assert all(answer.result() is True for answer in self._ask_all("read", pool))
            hearing = [listener["id"] for listener in client.client_list("pubsub")][1:]
            answers: list[Future[Any]] = []
            while not answers or not all(answer.done() for answer in answers):
                for listener in client.client_list("pubsub"):
                    if listener["id"] not in hearing:
                        client.client_kill_filter(_id=listener["id"])
                answers = answers or self._ask_all("write", pool)
            assert all(answer.result() is True for answer in answers)

    def _ask_all(self, command: str, pool: ThreadPoolExecutor) -> list[Future[Any]]:
        for actor in self._actors:
            assert actor.stdin is not None
            actor.stdin.write(f"{command}\n")
            actor.stdin.flush()
        return [pool.submit(_line, actor) for actor in self._actors]

    def _at_rest(self) -> list[dict[int, int]]:
        """What each process reads when nothing is written any more, and the bound has passed."""
        time.sleep(BOUNDS[WriteMode.WRITE_THROUGH])
        values = []
        for actor in self._actors:
            assert actor.stdin is not None
            actor.stdin.close()
            values.append({int(key): value for key, value in _line(actor).items()})
            actor.wait(60)
        return values

    def _inject(self, faults: Sequence[Fault]) -> int:
        rng = random.Random(7)
        end = time.monotonic() + SECONDS - 1
        injected = 0
        while faults and time.monotonic() < end:
            time.sleep(rng.uniform(0.2, 0.8))
            rng.choice(faults)(self._postgres, self._valkey)
            injected += 1
        return injected


def _line(actor: subprocess.Popen[str]) -> Any:
    assert actor.stdout is not None
    line = actor.stdout.readline()
    assert line, "a process of the run died; see its traceback"
    return json.loads(line)
