"""`strata doctor`: is everything as it must be, and if not, what is to be done."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from strata.cli.app import app_option, load_store
from strata.cli.inside import ask_postgres, defers, pending, redis_servers
from strata.datastore import DataStore
from strata.errors import StrataError
from strata.l2.client import RedisServer
from strata.writebehind.broker import celery_app

GOOD, WARN, FAIL = "[green]ok[/]", "[yellow]warn[/]", "[red]fail[/]"
CLOCK_LIMIT = 0.5  # seconds
_VERSION_AND_CLOCK = (
    "SELECT current_setting('server_version_num')::int, extract(epoch FROM clock_timestamp())::float8"
)
OLD = 10.0  # seconds that an entry may wait before it is a warning


class Finding(NamedTuple):
    """One line of the report."""

    what: str
    state: str
    said: str
    advice: str = ""


@click.command()
@app_option
def doctor(target: str) -> None:
    """Check servers, eviction policy, workers, clocks and pending work; exit status 1 if something fails."""
    with load_store(target) as store:
        findings = list(_findings(store))
    table = Table("what", "state", "found", "what to do")
    for finding in findings:
        table.add_row(*finding)
    Console().print(table)
    if any(finding.state == FAIL for finding in findings):
        sys.exit(1)


def _findings(store: DataStore) -> Iterator[Finding]:
    yield from _postgres(store)
    servers = redis_servers(store)
    for name, server in servers.items():
        yield from _redis(name, server, ledger=defers(store) and name == list(servers)[-1])
    if defers(store):
        yield _workers(store)
        yield from _pending(store)


def _postgres(store: DataStore) -> Iterator[Finding]:
    if not store.config.postgres_dsn:
        return
    try:
        asked = time.time()
        version, now = ask_postgres(store, _VERSION_AND_CLOCK)
        offset = float(now) - (asked + time.time()) / 2
    except StrataError as error:
        yield Finding("PostgreSQL", FAIL, str(error), "start it, or correct postgres_dsn")
        return
    old = int(version) < 140_000
    advice = "use 14 or later" if old else ""
    yield Finding("PostgreSQL", FAIL if old else GOOD, f"version {int(version) // 10_000}", advice)
    yield _clock("PostgreSQL", offset)


def _redis(name: str, server: RedisServer, *, ledger: bool) -> Iterator[Finding]:
    try:
        asked = time.time()
        seconds, micros = server.execute("TIME")
        offset = int(seconds) + int(micros) / 1e6 - (asked + time.time()) / 2
    except StrataError as error:
        yield Finding(name, FAIL, str(error), "start it, or correct its address")
        return
    yield Finding(name, GOOD, "answers")
    yield _clock(name, offset)
    try:
        policy = _setting(server, "maxmemory-policy")
        if ledger:
            good = policy in ("noeviction", "volatile-lru")
            yield Finding(
                name, GOOD if good else FAIL, f"maxmemory-policy {policy}",
                "" if good else "set noeviction: another policy can evict what was not written yet",
            )  # fmt: skip
            aof = _setting(server, "appendonly") == "yes"
            advice = "" if aof else "set appendonly yes, or a restart loses what was handed off by processes that ended"
            yield Finding(name, GOOD if aof else WARN, f"appendonly {'yes' if aof else 'no'}", advice)
        elif policy == "noeviction" and _setting(server, "maxmemory") != "0":
            yield Finding(name, WARN, "maxmemory-policy noeviction", "set volatile-lru: a full cache should forget")
    except StrataError:
        yield Finding(name, WARN, "CONFIG GET is not allowed", "check maxmemory-policy and appendonly yourself")


def _setting(server: RedisServer, name: str) -> str:
    answer = server.execute("CONFIG", "GET", name)
    value = next(iter(answer.values())) if isinstance(answer, dict) else answer[1]
    return value.decode() if isinstance(value, bytes) else str(value)


def _clock(name: str, offset: float) -> Finding:
    if abs(offset) < CLOCK_LIMIT:
        return Finding(f"clock of {name}", GOOD, f"{offset * 1000:+.0f} ms")
    return Finding(f"clock of {name}", WARN, f"{offset:+.1f} s", "synchronise the clocks (NTP)")


def _workers(store: DataStore) -> Finding:
    try:
        replies = celery_app(store.config).control.ping(timeout=2.0)
    except Exception as error:  # noqa: BLE001 whatever the broker's driver raises is the finding
        said = f"the broker does not answer ({type(error).__name__})"
        return Finding("workers", FAIL, said, "start it, or correct broker_url")
    if not replies:
        return Finding("workers", FAIL, "none answers", "start one: STRATA_APP=... celery -A workers worker")
    return Finding("workers", GOOD, f"{len(replies)} answer")


def _pending(store: DataStore) -> Iterator[Finding]:
    for name, (entries, age) in pending(store).items():
        late = age > OLD
        advice = "look at the workers' log and `strata dead-letters list`" if late else ""
        yield Finding(f"pending in {name}", WARN if late else GOOD, f"{entries}, oldest {age:.1f} s", advice)
    count = len(store.dead_letters.list(limit=1000))
    if count:
        yield Finding("dead letters", WARN, str(count), "see `strata dead-letters list`")
