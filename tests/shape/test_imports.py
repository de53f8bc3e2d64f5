"""What a process imports: the drivers of the servers that its stores have, and of no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AEAD = "cryptography.hazmat.primitives.ciphers.aead"  # redis-py imports the package where it finds it, and no more
HEAVY = {*"celery kombu billiard redis hiredis psycopg flower tornado click rich pydantic pydantic_core".split(), AEAD}
TRACING = "opentelemetry"  # redis-py imports it, too, where it finds it

BEGIN = """
import json, sys
from dataclasses import dataclass
from typing import Annotated

import strata

@dataclass
class Note:
    id: Annotated[str, strata.PrimaryKey]
    text: Annotated[str, strata.Indexed] = ""

def store(**settings):
    return strata.DataStore(strata.Config(**settings))

L1 = dict(l1=strata.MemPolicy(ttl=60))
L2 = dict(l2=strata.RedisPolicy(ttl=60))
L3 = dict(l3=strata.PostgresPolicy())
DEFERRED = dict(write_mode=strata.WriteMode.WRITE_BEHIND)
REDIS = dict(redis_addr="127.0.0.1:1")
POSTGRES = dict(postgres_dsn="postgresql://nobody@127.0.0.1:1/none")
"""
END = "print(json.dumps(list(sys.modules)))"

USED = """
with store() as ds:
    notes = ds.register(strata.Schema(Note, **L1))
    notes.set("a", Note("a", "hello"))
    assert notes.get("a").text == "hello" and notes.get("b", default=None) is None
    assert notes.get_many(["a"]) and notes.exists("a")
    notes.delete("a")
    ds.stats(), ds.health(), repr(ds.config)
"""


def imported(program: str, *others: str) -> set[str]:
    """Those of `HEAVY`, and others, that a process has imported after it ran `program`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("STRATA_")}
    said = subprocess.run(
        [sys.executable, "-c", f"{BEGIN}\n{program}\n{END}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    return {*HEAVY, *others} & set(json.loads(said))


@pytest.mark.parametrize("program", ["", USED], ids=["import strata", "a store of L1 alone, and its calls"])
def test_no_driver_is_imported_where_no_server_is_named(program: str) -> None:
    assert imported(program, TRACING) == set()


@pytest.mark.parametrize(
    ("program", "drivers"),
    [
        ("store(**REDIS).register(strata.Schema(Note, **L1, **L2))", {"redis", "hiredis"}),
        ("store(**POSTGRES).register(strata.Schema(Note, **L1, **L3))", {"psycopg"}),
        ("store(**POSTGRES, **REDIS).register(strata.Schema(Note, **L1, **L2, **L3))", {"redis", "hiredis", "psycopg"}),
        ("store(encryption_key=bytes(32)).register(strata.Schema(Note, **L1))", set()),
        (
            "store(**POSTGRES, encryption_key=bytes(32)).register(strata.Schema(Note, **L1, **L3))",
            {"psycopg", AEAD},
        ),
    ],
    ids=["L2", "L3", "both", "a key, and nothing to encrypt with it", "L3 with a key"],
)
def test_a_store_imports_the_drivers_of_its_own_servers_and_no_others(program: str, drivers: set[str]) -> None:
    assert imported(program) == drivers


def test_celery_is_imported_by_the_first_schema_that_is_written_behind() -> None:
    program = "store(**POSTGRES, **REDIS).register(strata.Schema(Note, **L1, **L2, **L3, **DEFERRED))"
    assert {"celery", "kombu", "redis", "psycopg"} <= imported(program)


def test_the_end_of_a_child_of_celery_is_heard_of_where_celery_is_imported_after_the_store_was_used() -> None:
    program = """
from strata.writebehind import endings

class Left:
    flushes_on_sigterm = False
    flushed = 0
    def flush_at_exit(self, *, last):
        self.flushed += 1
    def go_on(self):
        pass

parents, childs = Left(), Left()
endings.watch(parents)
assert "celery" not in sys.modules
from celery.signals import worker_process_shutdown
endings._in_child()  # as after fork
endings.watch(childs)
endings.watch(childs)
worker_process_shutdown.send(sender=None)
assert (parents.flushed, childs.flushed) == (0, 1), (parents.flushed, childs.flushed)
"""
    assert "celery" in imported(program)
