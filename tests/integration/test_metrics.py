"""What a store tells a `MetricsRecorder`, and in `stats`: by the names that the documentation has."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from strata import DataStore, Durability, L3UnavailableError, NotFoundError, Stats
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.integrations.prometheus import PrometheusRecorder
from strata.testing import inspect
from strata.writebehind.ledger.shard import home_of
from strata.writebehind.ledger.timing import Timing
from tests.behind import deferred, deferring_to_the_fleet, hand_off, idle, paced, persist
from tests.fleet import ROOT, environment, workers
from tests.models import Note, Player
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

DOCS = ROOT / "docs" / "observability.md"
DASHBOARD = ROOT / "ops" / "grafana" / "dashboards" / "strata.json"


class Recorder:
    """Remembers everything."""

    def __init__(self) -> None:
        self.counts: Counter[Any] = Counter()
        self.durations: dict[Any, list[float]] = {}
        self.gauges: dict[Any, float] = {}

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        self.counts[name, *sorted(labels.values())] += value

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        self.durations.setdefault((name, *sorted(labels.values())), []).append(seconds)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.gauges[name, *sorted(labels.values())] = value

    @property
    def names(self) -> set[str]:
        return {key[0] for kind in (self.counts, self.durations, self.gauges) for key in kind}


class Broken:
    """Raises, whatever it is told."""

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        raise RuntimeError("the recorder is broken")

    observe = gauge = count


class Journal:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, dict[str, Any]]] = []

    def warning(self, msg: str, **fields: Any) -> None:
        self.warnings.append((msg, fields))

    def debug(self, msg: str, **fields: Any) -> None:
        pass

    info = error = debug


def documented() -> set[str]:
    """The metrics of the documentation's table."""
    rows = [line.split("|")[1] for line in DOCS.read_text().splitlines() if line.startswith("| `strata_")]
    return {name for row in rows for name in re.findall(r"`(strata_\w+)`", row)}


def use(store: DataStore) -> None:
    """Some of everything."""
    store.set(Player, "p1", Player("p1", "one"))
    for _ in range(10):
        store.get(Player, "p1")
    store.invalidate(Player, "p1")
    store.get(Player, "p1")
    store.get(Player, "p1", force_l2=True)
    with pytest.raises(NotFoundError):
        store.get(Player, "none")
    store.search(Player)
    store.delete(Player, "p1")


def test_every_operation_is_counted_and_timed(make: MakeStore) -> None:
    recorder = Recorder()
    store = make(metrics=recorder)
    store.register(schema(Player))
    store.migrate()
    sure(store)
    use(store)
    inspect(store).feed.publish()
    stats = store.stats()
    for tier, hits in (("l1", stats.l1_hits), ("l2", stats.l2_hits), ("l3", stats.l3_hits)):
        assert recorder.counts["strata_hits", tier, "player"] == hits > 0
    assert stats.l1_hits >= 10
    assert recorder.counts["strata_gets", "player"] == stats.gets
    assert recorder.counts["strata_misses", "player"] == stats.misses == 1
    assert recorder.counts["strata_sets", "player"] == recorder.counts["strata_deletes", "player"] == 1
    assert len(recorder.durations["strata_set_seconds", "player"]) == 1
    assert len(recorder.durations["strata_get_seconds", "player"]) >= 3
    assert recorder.durations["strata_l2_seconds", "cache"] and recorder.durations["strata_l3_seconds", "primary"]
    assert recorder.gauges["strata_breaker_open", "cache"] == recorder.gauges["strata_breaker_open", "primary"] == 0
    assert recorder.gauges["strata_l1_entries", "player"] == stats.l1_entries
    before = recorder.counts.copy()
    inspect(store).feed.publish()
    gained = {key[0] for key, value in recorder.counts.items() if value > before[key]}
    assert gained <= {"strata_bus_messages"}  # nothing is told twice


def test_the_last_numbers_are_told_at_close_and_without_a_word_of_the_store_s_user(make: MakeStore) -> None:
    recorder = Recorder()
    store = make(metrics=recorder)
    store.register(schema(Player))
    store.migrate()
    use(store)
    assert inspect(store).feed.daemon.started
    store.close()
    assert recorder.counts["strata_sets", "player"] == 1


def test_errors_are_told_by_class(own_postgres: EmbeddedPostgres, redis_addr: str) -> None:
    recorder = Recorder()
    with stores(own_postgres.dsn, redis_addr) as factory:
        store = factory(metrics=recorder)
        store.register(schema(Player))
        store.migrate()
        own_postgres.kill()

        def refused() -> bool:
            with pytest.raises(L3UnavailableError):
                store.set(Player, "p1", Player("p1", "one"))
            inspect(store).feed.publish()
            return recorder.gauges["strata_breaker_open", "primary"] == 1

        wait_until(refused, what="an open breaker")
        assert recorder.counts["strata_errors", "L3UnavailableError", "player"] == store.stats().errors > 0


def test_a_recorder_that_raises_breaks_nothing(make: MakeStore) -> None:
    store = make(metrics=Broken(), write_behind_durability=Durability.LEDGER)
    store.register(schema(Player))
    store.register(deferred())
    store.migrate()
    use(store)
    store.set(Note, 1, Note(1, "a"))
    store.flush_dirty(10)
    inspect(store).feed.publish()
    assert store.get(Note, 1).text == "a"
    store.close()


def test_a_child_of_a_fork_tells_what_it_counts_itself(make: MakeStore) -> None:
    recorder = Recorder()
    store = make(metrics=recorder)
    store.register(schema(Player))
    store.migrate()
    use(store)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            store.set(Player, "p2", Player("p2", "two"))
            inspect(store).feed.publish()
            status = 0 if recorder.counts["strata_sets", "player"] == 1 else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    inspect(store).feed.publish()
    assert recorder.counts["strata_sets", "player"] == 1


# -- lag ------------------------------------------------------------------------------------------------------------


def looked(store: DataStore) -> Stats:
    """The stats, after what a thread does once a second while somebody wants them."""
    stats = store.stats()
    inspect(store).writebehind.lag.look()
    return stats


def test_lag_is_in_stats_and_metrics(make: MakeStore) -> None:
    recorder = Recorder()
    store = make(metrics=recorder, write_behind_flush_interval=3600, write_behind_flush_threshold=10**9)
    paced(store)
    store.register(deferred())
    store.migrate()
    idle(store)
    for id in range(7):
        store.set(Note, id, Note(id))
    assert store.stats().dirty_count == 7
    wait_until(lambda: store.stats().dirty_age > 0)
    hand_off(store)
    wait_until(lambda: looked(store).pending == 7, what="a new look at the ledger")
    wait_until(lambda: (looked(store).oldest_age or 0) > 0)
    assert store.stats().by_schema["note"]["pending"] == 7
    inspect(store).feed.publish()
    assert recorder.gauges["strata_write_behind_pending", "note"] == 7
    assert recorder.gauges["strata_write_behind_oldest_seconds", "note"] > 0
    of_shards = [recorder.gauges["strata_write_behind_shard_oldest_seconds", f"{n}", "note"] for n in range(16)]
    assert max(of_shards) == recorder.gauges["strata_write_behind_oldest_seconds", "note"] and 0.0 in of_shards
    ages = inspect(store).writebehind.pending_stats()["note"].ages
    assert ages.keys() == {home_of("note", str(id)).number for id in range(7)}
    assert persist(store, "note") == 7
    wait_until(lambda: looked(store).pending == 0)
    assert (store.stats().oldest_age, store.stats().dirty_age) == (0, 0)
    store.close()
    assert store.stats().pending == 0


def test_what_nobody_has_looked_at_is_unknown_and_not_none(make: MakeStore) -> None:
    store = make()
    store.register(schema(Player))
    assert store.stats().pending == store.stats().dead_letters == store.stats().oldest_age == 0  # nothing is deferred
    store.register(deferred())
    for found in (store.stats(), store.health()):
        assert found.pending is found.dead_letters is found.ledger_age is None
    assert store.stats().by_schema["note"]["pending"] is None and store.health().workers_seen is None
    store.migrate()
    store.set(Note, 1, Note(1))  # whoever uses the schema looks after the ledger
    wait_until(lambda: store.stats().pending is not None, what="a look at the ledger")
    assert (store.stats().ledger_age or 0) < 60 and store.health().workers_seen is False


def test_stats_show_the_last_known_lag_while_the_ledger_is_away(dsn: str, own_valkey: EmbeddedValkey) -> None:
    with stores(dsn, own_valkey.addr) as factory:
        store = factory(write_behind_flush_interval=3600)
        paced(store)
        store.register(deferred())
        store.migrate()
        idle(store)
        store.set(Note, 1, Note(1))
        hand_off(store)
        wait_until(lambda: looked(store).pending == 1)
        own_valkey.kill()
        lag = inspect(store).writebehind.lag
        asked = lag._looked_at
        wait_until(lambda: [looked(store), lag._looked_at > asked][1], what="another try")
        seen = looked(store)
        assert seen.pending == 1
        wait_until(lambda: (looked(store).ledger_age or 0) > (seen.ledger_age or 0), what="its age to rise")


def test_nothing_persisted_for_long_is_warned_of(make: MakeStore) -> None:
    log = Journal()
    store = make(logger=log, write_behind_flush_interval=0.02)
    paced(store, stalled=0.2)
    store.register(deferred())
    store.set(Note, 1, Note(1))  # no server is away: its table is not there
    wait_until(lambda: any("not persisted" in msg for msg, _ in log.warnings), timeout=30, what="a warning")
    fields = next(fields for msg, fields in log.warnings if "not persisted" in msg)
    assert fields["waiting"] == 1 and "strata doctor" in fields["advice"]
    timing = Timing()  # nor is it said before those who wait out an outage come back
    assert timing.stalled + timing.lease == 20.0 and timing.lease > 1.2 * timing.outage_longest


# -- names ----------------------------------------------------------------------------------------------------------


def test_the_code_records_what_is_documented_and_nothing_else(make: MakeStore) -> None:
    recorder = Recorder()
    store = make(metrics=recorder)
    store.register(schema(Player))
    store.register(deferred())
    store.migrate()
    use(store)
    store.set(Note, 1, Note(1))
    store.flush_dirty(10)
    inspect(store).feed.publish()
    written = set()
    for path in (ROOT / "strata").rglob("*.py"):
        written |= set(re.findall(r"metrics\.\w+\(\s*\"(strata_\w+)\"", path.read_text()))
    counters = {f"strata_{name}" for name in store.stats().by_schema["player"]} - {
        *(f"strata_l{tier}_hits" for tier in (1, 2, 3))
    }
    assert recorder.names <= documented()
    assert written | counters | {"strata_hits"} <= documented()
    assert documented() <= recorder.names | written | counters


def test_the_dashboard_and_the_queries_of_the_documentation_ask_for_documented_metrics() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown.append(dashboard["templating"]["list"][0]["query"]["query"])
    shown += re.findall(r"^```promql\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    names = {name for expr in shown for name in re.findall(r"\bstrata_\w+", expr)}
    assert {re.sub(r"_(total|bucket)$", "", name) for name in names} <= documented()


def test_two_stores_of_one_process_share_prometheus_metrics(make: MakeStore) -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        store = make(metrics=PrometheusRecorder(registry))
        store.register(schema(Player))
        store.migrate()
        use(store)
        inspect(store).feed.publish()
    assert registry.get_sample_value("strata_sets_total", {"schema": "player"}) == 2
    assert registry.get_sample_value("strata_set_seconds_count", {"schema": "player"}) == 2
    hits = registry.get_sample_value("strata_hits_total", {"schema": "player", "tier": "l3"})
    assert hits is not None and hits >= 2


def test_a_worker_serves_what_its_children_record(make: MakeStore, dsn: str, redis_addr: str, tmp_path: Path) -> None:
    store = make(write_behind_flush_interval=0.02)
    deferring_to_the_fleet(store)
    folder = tmp_path / "metrics"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = {
        "STRATA_METRICS_ADDR": f"127.0.0.1:{port}",
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
        "STRATA_TEST_METRICS": "1",
    }
    with workers(environment(dsn, redis_addr, **more), tmp_path):
        for id in range(20):
            store.set(Note, id, Note(id, "a"))

        def persisted() -> float:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                    found = list(text_string_to_metric_families(page.read().decode()))
            except urllib.error.HTTPError:
                return -1.0  # prometheus_client met a child's file while that was being made
            samples = [sample for family in found for sample in family.samples]
            return sum(s.value for s in samples if s.name == "strata_write_behind_persisted_total")

        wait_until(lambda: persisted() == 20, timeout=30, what="the children's count")


def test_without_a_recorder_no_thread_is_started(dsn: str, redis_addr: str) -> None:
    program = """
import threading
from tests.fleet_app import store, Note
store.migrate(); store.set(Note, 1, Note(1, "a")); store.get(Note, 1)
assert not [t for t in threading.enumerate() if t.name == "strata-metrics"]
"""
    subprocess.run([sys.executable, "-c", program], env=environment(dsn, redis_addr), cwd=ROOT, check=True, timeout=60)
