"""An application that has Celery already: an app, settings and modules of its own, which stay as they are."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import celery
import pytest
import redis
from kombu.entity import Queue

from strata import Config, InvalidConfigError
from strata.application import load_store
from strata.embedded import EmbeddedValkey
from strata.writebehind.fleet.broker import TASKS, Broker
from tests import forked
from tests.fleet import ROOT, Worker, environment
from tests.support import wait_until

OWN_APP = """
import os
import celery
from tests.models import Note
from strata import *
from strata.integrations.celery import install

mine = celery.Celery("mine", broker="redis://" + os.environ["STRATA_REDIS_ADDR"] + "/5")
mine.conf.update(
    task_default_queue="mine", task_routes={"*": {"queue": "mine"}}, task_create_missing_queues=False,
    task_queues=None, accept_content=["json"], task_serializer="json",
)
store = DataStore(Config.from_env(celery_app=mine, write_behind_flush_interval=0.05))
store.register(Schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND, l2=RedisPolicy(), l3=PostgresPolicy()))
"""
MINE: Any = Queue("mine")  # type: ignore[no-untyped-call]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"task_default_queue": "mine", "task_routes": {"strata.*": {"queue": "mine", "exchange": "x", "routing_key": "y"}}},
    {"task_create_missing_queues": False, "task_queues": [MINE], "task_default_queue": "mine"},
    {"task_serializer": "pickle", "accept_content": ["pickle", "json"]},
    {"task_serializer": "json", "accept_content": ["application/json"]},
    {"broker_transport_options": {"global_keyprefix": "theirs:"}},
    {"task_default_exchange": "theirs", "task_default_exchange_type": "topic", "task_default_routing_key": "any"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_every_task_goes_to_its_own_queue(settings: dict[str, Any], redis_addr: str) -> None:
    app = celery.Celery("mine", broker=f"redis://{redis_addr}/5", set_as_current=False)
    app.conf.update(settings)
    broker = Broker(Config(celery_app=app, namespace="shop"))
    for task in TASKS:
        broker.publish(task, ("notes", 1))
    prefix = settings.get("broker_transport_options", {}).get("global_keyprefix", "")
    there: Any = redis.Redis.from_url(f"redis://{redis_addr}/5")
    queues = {key.decode() for key in there.keys("*") if there.type(key) == b"list"}
    assert queues == {f"{prefix}shop:{task}" for task in TASKS}
    assert not any(b"pickle" in there.lindex(queue, 0) for queue in queues)


def test_an_app_that_takes_nothing_but_pickle_is_refused(redis_addr: str) -> None:
    app = celery.Celery("mine", broker=f"redis://{redis_addr}/5", set_as_current=False)
    app.conf.accept_content = ["pickle"]
    with pytest.raises(InvalidConfigError, match="accept_content"):
        Broker(Config(celery_app=app)).publish("strata.persist", ("notes", 1))


@pytest.mark.parametrize("more", ["", "install(mine, store)"], ids=["as it is", "with Strata installed"])
def test_workers_of_an_own_app_audit_and_its_default_queue_stays_empty(dsn: str, tmp_path: Path, more: str) -> None:
    (tmp_path / "ownapp.py").write_text(OWN_APP + more)
    with EmbeddedValkey(password="") as valkey:
        env = environment(dsn, valkey.addr, STRATA_APP="ownapp:store", PYTHONPATH=f"{tmp_path}:{ROOT}")
        worker = Worker(env, tmp_path / "worker.log")
        try:
            wait_until(worker.ready, timeout=60, what="a worker")
            script = (
                "import ownapp; from tests.models import Note; s = ownapp.store; s.migrate();"
                "[s.set('notes', n, Note(n)) for n in range(20)]; s.flush_dirty(); s.close()"
            )
            assert forked.run([sys.executable, "-c", script], env=env, cwd=ROOT, timeout=60).returncode == 0
            wait_until(lambda: "Task strata.audit" in worker.log.read_text(), timeout=30, what="an audit")
            assert ".> mine " not in worker.log.read_text()  # whose tasks it does not have
        finally:
            worker.stop()
        assert redis.Redis(port=valkey.port, db=5).llen("mine") == 0


SHOP = """
from tests.models import Note
from strata import *

store = DataStore(Config.from_env())
store.register(Schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND, l2=RedisPolicy(), l3=PostgresPolicy()))


class Holder:
    store = store


holder = Holder()


def make_store():
    return store


def make_with(argument):
    return store
"""


@pytest.mark.parametrize("own", ["celeryconfig.py", "workers/__init__.py"])
def test_modules_of_these_names_are_the_application_s(own: str, dsn: str, redis_addr: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text("raise RuntimeError('not to be imported')\n")
    script = (
        "import shop; from tests.models import Note; s = shop.store; s.migrate(); s.set('notes', 1, Note(1));"
        "s.flush_dirty(); print(s.count('notes')); from strata.worker import app; print(app.conf.task_acks_late)"
    )
    env = environment(dsn, redis_addr, STRATA_APP="shop:store", PYTHONPATH=f"{tmp_path}:{ROOT}")
    said = subprocess.run(
        [sys.executable, "-c", script], env=env, cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True
    )
    assert said.stdout.split() == ["1", "True"]


@pytest.mark.parametrize("name", ["shop:store", "shop:make_store", "shop:holder.store", "shop:Holder.store"])
def test_an_app_is_a_store_a_factory_or_an_attribute(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("shop", None)
    assert "notes" in repr(load_store(name))
    for target, said in {
        "shop:holder.stores": "'stores'",
        "shop:make_with": "arguments",
        "shop:holder": "Holder",
    }.items():
        with pytest.raises(InvalidConfigError, match=said):
            load_store(target)
    sys.modules.pop("shop", None)


def test_what_is_installed_bears_no_name_of_an_application_s() -> None:
    setuptools = pytest.importorskip("setuptools")
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = setuptools.find_packages(str(ROOT), include=told["packages"]["find"]["include"])
    assert {name.split(".")[0] for name in [*packages, *told["py-modules"]]} == {"strata"}
    assert "strata.worker" in packages
