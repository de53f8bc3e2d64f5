"""What `strata.integrations.celery.install` puts into an app, what it leaves as it is, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import celery
import pytest
from kombu.entity import Queue

from strata import Config, DataStore, InvalidConfigError
from strata.integrations.celery import install
from strata.writebehind.fleet import settings
from strata.writebehind.fleet.broker import TASKS

STORES: dict[str, DataStore] = {}


def company(**given: Any) -> Any:
    app = celery.Celery("company", broker="redis://localhost:1", set_as_current=False)
    app.conf.update(given)
    return app


def with_strata(namespace: str = "", **given: Any) -> Any:
    app = company(**given)
    install(app, DataStore(Config(celery_app=app, namespace=namespace)))
    return app


def own_task(app: Any, name: str) -> Any:
    """One of the company's, in no other app of this process."""

    def work() -> None: ...

    return app.task(work, name=name, shared=False)


def begin(app: Any) -> Any:
    """As a worker, beat and Flower do."""
    app.loader.import_default_modules()
    return app


def test_strata_s_tasks_have_strata_s_settings_and_the_application_s_have_its_own() -> None:
    app = with_strata(
        task_acks_late=False, task_time_limit=7, task_default_rate_limit="1/h", task_ignore_result=False,
        task_serializer="yaml", accept_content=["yaml", "json"], task_acks_on_timeout=False,
    )  # fmt: skip
    own = own_task(app, "own")
    app.finalize()
    for name in TASKS:
        task = app.tasks[name]
        assert task.acks_late and task.reject_on_worker_lost and task.acks_on_timeout and task.ignore_result
        assert (task.rate_limit, task.serializer) == (0, "json")
        assert task.time_limit == (86_400 if name == "strata.migrate" else settings.task_time_limit)
    assert (own.acks_late, own.time_limit, own.rate_limit, own.serializer) == (False, 7, "1/h", "yaml")


def test_an_annotation_by_name_has_the_last_word() -> None:
    app = with_strata(task_annotations={"strata.persist": {"rate_limit": "5/s"}})
    assert app.tasks["strata.persist"].rate_limit == "5/s"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    "routes", [None, {"*": {"queue": "mine"}}, [{"*": "mine"}], lambda *_, **__: {"queue": "mine"}]
)
def test_strata_s_tasks_go_to_their_queues_and_others_where_the_application_sends_them(
    routes: Any, later: bool
) -> None:
    app = with_strata("shop") if later else with_strata("shop", task_routes=routes)
    if later:
        app.conf.task_routes = routes
        begin(app)
    for name in TASKS:
        assert app.amqp.router.route({}, name)["queue"].name == f"shop:{name}"
    assert app.amqp.router.route({}, "own")["queue"].name == ("mine" if routes else "celery")


@pytest.mark.parametrize("namespace", [None, "COMPANY"])
def test_settings_that_are_read_from_elsewhere_and_later_are_the_application_s_too(namespace: str | None) -> None:
    app = celery.Celery("company", set_as_current=False)
    install(app, DataStore(Config(celery_app=app)), beat=True)
    schedule = {"own": {"task": "own", "schedule": 5.0}}
    given = {"task_default_queue": "mine", "task_routes": {"*": "mine"}, "beat_schedule": schedule}
    written = {f"{namespace}_{name}".upper() if namespace else name: value for name, value in given.items()}
    app.config_from_object(SimpleNamespace(**written), namespace=namespace)
    assert [app.amqp.router.route({}, name)["queue"].name for name in ("own", *TASKS)] == ["mine", *TASKS]
    begin(app)
    assert set(app.amqp.queues.consume_from) == {"mine", *TASKS}
    assert set(app.conf.beat_schedule) == {"own", "strata.redrive"}


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ({}, "celery"),
        ({"task_default_queue": "mine"}, "mine"),
        ({"task_queues": [Queue("mine")], "task_create_missing_queues": False}, "mine"),  # type: ignore[no-untyped-call]
    ],
)
def test_a_worker_consumes_its_own_queues_and_strata_s(given: dict[str, Any], own: str) -> None:
    app = with_strata(**given)
    before = app.conf.task_queues
    queues = begin(begin(app)).amqp.queues
    assert set(queues.consume_from) == {own, *TASKS}
    assert {queues[task].exchange.name: queues[task].exchange.type for task in TASKS} == dict.fromkeys(TASKS, "direct")
    assert app.conf.task_queues is before


def test_a_queue_that_the_application_declares_is_left_as_it_is() -> None:
    mine: Any = Queue("strata.persist", routing_key="theirs", queue_arguments={"x-queue-type": "quorum"})  # type: ignore[no-untyped-call]
    app = begin(with_strata(task_queues=[Queue("mine"), mine]))  # type: ignore[no-untyped-call]
    assert app.amqp.queues["strata.persist"] is mine and mine.routing_key == "theirs"


def test_no_other_app_of_the_process_has_the_tasks() -> None:
    with_strata().finalize()
    assert not set(TASKS) & set(company().tasks)


def test_beat_is_asked_only_where_it_is_wanted_and_as_often_as_the_application_says() -> None:
    app = company(beat_schedule={"strata.redrive": {"task": "strata.redrive", "schedule": 3.0}})
    install(app, DataStore(Config(celery_app=app)), beat=True)
    assert begin(app).conf.beat_schedule == {"strata.redrive": {"task": "strata.redrive", "schedule": 3.0}}
    assert not begin(with_strata()).conf.beat_schedule


def test_a_store_is_looked_for_when_it_is_needed_since_its_module_may_import_the_app_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = company()
    install(app, f"{__name__}:STORES.late")
    with pytest.raises(InvalidConfigError, match="has no 'late'"):
        begin(app)
    app = company()
    install(app)
    monkeypatch.delenv("STRATA_APP", raising=False)
    with pytest.raises(InvalidConfigError, match="no app is named; set STRATA_APP"):
        begin(app)
    monkeypatch.setenv("STRATA_APP", f"{__name__}:elsewhere")
    with pytest.raises(InvalidConfigError, match=r"Config\(celery_app=app\)"):
        begin(app)


def elsewhere() -> DataStore:
    """A store that calls other workers."""
    return DataStore(Config(redis_addr="localhost:1"))


def test_what_an_app_accepts_beside_pickle_is_what_strata_writes() -> None:
    app = with_strata(accept_content=["pickle", "json"])
    begin(app)
    assert {app.tasks[name].serializer for name in TASKS} == {"json"}


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (17, "the store is a int; it must be a DataStore"),
        ("shop", "the app is 'shop'; it must be package.module:store"),
        ("", "no app is named"),
        (DataStore(Config(redis_addr="localhost:1")), r"make it with Config\(celery_app=app\)"),
        (DataStore(Config(celery_app=company())), r"make it with Config\(celery_app=app\)"),
    ],
)
def test_what_is_no_store_of_the_app_s_is_refused_and_nothing_was_changed(store: Any, said: str) -> None:
    app = company()
    with pytest.raises(InvalidConfigError, match=said):
        install(app, store)
    assert not set(TASKS) & set(begin(app).tasks) and set(app.amqp.queues) == {"celery"}


def test_what_is_no_celery_app_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match=r"install was given a dict; it takes a celery.Celery"):
        install({}, "shop:store")


@pytest.mark.parametrize("used", [False, True])
def test_an_app_that_has_tasks_of_these_names_is_refused_and_still_reads_its_settings_later(used: bool) -> None:
    app = company()
    own = own_task(app, "strata.persist")
    if used:
        app.finalize()
    with pytest.raises(InvalidConfigError, match=r"has tasks of these names already: strata\.persist; install"):
        install(app, "shop:store")
    if not used:
        app.conf.task_acks_late = True
        assert own.acks_late
    twice = with_strata()
    with pytest.raises(InvalidConfigError, match="install Strata once"):
        install(twice, "shop:store")
