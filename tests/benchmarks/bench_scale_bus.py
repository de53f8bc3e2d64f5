"""One bus and ever more processes that listen: what a change costs each of them, and how many a second they take.

The processes are forked off one that has imported everything, each with a store of its own and a thousand records in
L1. A burst is published as fast as Redis takes it, one message a change as for single writes, or one for a hundred
changes as for a hand-off; it has passed when every process has heard of all of it. CPU is that of all receivers
together, and of Redis, by the number of changes that arrived, in each process on its own.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Annotated

import redis

from strata import Config, DataStore, MemPolicy, PrimaryKey, RedisPolicy, Schema
from strata.embedded import EmbeddedValkey
from strata.protocol.messages import Announcer, MessageOp
from strata.testing import inspect
from tests.benchmarks.curves import Curves
from tests.benchmarks.harness import Row, row
from tests.benchmarks.options import Options
from tests.benchmarks.spent import cpu, memory
from tests.stores import sure
from tests.support import wait_until

NAME = "points"
KEPT = 1_000  # records in L1
KEYS = 100_000  # that are changed
BATCH = 100  # changes of one hand-off
PIPELINED = 200  # messages
WANTED = 10_000  # changes a second
IDLE = 3.0  # seconds
PATIENCE = 120.0
# Redis cuts off who is 32 MB behind, and none of the bursts is as large.
BURSTS = {1: 40_000, 20: 20_000, 200: 4_000}
QUICK = {1: 20_000, 20: 4_000, 200: 2_000}

Fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Point:
    """What the messages are about."""

    id: Annotated[int, PrimaryKey]


def run(options: Options) -> list[Row]:
    curves = Curves("processes")
    for processes in options.sizes(1, 20, 200):
        count = (QUICK if options.quick else BURSTS)[processes]
        with EmbeddedValkey(password="") as valkey, Fleet(valkey, processes) as fleet:
            fleet.idle(curves)
            for what, changes in (("one message a change", 1), (f"one for {BATCH} changes", BATCH)):
                for _ in range(2):  # the first one warms
                    took = fleet.burst(count, changes)
                _show(curves, what, processes, took)
    return curves.save(options.plot)


@dataclass(frozen=True, slots=True)
class Took:
    """Of a burst: seconds a change, for the whole, and of CPU for each receiver and for Redis."""

    wall: float
    receiver: float
    redis: float
    lost: int


def _show(curves: Curves, what: str, processes: int, took: Took) -> None:
    curves.add(f"{what}: changes a second that all hear of", processes, [1 / took.wall], " /s")
    curves.add(f"{what}: CPU of one receiver for a change", processes, [1e6 * took.receiver], " µs")
    curves.add(f"{what}: CPU of Redis for a change", processes, [1e6 * took.redis], " µs")
    share = 100 * took.receiver * WANTED
    curves.add(f"{what}: of a core in each receiver, at {WANTED:,} changes/s", processes, [share], " %")
    curves.rows.append(row(f"{what}: subscriptions that were lost, {processes} processes", "", [took.lost]))


class Fleet:
    """The receiving processes, from the beginning to the end of a `with` block."""

    def __init__(self, valkey: EmbeddedValkey, processes: int) -> None:
        self._valkey = valkey
        self._processes = processes
        self._stack = ExitStack()
        self._lines: list[Connection] = []

    def __enter__(self) -> Fleet:
        self._client = self._stack.enter_context(redis.Redis(port=self._valkey.port))
        with _own_store(self._valkey.addr) as store:
            store.set_many(NAME, {id: Point(id) for id in range(KEPT)})
        gc.collect()
        gc.freeze()  # so that no child copies all of it by looking through it
        for _ in range(self._processes):
            ours, theirs = Fork.Pipe()
            process = Fork.Process(target=_receive, args=(self._valkey.addr, theirs), daemon=True)
            process.start()
            theirs.close()
            self._stack.callback(process.join, PATIENCE)
            self._lines.append(ours)
        self._stack.callback(self._end)
        for line in self._lines:
            assert line.recv() == "ready"
        self._announcer = Announcer("strata:invalidate", "publisher", 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        gc.unfreeze()

    def _end(self) -> None:
        for line in self._lines:
            line.send(None)

    def idle(self, curves: Curves) -> None:
        """With heartbeats alone."""
        before = [self._asked(line).cpu for line in self._lines]
        spent = cpu(self._valkey.pid)
        time.sleep(IDLE)
        used = [self._asked(line).cpu - was for line, was in zip(self._lines, before, strict=True)]
        curves.add("idle: CPU of a receiver", self._processes, [100 * statistics.mean(used) / IDLE], " %")
        curves.add("idle: CPU of Redis", self._processes, [100 * (cpu(self._valkey.pid) - spent) / IDLE], " %")
        held = [self._asked(line, weigh=True).memory / 1e6 for line in self._lines]
        curves.add("idle: memory of its own, of a receiver", self._processes, held, " MB")

    def burst(self, count: int, changes: int) -> Took:
        """So many changes, in messages about some of them each."""
        messages = [self._message(number, changes) for number in range(0, count, changes)]
        before, spent, began = [self._asked(line) for line in self._lines], cpu(self._valkey.pid), time.perf_counter()
        for start in range(0, len(messages), PIPELINED):
            pipe = self._client.pipeline(transaction=False)
            for message in messages[start : start + PIPELINED]:
                pipe.publish("strata:invalidate", message)
            pipe.execute()
        waiting = dict(enumerate(self._lines))

        def all_heard() -> bool:
            for number, line in list(waiting.items()):
                now = self._asked(line)
                if now.resets == before[number].resets and now.messages < before[number].messages + len(messages):
                    return False  # the next ones are asked when this one is done
                del waiting[number]
            return True

        wait_until(all_heard, timeout=PATIENCE, what="the arrival of all messages")
        wall = time.perf_counter() - began
        after = [self._asked(line) for line in self._lines]
        used = sum(now.cpu - was.cpu for now, was in zip(after, before, strict=True))
        lost = sum(now.resets - was.resets for now, was in zip(after, before, strict=True))
        redis_used = (cpu(self._valkey.pid) - spent) / (count * self._processes)
        return Took(wall / count, used / (count * self._processes), redis_used, lost)

    def _message(self, number: int, changes: int) -> bytes:
        version = int(time.time() * 1e6) << 11  # the clock of versions: microseconds, and a node
        about = [(str((number + offset) * 7 % KEYS), version) for offset in range(changes)]
        return self._announcer.about(NAME, MessageOp.SET, about)

    @staticmethod
    def _asked(line: Connection, *, weigh: bool = False) -> Heard:
        line.send(weigh)
        answer: Heard = line.recv()
        return answer


@dataclass(frozen=True, slots=True)
class Heard:
    """What a receiver says of itself."""

    messages: int
    resets: int
    cpu: float
    memory: int


def _receive(addr: str, line: Connection) -> None:
    """A receiver: it answers until it is told to end. It does so without closing its store, as who is killed."""
    store = _own_store(addr)
    store.get_many(NAME, range(KEPT))
    inbox, bus = inspect(store).inbox, inspect(store).bus
    line.send("ready")
    while (weigh := line.recv()) is not None:
        weighed = memory(os.getpid()) if weigh else 0
        line.send(Heard(inbox.messages, bus.resets, time.process_time(), weighed))
    os._exit(0)


def _own_store(addr: str) -> DataStore:
    """Which listens."""
    store = DataStore(Config(redis_addr=addr))
    store.register(Schema(Point, name=NAME, l1=MemPolicy(), l2=RedisPolicy()))
    sure(store)
    return store
