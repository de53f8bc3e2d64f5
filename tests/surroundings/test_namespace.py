"""With a namespace, nothing of Strata's in a Redis lacks it in front: no key, no channel, no queue."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from strata import Config, DataStore, InvalidConfigError, Q
from strata.embedded import EmbeddedValkey
from strata.protocol.keyspace import Keyspace
from strata.writebehind.fleet.broker import TASKS, Broker
from tests.behind import client
from tests.fleet import ROOT, Worker, environment
from tests.forked import Forked
from tests.models import Note
from tests.support import wait_until

SUBSCRIBE = ("SUBSCRIBE", "PSUBSCRIBE")
APP = """
import datetime
from dataclasses import dataclass
from typing import Annotated
from tests.models import Note
import strata
from strata import *

@dataclass
class Event:
    id: Annotated[int, strata.PrimaryKey]
    at: datetime.datetime

store = DataStore(Config.from_env(write_behind_flush_interval=0.05, write_behind_max_retry=1))
all_tiers = {"l1": MemPolicy(), "l3": PostgresPolicy()}
store.register(Schema(Note, name="through", l2=RedisPolicy(search_expiry=SearchExpiry.ON_WRITE), **all_tiers))
later = WriteMode.WRITE_THROUGH_L1_ASYNC
store.register(Schema(Note, name="async_", l2=RedisPolicy(negative_ttl=5), write_mode=later, **all_tiers))
behind = WriteMode.WRITE_BEHIND
store.register(Schema(Note, name="behind", l2=RedisPolicy(key_prefix="other"), write_mode=behind, **all_tiers))
store.register(Schema(Note, name="alone", l2=RedisPolicy()))
store.register(Schema(Event, name="events", l2=RedisPolicy(), l3=PostgresPolicy(partition_by="at")))
"""


class Listened:
    """Every command that a Redis gets, by MONITOR."""

    def __init__(self, addr: str) -> None:
        host, port = addr.rsplit(":", 1)
        self.lines: list[str] = []
        self._socket = socket.create_connection((host, int(port)))
        self._socket.sendall(b"MONITOR\r\n")
        threading.Thread(target=self._listen, daemon=True).start()
        wait_until(lambda: self.lines, what="MONITOR")

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._socket, self._socket.makefile("rb") as lines:
            for line in lines:
                self.lines.append(line.decode(errors="replace"))

    def channels(self) -> set[str]:
        """All that was subscribed to, or published on."""
        said = [re.findall(r'"((?:[^"\\]|\\.)*)"', line) for line in list(self.lines)]
        published = {words[1] for words in said if words and words[0].upper() == "PUBLISH"}
        return published.union(*(words[1:] for words in said if words and words[0].upper() in SUBSCRIBE))


@pytest.fixture
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(password="") as valkey:
        yield valkey


def exercise(store: DataStore) -> None:
    """Something of everything."""
    for name in ("through", "async_", "behind", "alone"):
        for n in range(8):
            store.set(name, n, Note(n, "x"))
        store.get(name, 1, force_l2=True)
        store.get(name, 99, default=None)
        store.delete(name, 2)
        store.invalidate(name, 3)
    store.set_many("through", {n: Note(n) for n in range(10, 20)})
    store.search_cached("through", Q().where("id > $1", 0))
    store.search_cached("async_", Q().where("id > $1", 0))
    store.search_cached("through", Q().where("id > $1", 0))
    with store.tx() as tx:
        tx.set("through", 1, Note(1, "tx"))
    store.warm_cache("through")
    store.audit()
    store.flush_dirty()
    store.set("behind", 7, Note(7, "\x01" * 3))
    store.flush_dirty()


def test_no_key_and_no_channel_lacks_it(dsn: str, server: EmbeddedValkey, tmp_path: Path) -> None:
    (tmp_path / "spaced.py").write_text(APP)
    env = environment(
        dsn, server.addr, STRATA_APP="spaced:store", STRATA_NAMESPACE="shop", PYTHONPATH=f"{tmp_path}:{ROOT}"
    )
    heard = Listened(server.addr)
    script = (
        "import spaced, tests.surroundings.test_namespace as t; s = spaced.store; s.migrate(); t.exercise(s);"
        "import sys; sys.stdin.readline(); s.warm_cache('through', background=True).wait(40);"
        "s.migrate(background=True).wait(40); s.close()"
    )
    process = Forked([sys.executable, "-c", script], env=env, cwd=ROOT, stdin=subprocess.PIPE, text=True)
    worker = Worker(env, tmp_path / "worker.log")
    try:
        wait_until(worker.ready, timeout=60, what="a worker")
        wait_until(lambda: client(server.addr).exists("shop:strata:{fleet}:alive"), what="the fleet's beat")
        process.communicate("go\n", timeout=90)
        assert process.returncode == 0
        wait_until(lambda: "strata.audit" in worker.log.read_text().split("ready.")[1], what="an audit")
    finally:
        worker.stop()
        process.kill()
    touched = set(client(server.addr).keys("*"))
    assert len(touched) > 20
    assert [key for key in touched if not key.startswith(b"shop:")] == []
    assert [name for name in heard.channels() if not name.startswith("shop:")] == []
    assert {"shop:strata:invalidate"} <= heard.channels()


def test_queues_and_exchanges_have_it_on_any_broker() -> None:
    broker = Broker(Config(broker_url="amqp://rabbit", namespace="shop"))
    assert [broker.queue(task).name for task in TASKS] == [f"shop:{task}" for task in TASKS]
    conf = broker.app.conf
    assert conf.task_default_queue.startswith("shop:")
    assert conf.control_exchange.startswith("shop:") and conf.event_exchange.startswith("shop:")
    assert {route["queue"] for route in conf.task_routes.values()} == {f"shop:{task}" for task in TASKS}
    assert Broker(Config(broker_url="amqp://rabbit")).app.conf.task_default_queue == "strata.persist"


@pytest.mark.parametrize("name", ["a:b", "a b", "{a}", "a*", "strata", ".a", "a" * 64, "ü", "a\n"])
def test_a_namespace_that_could_be_taken_for_another_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfigError, match="namespace"):
        Keyspace(name)
