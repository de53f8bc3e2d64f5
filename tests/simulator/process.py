"""A process of an application: a real store, whose waits, clock, chance, threads and servers are the simulator's."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from inspect import unwrap
from typing import Any, TypeVar

from greenlet import getcurrent
from redis import utils as redis_utils

from strata import Config, DataStore, Durability, Schema, collection, datastore
from strata.l3 import connections, listener
from strata.l3 import table as tables
from strata.l3.fingerprint import Fingerprint
from strata.protocol import shards
from strata.testing import inspect
from strata.waits import hub
from strata.waits.hub import LOOK
from strata.waits.nudge import Nudge
from strata.writebehind import endings, service
from strata.writebehind.fleet.doorbell import Doorbell
from strata.writebehind.ledger import lag, shard
from tests.simulator.network import SCRIPTS, Server, SimStream
from tests.simulator.postgres import Listening, Postgres, Session, SimEars, SimTable
from tests.simulator.world import Task, World

T = TypeVar("T")
DSN = "host=postgres.sim dbname=sim"
SHARDS = 2
CACHE, LEDGER = "redis.sim:1", "redis.sim:2"


Mutate = Callable[[str, str], str]  # a script's name and text, to the text that is run


def as_shipped(name: str, text: str) -> str:
    """No mutant."""
    return text


class SimThread:
    """A thread of a process."""

    def __init__(self, process: Process, run: Callable[[], None], name: str) -> None:
        self._process = process
        self._run = run
        self._name = name
        self._task: Task | None = None

    def start(self) -> None:
        self._task = self._process.world.spawn(self._process, self._run, self._name, daemon=True)
        self._task.thread = self

    def join(self, timeout: float | None = None) -> None:
        self._process.world.pause(lambda: not self.is_alive(), timeout, f"the end of {self._name}")

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.dead


class SimClock:
    """A process's clock, the wall clock being `ahead` of the true time, in seconds. To read it takes a microsecond, so
    that no two processes stamp in the same one, whose writes would have no order that anybody could tell."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.ahead = 0.0

    def monotonic(self) -> float:
        self._world.now += 1e-6
        return self._world.now

    def steady(self) -> float:
        return self._world.now

    def wall(self) -> float:
        return self.monotonic() + self.ahead


class SimLock:
    """A lock of memory, before which a thread may be overtaken by others."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._owner: Any = None
        self._depth = 0

    def __enter__(self) -> bool:
        me, world = getcurrent(), self._world
        if self._owner is not me:
            if me is not world.main and not world.over and world.overtakes():
                world.pause(lambda: self._owner is None, what="a lock", firm=True)
            while self._owner is not None:
                world.pause(lambda: self._owner is None, what="a lock that is held", firm=True)
            self._owner = me
        self._depth += 1
        return True

    def __exit__(self, *raised: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def _is_owned(self) -> bool:
        return self._owner is getcurrent()


class Process:
    """One process, which can be killed, and started again, frozen, and cut off. A `Hub` for what runs in it."""

    look = LOOK
    together = stopped = False

    def __init__(
        self,
        world: World,
        number: int,
        servers: dict[int, Server],
        postgres: Postgres,
        schemas: Sequence[Schema[Any]],
        **config: Any,
    ) -> None:
        self.world = world
        self.number = number
        self.postgres = postgres
        self._servers = servers
        self.clock = SimClock(world)
        self.chance = random.Random(0)
        self.alive, self.frozen = True, False
        self.lives = 0
        self.on_start: Callable[[Process], None] = lambda process: None
        self.bell: Callable[[Process, Any], None] = lambda process, shard: None
        self._main = SimThread(self, lambda: None, "main")
        settings: dict[str, Any] = {"redis_addr": CACHE, "postgres_dsn": DSN, "logger": Log(self)}
        self._config = Config(**(settings | config))
        self._schemas = schemas
        install()

    def start(self) -> None:
        """As new; what it had in memory is gone."""
        self.lives += 1
        self.alive, self.frozen = True, False
        self.chance.seed(f"{self.world.chance.random()} {self}")
        self.at_once(self._make)
        self.on_start(self)

    def _make(self) -> None:
        self.store = DataStore(self._config)
        for schema in self._schemas:
            self.store.register(schema)
        self.inside = inspect(self.store)
        for database in self.inside.databases.values():
            database.fingerprint = Fingerprint("sim", "1", "1")

    def at_once(self, run: Callable[[], T]) -> T:
        """In the process; nothing in it may wait."""
        found: list[T] = []
        task = Task(self.world, self, lambda: found.append(run()), "does", daemon=False)
        overtaking, self.world.overtaking = self.world.overtaking, 0.0
        task.switch()
        self.world.overtaking = overtaking
        if not task.dead or self.world.broken:
            raise AssertionError(self.world.broken or task.wait)
        return found[0]

    def __str__(self) -> str:
        return f"p{self.number}" + "'" * (self.lives - 1)

    __repr__ = __str__

    def kill(self) -> None:
        """End it in the midst of whatever it does."""
        world = self.world
        self.alive = False
        mine = [task for task in world.tasks if task.process is self]
        world.gone += mine
        world.tasks = [task for task in world.tasks if task.process is not self]
        for server in self._servers.values():
            for stream in [stream for stream in server.streams if stream.process is self]:
                stream.hang_up()
        if self._config.write_behind_durability is Durability.JOURNAL:
            self.inside.journal.abandon()  # the files, and their locks, go with the process
        for session in [session for session in self.postgres.sessions if session.process is self]:
            session.close()

    # -- Hub ----------------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        self.world.pause(seconds=seconds, what=f"{seconds:g} s")

    def nudged(self, nudge: Nudge, seconds: float | None) -> bool:
        if not nudge.block(0):
            self.world.pause(lambda: not nudge._lock.locked(), seconds, "a nudge")
            return nudge.block(0)
        return True

    def call(self, wait: Callable[[], T]) -> T:
        return wait()

    def awaited(self, awaitable: Awaitable[T]) -> T:
        raise AssertionError("the simulator has no event loop")

    def apart(self, run: Callable[[], None], at_end: Callable[[], None]) -> None:
        return None

    @contextmanager
    def shield(self) -> Iterator[None]:
        task = getcurrent()
        task.shields += 1
        try:
            yield
        finally:
            task.shields -= 1

    def stream(self, connection: Any) -> SimStream:
        return self._servers[connection.port].open(self)

    def exchange(self, wires: Any, packed: bytes, count: int) -> list[Any]:
        answers: list[Any] = wires.block(packed, count)
        return answers

    def query(self, connection: Any, steps: Any, timeout: float | None) -> Any:
        raise AssertionError("a connection of the simulator has no libpq")

    def thread(self, run: Callable[[], None], name: str) -> SimThread:
        return SimThread(self, run, name)

    def current_thread(self) -> SimThread:
        return getattr(getcurrent(), "thread", self._main)

    def lock(self) -> SimLock:
        return SimLock(self.world)

    def ident(self) -> int:
        task = getcurrent()
        assert isinstance(task, Task)
        return task.number


class Finalizer:
    """What runs when the interpreter ends, which no process of the simulator's has of its own."""

    def cancel(self) -> None: ...


class Log:
    """A logger whose lines are those of the trace. That a thread failed breaks a promise."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def debug(self, msg: str, **fields: Any) -> None: ...

    def info(self, msg: str, **fields: Any) -> None:
        """A line of the trace."""
        self._process.world.say(f"    {self._process} says: {msg} {fields}")

    warning = info

    def error(self, msg: str, **fields: Any) -> None:
        """As above; of a thread that failed by a mistake it is the end."""
        self.info(msg, **fields)
        if msg == "a background thread failed, and goes on":
            self._process.world.breaks(f"{self._process}: {msg}: {fields}")


def _of_task() -> Process | None:
    task = getcurrent()
    return task.process if isinstance(task, Task) else None


def _connect(conninfo: str, config: Any, clock: Any) -> Session:
    process = _of_task()
    assert process is not None
    return process.postgres.connect(process)


def _listen(conninfo: str, config: Any, clock: Any) -> Session:
    process = _of_task()
    assert process is not None
    return process.postgres.connect(process, Listening)


def _under_way(conn: Session) -> frozenset[int]:
    mine: Callable[[], frozenset[int]] = lambda: frozenset(  # noqa: E731
        id(session) for session in conn.server.sessions if session.under_way and session is not conn
    )
    return conn.ask("transactions under way", mine)


def _waiting_repairs(conn: Session, marks: Sequence[str]) -> set[str]:
    return conn.ask("are there repairs", lambda: set(marks) if conn.repairs() else set())


def _ring(self: Doorbell, shard: Any) -> None:
    process = _of_task()
    assert process is not None
    process.bell(process, shard)


def _monotonic() -> float:
    process = _of_task()
    return time.monotonic() if process is None else process.clock.monotonic()


_installed: list[bool] = []


def install() -> None:
    """Put the simulator's hub, and its PostgreSQL, where tasks find them; threads of the system find what there was."""
    if _installed:
        return
    _installed.append(True)
    hub.find_by(_of_task)  # type: ignore[arg-type]  # but for its streams, which have the methods of one
    _put(connections, "connect", _connect)
    _put(listener, "connect", _listen)
    _put(listener, "Ears", SimEars)
    _put(listener, "waiting_repairs", _waiting_repairs)
    _put(listener, "untold", lambda conn, tables: [])
    _put(Doorbell, "_ring", _ring)
    _put(endings, "watch", lambda behind: Finalizer())
    for module, kind in ((collection, collection.Collection), (datastore, datastore.DataStore)):
        _put(module, "monotonic", _monotonic)
        _put(kind, "get", unwrap(kind.get))  # the compiled one has the system's clock
    _put(tables, "under_way", _under_way)
    _put(tables, "waiting_repairs", _waiting_repairs)
    for module in (shards, shard, lag, service):  # few, which are looked after once a second
        _put(module, "SHARDS", SHARDS)
    # What takes long to make, and does not change, is made once.
    table = tables.Table
    _put(tables, "Table", cache(lambda *args, **kwargs: SimTable(table(*args, **kwargs))))
    _put(redis_utils, "get_lib_version", cache(redis_utils.get_lib_version))


def _put(owner: Any, name: str, value: object) -> None:
    assert hasattr(owner, name), name
    setattr(owner, name, value)


def know(server: Server, scripts: dict[str, Any], mutate: Mutate = as_shipped) -> None:
    """Let a server know the scripts from the start, as one that has run for a while does."""
    for name, script in scripts.items():
        server.valkey.load(mutate(name, script.text), script.sha)
        SCRIPTS[script.sha.encode()] = name
