"""The audit finds what is stale and names it; what is pending, or under way, it does not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import strata
from strata import DataStore, InvalidConfigError, MemPolicy, PostgresPolicy, RedisPolicy
from strata.cli.main import main
from strata.writebehind.fleet.broker import Broker
from tests.behind import client, deferred, hand_off, idle, paced, persist, run
from tests.fleet import environment, workers
from tests.lines import Log
from tests.models import Account, Note, Player
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

KEY = bytes(range(32))


@pytest.fixture
def store(make: MakeStore) -> DataStore:
    """A hundred notes and some players in all caches."""
    store = make(encryption_key=KEY)
    for model in (Note, Player, Account):
        store.register(schema(model))
    store.migrate()
    sure(store)
    store.set_many(Note, {id: Note(id, "x", ["b", "a"], {"long": 1, "z": 2}) for id in range(100)})
    store.set(Player, "p", Player("p", "ann"))
    store.set(Account, "a", Account("a", "ann", "s3cret", "a life", "t0ken"))
    for id in range(100):
        store.get(Note, id)
    return store


def audit(store: DataStore, schema: str | type[Any] | None = None) -> strata.AuditReport:
    return store.audit(schema, pause=0.05)


def named(report: strata.AuditReport) -> set[tuple[str, str, object]]:
    return {(key.schema, key.tier, key.id) for key in report.stale}


def test_caches_that_agree_do_so_in_both_tiers_and_with_all_kinds_of_columns(store: DataStore) -> None:
    report = audit(store)
    by_name = {item.schema: item for item in report.schemas}
    assert by_name["note"].compared == 200
    assert by_name["player"].compared == by_name["account"].compared == 2
    assert report.stale == ()
    assert report.share == 1.0
    assert report.nines == pytest.approx(math.log10(204))


def test_a_row_changed_by_psql_without_the_trigger_is_named(store: DataStore, dsn: str) -> None:
    run(dsn, "UPDATE note SET text = 'outside' WHERE id = 7")
    run(dsn, "DELETE FROM note WHERE id = 8")
    report = audit(store)
    assert named(report) == {("note", tier, id) for tier in ("l1", "l2") for id in (7, 8)}
    assert {key.reason for key in report.stale if key.id == 7} == {"it has the row's version and another content"}
    assert {key.version for key in report.stale if key.id == 8} == {0}
    assert report.share == 200 / 204
    assert report.nines == pytest.approx(math.log10(204 / 4))
    store.invalidate(Note, 7)
    store.invalidate(Note, 8)
    assert audit(store).stale == ()


def test_a_value_put_into_l2_behind_the_librarys_back_is_named(store: DataStore, redis_addr: str) -> None:
    redis = client(redis_addr)
    raw = redis.get("strata:note:3")
    redis.set("strata:note:3", raw.replace(b'"x"', b'"y"'))
    old = redis.get("strata:note:4")
    redis.set("strata:note:4", old[:3] + b"%019d" % 5 + old[22:])
    new = redis.get("strata:note:5")
    redis.set("strata:note:5", new[:3] + b"%019d" % (int(new[3:22]) + 1) + new[22:])
    redis.set("strata:note:6", b"T1:" + redis.get("strata:note:6")[3:22] + b":s:")
    report = audit(store, Note)
    assert named(report) == {("note", "l2", id) for id in (3, 4, 5, 6)}
    assert len({key.reason for key in report.stale}) == 4


def test_the_audit_changes_nothing(store: DataStore, redis_addr: str) -> None:
    redis = client(redis_addr)
    before = {key: redis.get(key) for key in redis.keys("strata:note:*")}
    audit(store)
    assert {key: redis.get(key) for key in redis.keys("strata:note:*")} == before


def test_what_another_release_has_kept_is_no_news_of_the_audit(make: MakeStore, redis_addr: str) -> None:
    log = Log()
    store = make(logger=log)
    store.register(schema(Note, l1=None))
    store.migrate()
    store.set_many(Note, {id: Note(id) for id in range(3)})
    client(redis_addr).set("strata:note:1", b"V1:%019d:s:{}" % 5)
    assert audit(store).compared == 2
    assert store.stats().corrupt == 0 and log.warnings == []
    assert store.get(Note, 1) == Note(1)  # this one is loaded anew
    assert store.stats().corrupt == 1 and len(log.warnings) == 1


def test_what_is_pending_is_not_stale(make: MakeStore, dsn: str) -> None:
    store = make(write_behind_flush_interval=3600.0, write_behind_flush_threshold=10**9)
    paced(store)
    store.register(deferred())
    store.migrate()
    idle(store)
    store.set_many(Note, {id: Note(id, "old") for id in range(3)})
    store.set(Note, 0, Note(0, "handed off"))
    store.delete(Note, 1)
    hand_off(store)
    store.set(Note, 2, Note(2, "in the buffer"))
    store.set(Note, 3, Note(3, "new"))
    sure(store)
    report = audit(store)
    assert report.stale == ()
    assert report.schemas[0].pending >= 4
    hand_off(store)
    persist(store, "note")
    assert audit(store).stale == ()


def test_a_difference_that_is_gone_at_the_second_look_does_not_count(
    store: DataStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    auditor = store._auditor
    again = auditor._again

    def meanwhile(*args: object) -> object:
        store.invalidate(Note, 7)
        store.get(Note, 7)
        return again(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(auditor, "_again", meanwhile)
    run(dsn, "UPDATE note SET text = 'outside' WHERE id = 7")
    assert audit(store, Note).stale == ()


def test_a_sample_is_no_more_than_was_asked_for(store: DataStore) -> None:
    assert store.audit(Note, sample=10).compared == 20
    with pytest.raises(InvalidConfigError):
        store.audit(Note, sample=0)


def test_schemas_without_two_tiers_have_nothing_to_compare(make: MakeStore) -> None:
    store = make()
    store.register(strata.Schema(Note, l1=MemPolicy(), l2=RedisPolicy()))
    store.register(strata.Schema(Player, l3=PostgresPolicy()))
    store.migrate()
    report = store.audit()
    assert (report.compared, report.share, report.nines) == (0, 1.0, 0.0)


def test_the_command_names_what_is_stale_and_says_so_by_its_status(
    dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch, make: MakeStore
) -> None:
    store = make()
    store.register(schema(Note))
    store.migrate()
    store.set_many(Note, {id: Note(id, "x") for id in range(20)})
    monkeypatch.setattr("strata.cli.audit.load_store", lambda target: _Kept(store))
    fine = CliRunner().invoke(main, ["audit", "--app", "a:b"])
    assert fine.exit_code == 0, fine.output
    run(dsn, "UPDATE note SET text = 'outside' WHERE id = 7")
    found = CliRunner().invoke(main, ["audit", "note", "--sample", "100", "--json", "--app", "a:b"])
    assert found.exit_code == 1
    answer = json.loads(found.output)
    assert {key["id"] for key in answer["schemas"][0]["stale"]} == {7}
    shown = CliRunner().invoke(main, ["audit", "--app", "a:b"])
    assert "note 7 in L2" in shown.output


class _Kept:
    """A store that a command does not close."""

    def __init__(self, store: DataStore) -> None:
        self._store = store

    def __enter__(self) -> DataStore:
        return self._store

    def __exit__(self, *_: object) -> None:
        pass


class Recorder:
    """Keeps the gauges."""

    def __init__(self) -> None:
        self.gauges: dict[tuple[str, str], float] = {}

    def count(self, name: str, value: int = 1, **labels: str) -> None:
        pass

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        pass

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.gauges[name, labels.get("schema", "")] = value


def test_one_worker_audits_and_the_gauges_show_what_it_found(make: MakeStore, dsn: str) -> None:
    recorder = Recorder()
    store, other = make(metrics=recorder), make()
    for item in (store, other):
        item.register(schema(Note))
    store.migrate()
    assert [item.fleet.audit_due() for item in (store, other, store)] == [True, False, False]
    store.set_many(Note, {id: Note(id, "x") for id in range(20)})
    run(dsn, "UPDATE note SET text = 'outside' WHERE id = 7")
    assert store.fleet.audit() >= 1
    assert recorder.gauges["strata_audit_stale", "note"] >= 1
    assert 0.9 < recorder.gauges["strata_audit_agreement", "note"] < 1.0


def test_the_fleet_audits_by_itself_and_says_in_a_line_what_keeps_it_from_it(
    dsn: str, redis_addr: str, tmp_path: Path, make: MakeStore
) -> None:
    store = make()
    store.register(deferred())
    store.migrate()
    store.set_many(Note, {1: Note(1)})
    with workers(environment(dsn, redis_addr), tmp_path) as worker:
        wait_until(lambda: "Task strata.audit" in worker.log.read_text() and "succeeded" in worker.log.read_text(), 30)
        run(dsn, "DROP TABLE note")
        Broker(store.config).publish("strata.audit", (), None)
        wait_until(lambda: "a task could not be done task='strata.audit'" in worker.log.read_text(), 30)
        assert "Traceback" not in worker.log.read_text()
