"""The extension for Flask: where settings come from, factories, commands, the health route."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from flask import Flask

from strata import (
    ClosedError,
    Config,
    InvalidConfigError,
    InvalidModelError,
    MemPolicy,
    MsgPack,
    SchemaDuplicateError,
    WriteMode,
)
from strata.integrations.flask import Strata
from tests.models import Note
from tests.stores import schema

ADDR, OTHER = "127.0.0.1:1", "127.0.0.1:2"
IN_MEMORY: dict[str, Any] = {"l1": MemPolicy(ttl=60), "l2": None, "l3": None}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STRATA_")]:
        monkeypatch.delenv(name)


def application(**settings: Any) -> Flask:
    app = Flask("shop")
    app.config.update(settings)
    return app


def config(**settings: Any) -> Config:
    return Strata(application(**settings)).store.config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "127.0.0.1:9"),
        ({"STRATA_REDIS_ADDR": ADDR}, ADDR),
        ({"STRATA_REDIS_ADDR": ADDR, "STRATA": {"redis_db": 3}}, ADDR),
        ({"STRATA_REDIS_ADDR": ADDR, "STRATA": {"REDIS_ADDR": OTHER}}, OTHER),
        ({"STRATA_REDIS_ADDR": ADDR, "STRATA": {"redis_addr": OTHER}}, OTHER),
        ({"STRATA_REDIS_ADDR": ADDR, "STRATA": Config(redis_addr=OTHER)}, OTHER),
        ({"STRATA": Config()}, ""),
    ],
)
def test_the_mapping_comes_before_keys_of_the_application_and_these_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], expected: str
) -> None:
    monkeypatch.setenv("STRATA_REDIS_ADDR", "127.0.0.1:9")
    assert config(**settings).redis_addr == expected


def test_a_text_is_read_as_in_the_environment_and_an_object_is_taken_as_it_is() -> None:
    read = config(STRATA={"codec": "msgpack", "write_behind_max_retry": "7"}, STRATA_DEFAULT_WRITE_MODE="write_behind")
    assert isinstance(read.codec, MsgPack) and read.write_behind_max_retry == 7
    assert read.default_write_mode is WriteMode.WRITE_BEHIND
    assert config(STRATA={"default_write_mode": WriteMode.WRITE_BEHIND}).default_write_mode is WriteMode.WRITE_BEHIND


def test_prefixed_variables_of_flask_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_STRATA_REDIS_ADDR", ADDR)
    monkeypatch.setenv("FLASK_STRATA__REDIS_DB", "3")
    app = application()
    app.config.from_prefixed_env()
    made = Strata(app).store.config
    assert (made.redis_addr, made.redis_db) == (ADDR, 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"STRATA": {"redis_adr": ADDR}}, "'redis_adr', which is no field"),
        ({"STRATA": [ADDR]}, "is a list; it must be a mapping of fields"),
        ({"STRATA_REDIS_ADRR": ADDR}, "is STRATA_REDIS_ADDR meant"),
        ({"STRATA": {"redis_db": "many"}}, "STRATA_REDIS_DB is 'many'"),
        ({"STRATA": {"redis_addr": 6379}}, "redis_addr is a int"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        config(**settings)


def test_each_application_of_a_factory_has_a_store_of_its_own_with_all_schemas() -> None:
    tiers = Strata()
    early = tiers.register(schema(Note, name="early", **IN_MEMORY))
    one, two = application(), application(STRATA={"namespace": "two"})
    tiers.init_app(one)
    late = tiers.register(schema(Note, name="late", **IN_MEMORY))
    tiers.init_app(two)
    for app in (one, two):
        with app.app_context():
            for notes in (early, late):
                notes.set(1, Note(1, tiers.store.config.namespace))
    for app, said in ((one, ""), (two, "two")):
        with app.app_context():
            assert early.get(1) == late.get(1) == tiers.store.get("late", 1) == Note(1, said)


def test_without_a_context_the_store_is_that_of_the_application_the_extension_was_made_with() -> None:
    app = application()
    tiers = Strata(app)
    notes = tiers.register(schema(Note, **IN_MEMORY))
    notes.set(1, Note(1))
    with app.app_context():
        assert notes.get(1) == Note(1)


def test_a_handle_without_an_application_says_what_to_do_and_can_be_looked_at() -> None:
    tiers = Strata()
    notes = tiers.register(schema(Note, name="notes", **IN_MEMORY))
    assert repr(notes) == "<records of notes>" and not hasattr(notes, "__wrapped__")
    with pytest.raises(InvalidConfigError, match="app_context"):
        notes.get(1)
    with application().app_context(), pytest.raises(InvalidConfigError, match="was not given to"):
        notes.get(1)


def test_mistakes_in_setting_up_are_refused() -> None:
    app = application()
    tiers = Strata(app)
    notes: Any = schema(Note, name="notes", **IN_MEMORY)
    tiers.register(notes)
    with pytest.raises(SchemaDuplicateError):
        tiers.register(notes)
    with pytest.raises(InvalidModelError, match="takes a Schema"):
        tiers.register(Note)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InvalidConfigError, match="already"):
        Strata(app)


def test_the_health_route_is_there_where_it_is_asked_for_and_503_once_nothing_can_be_served() -> None:
    app = application()
    tiers = Strata(app, health="/healthz")
    answer = app.test_client().get("/healthz")
    assert (answer.status_code, answer.json and answer.json["status"]) == (200, "up")
    assert answer.headers["Cache-Control"] == "no-store"
    tiers.store.close()
    answer = app.test_client().get("/healthz")
    assert (answer.status_code, answer.json) == (503, {"status": "down"})
    plain = application()
    Strata(plain)
    assert plain.test_client().get("/healthz").status_code == 404


def test_commands_work_on_a_store_of_their_own_with_the_schemas_of_the_application(dsn: str, redis_addr: str) -> None:
    app = application(STRATA={"postgres_dsn": dsn, "redis_addr": redis_addr})
    tiers = Strata(app)
    notes = tiers.register(schema(Note, name="notes"))
    run = app.test_cli_runner()
    assert 'CREATE TABLE "notes"' in run.invoke(args=["strata", "migrate"]).output
    notes.set(1, Note(1))
    assert run.invoke(args=["strata", "warm", "notes"]).exit_code == 0
    assert list(json.loads(run.invoke(args=["strata", "stats", "--json"]).output)["schemas"]) == ["notes"]
    assert "No dead letters." in run.invoke(args=["strata", "dead-letters", "list"]).output
    failed = run.invoke(args=["strata", "warm", "nothing"])
    assert failed.exit_code == 1 and "SchemaNotFoundError: no schema 'nothing'" in failed.stderr
    notes.set(2, Note(2))
    tiers.store.close()
    with pytest.raises(ClosedError):
        notes.get(2)


def test_the_commands_are_those_that_need_a_store_and_take_no_name_of_one() -> None:
    app = application()
    Strata(app)
    run = app.test_cli_runner()
    said = run.invoke(args=["strata", "--help"]).output
    names = [line.split()[0] for line in said.partition("Commands:\n")[2].splitlines()]
    assert names == ["adopt", "audit", "dead-letters", "doctor", "keys", "migrate", "stats", "warm"]
    assert "Strata's commands on this application's store." in run.invoke(args=["--help"]).output
    for name in ("migrate", "keys rotate"):
        assert "--app" not in run.invoke(args=["strata", *name.split(), "--help"]).output


def test_a_web_process_does_not_import_the_command_line() -> None:
    program = (
        "import sys; from flask import Flask; from strata.integrations.flask import Strata; Strata(Flask('shop'));"
        "print([name for name in sys.modules if name.startswith(('strata.cli', 'rich', 'psycopg'))])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "[]\n"
