"""How late messages of the bus are handled, in a process that is idle and in one with a busy thread.

Another process publishes; a message's key is the time at which it was sent, by the clock that all processes of a
machine share. What is measured is the time until the receiver's L1 has dropped the key.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any

import redis

from strata import Config, DataStore, MemPolicy, PrimaryKey, RedisPolicy, Schema
from strata.embedded import EmbeddedValkey
from strata.testing import inspect
from tests.benchmarks.harness import Row, Target
from tests.benchmarks.options import Options
from tests.stores import sure

PAUSE = 0.002  # seconds between messages
LATE = Target(50)


@dataclass(frozen=True)
class Point:
    """What the messages are about."""

    id: Annotated[int, PrimaryKey]


def run(options: Options) -> list[Row]:
    count = 500 if options.quick else 5_000
    rows = []
    with EmbeddedValkey(password="") as valkey:
        for busy in (0, 1, 4):
            late = _lag(valkey, busy, count)
            cuts = statistics.quantiles(late, n=100, method="inclusive")
            what = f"{busy} busy threads, {len(late)} messages" if busy else f"idle, {len(late)} messages"
            for label, value in (("p50", cuts[49]), ("p99", cuts[98]), ("max", max(late))):
                rows.append(Row(what, label, value, value, value, LATE if (busy, label) == (1, "p99") else None, " ms"))
    return rows


def _lag(valkey: EmbeddedValkey, busy: int, count: int) -> list[float]:
    """Milliseconds, one a message."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_bus", valkey.addr, str(busy), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        with redis.Redis(port=valkey.port) as client:
            for _ in range(count):
                message = {"schema": "points", "id": str(time.monotonic_ns()), "op": "set"}
                client.publish("strata:invalidate", json.dumps(message))
                time.sleep(PAUSE)
        late: list[float] = json.loads(receiver.stdout.readline())
        return late


def _receive(addr: str, busy: str, count: str) -> None:
    """The other process: it prints how late each message was handled."""
    with DataStore(Config(redis_addr=addr)) as store:
        store.register(Schema(Point, name="points", l1=MemPolicy(), l2=RedisPolicy()))
        inbox = inspect(store).inbox
        late: list[float] = []
        done = threading.Event()
        handle: Any = inbox.handle

        def timed(data: bytes) -> None:
            handle(data)
            late.append((time.monotonic_ns() - int(json.loads(data)["id"])) / 1e6)
            if len(late) == int(count):
                done.set()

        inbox.handle = timed  # type: ignore[method-assign]
        sure(store)
        for _ in range(int(busy)):
            threading.Thread(target=_burn, args=(done,), daemon=True).start()
        print("ready", flush=True)
        done.wait()
        print(json.dumps(late), flush=True)


def _burn(done: threading.Event) -> None:
    number = 1
    while not done.is_set():
        for _ in range(1_000):
            number = number * 7 % 1_000_003


if __name__ == "__main__":
    _receive(*sys.argv[1:])
