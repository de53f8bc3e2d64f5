"""What a store tells OpenTelemetry: spans of what goes past L1, and metrics; the SDK keeps them in memory."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from strata import DataStore, Durability, EncodeError, InvalidConfigError, L3UnavailableError, SchemaHooks, WriteMode
from strata.embedded import EmbeddedPostgres, EmbeddedValkey
from strata.integrations.celery import install
from strata.integrations.opentelemetry import OpenTelemetryRecorder, OpenTelemetryTracer
from strata.observe.tracing import MOST
from strata.testing import inspect
from strata.writebehind.ledger.shard import home_of
from tests.behind import client, deferred, deferring_to_the_fleet, hand_off, idle, paced, persist
from tests.fleet import environment, workers
from tests.models import Note, Player
from tests.spans import Spans, about, said, within
from tests.stores import MakeStore, schema, stores, sure
from tests.support import wait_until

SECRET = "hunter2"


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def traced(make: MakeStore, spans: Spans) -> DataStore:
    """A store with players, all of whose spans are kept; nothing is in L1."""
    return players(make, spans)


def players(make: MakeStore, spans: Spans, **options: Any) -> DataStore:
    store = make(tracer=OpenTelemetryTracer(spans.provider, **options))
    store.register(schema(Player))
    store.migrate()
    sure(store)
    store.set(Player, "p1", Player("p1", "one"))
    store.invalidate(Player, "p1")
    spans.taken()
    return store


def by_hand(make: MakeStore, spans: Spans, **options: Any) -> DataStore:
    """A store of notes that are handed off and persisted by nobody but the test."""
    store = make(tracer=OpenTelemetryTracer(spans.provider), write_behind_flush_interval=3600, **options)
    paced(store)
    store.register(deferred())
    store.migrate()
    idle(store)
    return store


def linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def written(spans: Spans) -> set[int]:
    """The spans of what was set."""
    return {about(span).span_id for span in spans.named("strata.set")}


# -- operations and tiers -------------------------------------------------------------------------------------------


def test_a_get_has_a_span_that_names_the_tier_which_answered_and_a_hit_of_l1_has_none(
    traced: DataStore, spans: Spans
) -> None:
    traced.get(Player, "p1")
    found = spans.taken()
    get = found[-1]
    assert (get.name, said(get, "strata.schema"), said(get, "strata.tier")) == ("strata.get", "player", "l3")
    assert [span.name for span in within(get, found)] == ["strata.l2", "strata.l2", "strata.l3", "strata.l2"]
    for _ in range(3):
        traced.get(Player, "p1")
    assert spans.taken() == []
    traced.get(Player, "p1", force_l2=True)
    assert said(spans.one("strata.get"), "strata.tier") == "l2"


def test_calls_of_servers_follow_the_conventions_for_databases(traced: DataStore, spans: Spans) -> None:
    traced.get(Player, "p1")
    redis, postgres = spans.named("strata.l2")[0], spans.one("strata.l3")
    assert redis.kind is postgres.kind is SpanKind.CLIENT
    assert (said(redis, "db.system.name"), said(redis, "db.operation.name")) == ("redis", "MGET")
    assert f"{said(redis, 'server.address')}:{said(redis, 'server.port')}" == inspect(traced).redis.address
    assert (said(postgres, "db.system.name"), said(postgres, "strata.server")) == ("postgresql", "primary")
    where = f"{said(postgres, 'server.address')}:{said(postgres, 'server.port')}/{said(postgres, 'db.namespace')}"
    assert where == inspect(traced).database.address
    get = spans.one("strata.get")
    for call in (redis, postgres):
        assert (get.start_time or 0) <= (call.start_time or 0) <= (call.end_time or 0) <= (get.end_time or 0)


OPERATIONS: dict[str, Callable[[DataStore], object]] = {
    "get_many": lambda store: store.get_many(Player, ["p1"]),
    "get_batch": lambda store: store.get_batch([(Player, "p1")]),
    "get_or_set": lambda store: store.get_or_set(Player, "p2", lambda: Player("p2", "two")),
    "exists": lambda store: store.exists(Player, "p1"),
    "set": lambda store: store.set(Player, "p1", Player("p1", "one")),
    "insert": lambda store: store.insert(Player, Player("p3", "three")),
    "update": lambda store: store.update(Player, "p1", level=2),
    "modify": lambda store: store.modify(Player, "p1", lambda player: player),
    "increment": lambda store: store.increment(Player, "p1", level=1),
    "delete": lambda store: store.delete(Player, "p1"),
    "search": lambda store: store.search(Player),
    "count": lambda store: store.count(Player),
    "invalidate": lambda store: store.invalidate(Player, "p1"),
}


def test_every_operation_has_a_span_of_its_name_with_its_calls_of_servers_within(
    traced: DataStore, spans: Spans
) -> None:
    for name, operate in OPERATIONS.items():
        operate(traced)
        found = spans.taken()
        assert found[-1].name == f"strata.{name}"
        assert {span.name for span in within(found[-1], found)} <= {"strata.l2", "strata.l3"}
        assert {about(span).trace_id for span in found} == {about(found[-1]).trace_id}


def test_spans_are_within_the_caller_s_and_servers_asked_outside_any_have_none(traced: DataStore, spans: Spans) -> None:
    tracer = spans.provider.get_tracer("web")
    with tracer.start_as_current_span("request"):
        traced.get(Player, "p1")
        with traced.tx() as tx:
            tx.set(Player, "p2", Player("p2", "two"))
        traced.get(Player, "p2")
    request = spans.one("request")
    assert {span.name for span in within(request, spans.taken())} >= {"strata.get", "strata.l3"}
    inspect(traced).redis.execute("PING")
    with traced.tx() as tx:
        tx.set(Player, "p2", Player("p2", "two"))
    assert spans.taken() == []


def test_a_caller_that_is_not_sampled_has_no_spans_and_leaves_none(make: MakeStore) -> None:
    store = make(tracer=OpenTelemetryTracer(TracerProvider(sampler=ALWAYS_OFF)))
    paced(store)
    store.register(deferred())
    store.migrate()
    idle(store)
    store.set(Note, 1, Note(1, "a"))
    hand_off(store)
    assert store.get(Note, 1, force_l2=True) == Note(1, "a")
    shard = home_of("note", "1")
    assert not client(inspect(store).redis.address).exists(f"strata:{{note:{shard.number}}}:spans")


# -- asyncio, forks -------------------------------------------------------------------------------------------------


def test_in_asyncio_spans_are_within_those_of_their_tasks(traced: DataStore, spans: Spans) -> None:
    tracer = spans.provider.get_tracer("web")
    ids = [f"q{number}" for number in range(20)]

    async def request(id: str) -> None:
        with tracer.start_as_current_span(id):
            await traced.aio.set(Player, id, Player(id, id))
            with tracer.start_as_current_span(f"{id} again"):
                await asyncio.gather(traced.aio.get(Player, id, force_l2=True), traced.aio.search(Player))
            await traced.aio.get(Player, id, force_l3=True)

    async def crowd() -> None:
        await asyncio.gather(*map(request, ids))
        await traced.aio.close()

    asyncio.run(crowd())
    found = spans.taken()
    for id in ids:
        [outer] = [span for span in found if span.name == id]
        [inner] = [span for span in found if span.name == f"{id} again"]
        assert [span.name for span in within(outer, found)] == ["strata.set", f"{id} again", "strata.get"]
        assert {span.name for span in within(inner, found)} == {"strata.get", "strata.search"}
        for operation in (*within(outer, found), *within(inner, found)):
            assert operation is inner or within(operation, found)


def test_a_call_that_is_cancelled_ends_its_span_and_the_next_one_is_not_within_it(
    traced: DataStore, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    async def cancelled() -> None:
        with inspect(traced).database.connection() as conn:
            conn.command("BEGIN; LOCK TABLE player")
            task = asyncio.create_task(traced.aio.search(Player))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            conn.command("ROLLBACK")
        await traced.aio.get(Player, "p1", force_l2=True)
        await traced.aio.close()

    asyncio.run(cancelled())
    search, get = spans.one("strata.search"), spans.one("strata.get")
    assert said(search, "error.type") == "CancelledError" and get.parent is None
    assert "detach" not in caplog.text


def test_the_child_of_a_fork_goes_on(traced: DataStore, spans: Spans) -> None:
    traced.get(Player, "p1")
    before = {about(span).span_id for span in spans.taken()}
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            traced.get(Player, "p1", force_l2=True)
            after = {about(span).span_id for span in spans.taken()}
            status = 0 if after and not after & before else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


# -- what is told, and what is not ----------------------------------------------------------------------------------


def test_keys_are_told_only_where_that_is_asked_for_and_values_never(make: MakeStore, spans: Spans) -> None:
    for keys in (False, True):
        store = players(make, spans, keys=keys)
        store.set(Player, SECRET, Player(SECRET, "sesame", email="sesame"))
        store.get(Player, SECRET, force_l2=True)
        found = spans.taken()
        told = "".join(span.to_json() for span in found)
        assert (SECRET in told) is keys and "sesame" not in told
        assert [said(span, "strata.key") for span in found if said(span, "strata.key")] == [SECRET] * (2 * keys)
        store.delete(Player, SECRET)


def test_an_error_is_told_by_its_class_and_in_strata_s_words_only(make: MakeStore, spans: Spans) -> None:
    store = players(make, spans)

    def refuse(player: Player) -> Player:
        raise ValueError(SECRET)

    with pytest.raises(EncodeError) as refused:
        store.set(Player, "p1", Player("p1", SECRET, level="high"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=SECRET):
        store.modify(Player, "p1", refuse)
    wrong, foreign = spans.one("strata.set"), spans.one("strata.modify")
    assert wrong.status.status_code is foreign.status.status_code is StatusCode.ERROR
    assert (said(wrong, "error.type"), wrong.status.description) == ("EncodeError", str(refused.value))
    assert (said(foreign, "error.type"), foreign.status.description) == ("ValueError", None)
    assert SECRET not in "".join(span.to_json() for span in spans.taken())


def test_a_server_that_is_away_is_told_on_the_spans_of_its_calls(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, spans: Spans
) -> None:
    with stores(own_postgres.dsn, own_valkey.addr) as factory:
        store = players(factory, spans)
        inspect(store).bus.stop()  # which would find it first
        own_valkey.kill()
        assert store.get(Player, "p1", force_l2=True).username == "one"
        get, redis = spans.one("strata.get"), spans.named("strata.l2")
        assert all(said(span, "error.type") and span.status.status_code is StatusCode.ERROR for span in redis)
        assert get.status.status_code is StatusCode.UNSET and said(get, "strata.tier") == "l3" and redis
        spans.taken()
        own_postgres.kill()
        with pytest.raises(L3UnavailableError):
            store.search(Player)
        assert said(spans.one("strata.search"), "error.type") == "L3UnavailableError"


class Broken:
    """Raises, whatever it is told."""

    def begin(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("the tracer is broken")

    link = end = call = current = begin


def test_a_tracer_that_raises_breaks_nothing(make: MakeStore) -> None:
    store = make(tracer=Broken(), write_behind_durability=Durability.LEDGER)
    store.register(schema(Player))
    store.register(deferred())
    store.migrate()
    store.set(Player, "p1", Player("p1", "one"))
    store.set(Note, 1, Note(1, "a"))
    store.flush_dirty(10)
    assert store.get(Player, "p1", force_l2=True).username == "one" and store.get(Note, 1, force_l3=True).text == "a"


def test_what_is_no_provider_and_no_flag_is_refused() -> None:
    for make in (OpenTelemetryTracer, OpenTelemetryRecorder):
        with pytest.raises(InvalidConfigError, match="Provider"):
            make(object())  # type: ignore[arg-type]
    with pytest.raises(InvalidConfigError, match="keys"):
        OpenTelemetryTracer(keys="yes")  # type: ignore[arg-type]


# -- deferred writes ------------------------------------------------------------------------------------------------


def test_a_hand_off_and_a_batch_are_linked_to_the_writes_that_they_carry_and_to_no_others(
    make: MakeStore, spans: Spans
) -> None:
    store = by_hand(make, spans)
    for id in range(20):
        store.set(Note, id, Note(id, "a"))
    hand_off(store)
    assert linked(spans.one("strata.handoff")) == written(spans)
    spans_of = {home_of("note", str(id)).number: set[int]() for id in range(20)}
    for id, span in enumerate(spans.named("strata.set")):
        spans_of[home_of("note", str(id)).number].add(about(span).span_id)
    assert persist(store, "note") == 20
    assert {said(span, "strata.shard"): linked(span) for span in spans.named("strata.persist")} == spans_of
    spans.taken()
    store.set(Note, 1, Note(1, "b"))
    store.set(Note, 1, Note(1, "c"))
    last = about(spans.named("strata.set")[-1]).span_id
    hand_off(store)
    persist(store, "note")
    assert linked(spans.one("strata.persist")) == {last}


def test_what_is_added_and_what_is_written_in_part_is_linked_too(make: MakeStore, spans: Spans) -> None:
    store = make(tracer=OpenTelemetryTracer(spans.provider), write_behind_flush_interval=3600)
    paced(store)
    store.register(schema(Player, write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    idle(store)
    store.set_many(Player, {"p1": Player("p1", "one")})
    store.increment(Player, "p1", level=1)
    store.increment(Player, "p1", level=1)
    store.update(Player, "p1", email="a@b.c")
    update = about(spans.one("strata.update")).span_id
    hand_off(store)
    persist(store, "player")
    assert linked(spans.one("strata.persist")) == {update}


def test_spans_of_writers_are_bounded_and_end_by_themselves(make: MakeStore, spans: Spans) -> None:
    store = by_hand(make, spans)
    ids = [id for id in range(6000) if home_of("note", str(id)).number == 0][: MOST + 50]
    for id in ids:
        store.set(Note, id, Note(id, "a"))
    hand_off(store)
    redis = client(inspect(store).redis.address)
    key = "strata:{note:0}:spans"
    assert redis.llen(key) == MOST and 0 < redis.ttl(key) <= 3600
    assert persist(store, "note") == len(ids)
    batch = spans.one("strata.persist")
    assert len(batch.links) == MOST and linked(batch) < written(spans)


def test_a_persist_without_any_span_of_its_writer_or_with_nonsense_in_its_place_has_no_link(
    make: MakeStore, spans: Spans
) -> None:
    older = make(write_behind_flush_interval=3600)  # as a release that traces nothing
    paced(older)
    older.register(deferred())
    older.migrate()
    idle(older)
    newer = by_hand(make, spans)
    shard = home_of("note", "1")
    key = f"strata:{{note:{shard.number}}}:spans"
    redis = client(inspect(newer).redis.address)
    for nonsense in (None, b"\xff", b"1 2 3", "stray"):
        older.set(Note, 1, Note(1, "a"))
        hand_off(older)
        if nonsense == "stray":
            redis.delete(key)
            redis.set(key, nonsense)
        elif nonsense:
            redis.lpush(key, nonsense)
        assert persist(newer, "note") == 1
        assert spans.one("strata.persist").links == ()
        spans.taken()


def test_a_round_that_beat_rings_for_is_no_trace_as_it_is_none_in_a_thread_of_a_worker(
    make: MakeStore, spans: Spans
) -> None:
    app = celery.Celery("jobs", broker="memory://", set_as_current=False)
    store = by_hand(make, spans, celery_app=app)
    install(app, store, beat=True)
    spans.taken()
    app.tasks["strata.redrive"]()
    assert spans.taken() == []
    app.tasks["strata.audit"]()
    assert [span.name for span in spans.taken() if span.parent is None] == ["strata.audit"]


def test_a_worker_s_persist_is_linked_to_the_web_request_that_wrote(
    make: MakeStore, spans: Spans, dsn: str, redis_addr: str, tmp_path: Path
) -> None:
    store = make(tracer=OpenTelemetryTracer(spans.provider), write_behind_flush_interval=0.02)
    deferring_to_the_fleet(store)
    folder = tmp_path / "spans"
    folder.mkdir()
    web = spans.provider.get_tracer("web")

    def told(name: str) -> list[dict[str, Any]]:
        lines = [line for path in folder.iterdir() for line in path.read_text().splitlines()]
        return [span for span in map(json.loads, lines) if span["name"] == name]

    more = {"STRATA_APP": "tests.traced_app:store", "STRATA_TEST_SPANS": str(folder)}
    with workers(environment(dsn, redis_addr, **more), tmp_path):
        for id in (1, 2):
            with web.start_as_current_span("PUT /notes"):
                store.set(Note, id, Note(id, "a"))
        job = store.warm_cache(Note, background=True)
        wait_until(lambda: len(told("strata.persist")) >= 2, timeout=30, what="the worker's spans")
        job.wait(30)
        wait_until(lambda: told("strata.warm"), timeout=10, what="the span of a task")
    links = [link["context"] for span in told("strata.persist") for link in span["links"]]
    sets = [about(span) for span in spans.named("strata.set")]
    assert {(link["trace_id"], link["span_id"]) for link in links} == {
        (f"{span.trace_id:#034x}", f"{span.span_id:#018x}") for span in sets
    }
    assert {span.trace_id for span in sets} == {about(span).trace_id for span in spans.named("PUT /notes")}
    [calls] = [{span["attributes"]["db.system.name"] for name in ("strata.l2", "strata.l3") for span in told(name)}]
    assert calls == {"redis", "postgresql"}


# -- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_have_names_units_and_labels_of_opentelemetry(make: MakeStore) -> None:
    reader = InMemoryMetricReader()
    store = make(metrics=OpenTelemetryRecorder(MeterProvider([reader])))
    store.register(schema(Player))
    store.register(deferred())
    store.migrate()
    store.set(Player, "p1", Player("p1", "one"))
    store.invalidate(Player, "p1")
    store.get(Player, "p1")
    store.set(Note, 1, Note(1, "a"))
    inspect(store).feed.publish()
    found: dict[str, Any] = {}

    def seen() -> bool:
        data = reader.get_metrics_data()
        assert data is not None
        [scope] = json.loads(data.to_json())["resource_metrics"][0]["scope_metrics"]
        found.update({metric["name"]: metric for metric in scope["metrics"]})
        return "strata.write_behind.dirty.duration" in found

    wait_until(seen, what="the flusher's gauges")

    def point(name: str, **labels: str) -> dict[str, Any]:
        [only] = [
            point for point in found[name]["data"]["data_points"] if labels.items() <= point["attributes"].items()
        ]
        return dict(only)

    assert point("strata.sets", schema="player")["value"] == 1
    assert point("strata.hits", schema="player", tier="l3")["value"] == 1

    def kept() -> bool:
        store.get(Player, "p1")  # what was invalidated may go once more, by the message that says so
        inspect(store).feed.publish()
        return seen() and point("strata.l1_entries", schema="player")["value"] == 1

    wait_until(kept)
    durations = point("strata.get.duration", schema="player")
    assert durations["count"] >= 1 and durations["explicit_bounds"][0] == 0.0001
    units = {name: metric["unit"] for name, metric in found.items()}
    assert units["strata.sets"] == units["strata.write_behind.dirty"] == "{item}"
    assert units["strata.get.duration"] == units["strata.write_behind.dirty.duration"] == "s"


def test_hooks_of_reads_have_the_store_s_span_around_them(make: MakeStore, spans: Spans) -> None:
    store = make(tracer=OpenTelemetryTracer(spans.provider))
    tracer = spans.provider.get_tracer("hook")

    def hook(id: Any) -> None:
        tracer.start_span("hook").end()

    store.register(schema(Note, hooks=SchemaHooks(before_get=hook)))
    store.migrate()
    store.get(Note, 1, default=None)
    assert within(spans.one("strata.get"), spans.named("hook"))
