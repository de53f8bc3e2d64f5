"""Schedules: a program for each process, some faults, one seed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

from greenlet import getcurrent

from strata import MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, WriteMode
from strata.coherence import ownership, pulse
from strata.errors import StrataError
from strata.l2 import tier
from strata.testing import inspect
from strata.writebehind.ledger import ledger
from tests.simulator.network import Server
from tests.simulator.postgres import Postgres
from tests.simulator.process import Mutate, Process, as_shipped, know
from tests.simulator.promises import History
from tests.simulator.world import World

HEALED = 60.0  # seconds after which, all faults being mended, everybody trusts the caches again
HEARD = 0.05  # seconds after which everybody that is connected has heard of a commit
SPAN = 120  # events in which faults happen


@dataclass
class Item:
    """What is written and read; each `text` is written once."""

    id: Annotated[int, PrimaryKey]
    text: str = ""


class Scenario(NamedTuple):
    """Calls, by process and thread, as a text of letters; how many faults of which kinds."""

    name: str
    programs: tuple[tuple[int, str], ...]
    faults: tuple[str, ...] = ()
    wanted: int = 0
    keys: int = 2


class House:
    """Processes and servers that are used for one schedule after another."""

    def __init__(
        self,
        processes: int = 2,
        mutate: Mutate = as_shipped,
        *,
        deferred: bool = False,
        l2: bool = True,
    ) -> None:
        self.deferred = deferred
        # Without L2 a writer that is killed between its commit and the message leaves others what they have, until L1's
        # time is up (docs/coherence.md): that is no fault of theirs.
        self.l2 = l2
        self.world = world = World()
        self.redis = Server(world, "redis")
        self.postgres = Postgres(world)
        self.history = History(world)
        self.postgres.committed = self.history.committed
        for scripts in (tier._scripts, ledger._scripts, {"belong": ownership._belong, "beat": pulse._beat}):
            know(self.redis, scripts, mutate)
        policies = {"l1": MemPolicy(ttl=60), "l2": RedisPolicy(ttl=600) if l2 else None, "l3": PostgresPolicy()}
        mode = WriteMode.WRITE_BEHIND if deferred else WriteMode.WRITE_THROUGH
        schemas = [Schema(Item, name="item", write_mode=mode, **policies)]  # type: ignore[arg-type]
        servers = {1: self.redis}
        self.processes = [
            Process(world, number, servers, self.postgres, schemas, write_behind_flush_interval=0.1)
            for number in range(processes)
        ]
        for process in self.processes:
            process.on_start = self._started
            process.bell = self._ring

    # -- one schedule -------------------------------------------------------------------------------------------

    def run(self, scenario: Scenario, seed: int, trace: list[str] | None = None) -> str:
        """The promise that was broken, or nothing."""
        world = self.world
        world.begin(seed, trace)
        self.redis.begin()
        self.postgres.begin()
        self.history.begin(calm=not scenario.wanted, deferred=self.deferred)
        self._value = self._busy = 0
        self._keys = scenario.keys
        self._stamps: dict[Any, int] = {}  # the version of the deferred write that a task made last
        try:
            self._open()
            self._plan(scenario)
            for number, program in scenario.programs:
                process = self.processes[number]
                self._busy += 1
                world.spawn(process, partial(self._program, process, program), program)
            world.run(lambda: not self._busy)
            self._come_to_rest()
        finally:
            world.before_step = lambda: None
            broken = world.broken
            world.end()
        return broken

    def _open(self) -> None:
        """Everybody is connected, and sure of what it hears; the first key has a value."""
        world, choose = self.world, self.world.choose
        world.choose = lambda count: 0
        self.history.committed(1, 1, (1, "v0"))
        self.postgres.data.rows[1] = (1, (1, "v0"))
        for process in self.processes:
            process.lives = 0
            process.clock.ahead = 0.0
            process.start()
            world.spawn(process, partial(self._first, process), "opens")
        world.run(lambda: all(self._sure(process) for process in self.processes) and not self._opening())
        world.choose = choose

    def _opening(self) -> bool:
        return any(task.name == "opens" for task in self.world.tasks)

    def _first(self, process: Process) -> None:
        with contextlib.suppress(StrataError):
            process.store.get(Item, 0, default=None)

    def _sure(self, process: Process) -> bool:
        return inspect(process.store).sure

    def _started(self, process: Process) -> None:
        if not self.deferred:
            return
        behind = inspect(process.store).writebehind
        put = behind.put

        def noted(bound: Any, key: Any, key_text: str, record: Any) -> int:
            version = put(bound, key, key_text, record)
            self.history.stamped(key, version, None if record is None else record.text)
            self._stamps[getcurrent()] = version
            return version

        behind.put = noted  # type: ignore[method-assign]

    def _ring(self, process: Process, shard: Any) -> None:
        """A doorbell rings at the last process, which is the fleet."""
        worker = self.processes[-1]
        if worker.alive:
            persist = partial(worker.store.fleet.persist, shard.schema, shard.number)
            self.world.spawn(worker, partial(_quietly, persist), "persist", daemon=True)

    def _plan(self, scenario: Scenario) -> None:
        """Draw the faults, and when they happen."""
        world, chance = self.world, self.world.chance
        kinds = [kind for kind in scenario.faults if self.l2 or kind != "kill"]
        at = sorted(world.steps + chance.randrange(SPAN) for _ in range(scenario.wanted))
        due = [(step, chance.choice(kinds)) for step in at]

        def before() -> None:
            while due and world.steps >= due[0][0]:
                getattr(self, f"_fault_{due.pop(0)[1]}")()

        world.before_step = before

    def _come_to_rest(self) -> None:
        """All faults are mended; some time later everybody agrees with L3."""
        world = self.world
        if world.broken:
            return
        world.before_step = lambda: None
        world.say("everything is mended")
        self.redis.heal()
        self.postgres.heal()
        for process in self.processes:
            process.frozen = False
            if not process.alive:
                self._restart(process)
        heard = world.now + HEARD  # which only passes when nothing is under way
        world.run(lambda: world.now >= heard)
        until = world.now + HEALED
        world.run(lambda: self._healed() or world.now >= until)
        if not self._healed():
            world.breaks(f"{HEALED:g} s after all was mended the caches are not trusted again")
            return
        for process in self.processes:
            self._busy += 1
            world.spawn(process, partial(self._last, process), "looks")
        world.run(lambda: not self._busy)
        if not world.broken:
            self.history.check_persisted()
            self._check_l2()

    def _healed(self) -> bool:
        repairs = [inspect(process.store).repairs for process in self.processes]
        return (
            all(self._sure(process) for process in self.processes)
            and all(each._sure and not each._skipped for each in repairs)
            and not self.postgres.data.repairs
            and not any(self._pending(process) for process in self.processes)
            and not any(key.endswith(b":dirty") for key in self.redis.valkey.data)
        )

    def _pending(self, process: Process) -> int:
        return inspect(process.store).writebehind.dirty_count() if self.deferred else 0

    def _last(self, process: Process) -> None:
        for key in (1, 2):
            wanted = self.history.newest(key).value
            found = self._get_by_and_by(process, key)
            if found != wanted:
                self.world.breaks(f"at rest {process} reads {found} of {key}, and L3 holds {wanted}")
        self._busy -= 1

    def _get_by_and_by(self, process: Process, key: int) -> str | None:
        until = self.world.now + HEALED
        while True:
            try:
                return self._get(process, key)
            except StrataError:
                if self.world.now >= until:
                    raise
            self.world.pause(seconds=0.2, what="tries again")

    def _check_l2(self) -> None:
        l2 = inspect(self.processes[0].store).schemas["item"].l2
        if l2 is None:
            return
        prefix = l2._prefix.encode()
        for raw_key, raw in self.redis.valkey.data.items():
            if raw_key.startswith(prefix) and raw[:1] == b"V":
                key = int(raw_key.removeprefix(prefix))
                row = self.postgres.data.rows.get(key)
                if row is None or row[0] != int(raw[3:22]):
                    self.world.breaks(f"at rest L2 holds another version of {key} than L3")

    # -- calls --------------------------------------------------------------------------------------------------

    def _program(self, process: Process, program: str) -> None:
        try:
            for letter in program:
                self.world.pause(lambda: True, what=f"calls {CALLS[letter]}")
                with contextlib.suppress(StrataError):  # a call that fails promises nothing
                    getattr(self, f"_call_{CALLS[letter]}")(process)
        finally:
            if process.alive:
                self._busy -= 1

    def _key(self) -> int:
        return 1 if self._keys == 1 or self.world.chance.random() < 0.8 else 2

    def _get(self, process: Process, key: int) -> str | None:
        record = process.store.get(Item, key, default=None)
        return None if record is None else str(record.text)

    def _call_get(self, process: Process) -> None:
        key, began = self._key(), self.world.now
        floor = self.history.floor(process, key)
        found = self._get(process, key)
        self.world.say(f"    {process} has read {found} of {key}")
        self.history.read(process, key, found, floor, began)

    def _call_get_many(self, process: Process) -> None:
        began = self.world.now
        floors = {key: self.history.floor(process, key) for key in (1, 2)}
        found = process.store.get_many(Item, [1, 2])
        for key, floor in floors.items():
            value = found[key].text if key in found else None
            self.history.read(process, key, value, floor, began)

    def _fresh(self) -> str:
        self._value += 1
        return f"v{self._value}"

    def _call_set(self, process: Process) -> None:
        key, value = self._key(), self._fresh()
        process.store.set(Item, key, Item(key, value))
        self.world.say(f"    {process} has set {key} to {value}")
        self.history.wrote(process, key, value, self._stamps.get(getcurrent()))

    def _call_set_many(self, process: Process) -> None:
        values = {key: self._fresh() for key in (1, 2)}
        process.store.set_many(Item, {key: Item(key, value) for key, value in values.items()})
        for key, value in values.items():
            self.history.wrote(process, key, value)

    def _call_delete(self, process: Process) -> None:
        key = self._key()
        process.store.delete(Item, key)
        self.world.say(f"    {process} has deleted {key}")
        self.history.wrote(process, key, None, self._stamps.get(getcurrent()))

    def _call_tx(self, process: Process) -> None:
        values = {key: self._fresh() for key in (1, 2)}
        with process.store.tx() as tx:
            for key, value in values.items():
                tx.set(Item, key, Item(key, value))
        for key, value in values.items():
            self.history.wrote(process, key, value)

    def _call_search(self, process: Process) -> None:
        process.store.search(Item)

    def _call_invalidate(self, process: Process) -> None:
        process.store.invalidate(Item, self._key())

    # -- faults -------------------------------------------------------------------------------------------------

    def _some(self, things: Sequence[Any]) -> Any:
        return self.world.chance.choice(things) if things else None

    def _seconds(self) -> float:
        return float(self.world.chance.choice((0.2, 1.2, 4.0, 12.0, 40.0)))

    def _restart(self, process: Process) -> None:
        self.history.forget(process)
        process.start()
        self.world.spawn(process, lambda: self._first(process), "opens")

    def _fault_kill(self) -> None:
        process = self._some([process for process in self.processes if process.alive])
        self.world.say(f"!! {process} is killed")
        self._busy -= sum(
            task.process is process and not task.daemon and task.name != "opens" for task in self.world.tasks
        )
        process.kill()
        self._restart(process)
        self._busy += 1
        self.world.spawn(process, lambda: self._program(process, "ggg"), "ggg")

    def _fault_freeze(self) -> None:
        process, seconds = self._some(self.processes), self._seconds()
        process.frozen = True
        self.world.say(f"!! {process} stands still for {seconds:g} s")
        self.world.after(seconds, lambda: setattr(process, "frozen", False), f"{process} goes on")

    def _fault_cut_redis(self) -> None:
        process, seconds = self._some(self.processes), self._seconds()
        self.redis.cut.add(process)
        self.world.say(f"!! {process} is cut off from redis for {seconds:g} s")
        self.world.after(seconds, lambda: self.redis.cut.discard(process), f"{process} reaches redis again")

    def _fault_cut_postgres(self) -> None:
        process, seconds = self._some(self.processes), self._seconds()
        self.postgres.cut.add(process)
        self.world.say(f"!! {process} is cut off from postgres for {seconds:g} s")
        self.world.after(seconds, lambda: self.postgres.cut.discard(process), f"{process} reaches postgres again")

    def _fault_freeze_redis(self) -> None:
        seconds = self._seconds()
        self.redis.frozen = True
        self.world.say(f"!! redis stands still for {seconds:g} s")
        self.world.after(seconds, lambda: setattr(self.redis, "frozen", False), "redis goes on")

    def _fault_freeze_postgres(self) -> None:
        seconds = self._seconds()
        self.postgres.frozen = True
        self.world.say(f"!! postgres stands still for {seconds:g} s")
        self.world.after(seconds, lambda: setattr(self.postgres, "frozen", False), "postgres goes on")

    def _fault_lose_stream(self) -> None:
        stream = self._some([stream for stream in self.redis.streams if not stream.hung_up])
        if stream is not None:
            self.world.say(f"!! {stream.process} loses a connection to redis")
            stream.lose()

    def _fault_lose_session(self) -> None:
        session = self._some(self.postgres.sessions)
        if session is not None:
            self.world.say(f"!! {session.process} loses a connection to postgres")
            session.lose()

    def _fault_restart_redis(self) -> None:
        self.world.say("!! redis restarts, empty")
        self.redis.restart(empty=True)

    def _fault_restart_postgres(self) -> None:
        self.world.say("!! postgres restarts")
        self.postgres.restart()

    def _fault_evict(self) -> None:
        keys = sorted(key for key in self.redis.valkey.data if b"item" in key)
        if keys:
            key = self._some(keys)
            self.world.say(f"!! redis evicts {key!r}")
            self.redis.valkey.do_del(key)


def _quietly(run: Callable[[], object]) -> None:
    with contextlib.suppress(StrataError):
        run()


CALLS = {
    "g": "get", "G": "get_many", "s": "set", "S": "set_many", "d": "delete", "t": "tx", "q": "search",
    "i": "invalidate",
}  # fmt: skip
FAULTS = (
    "kill", "freeze", "cut_redis", "cut_postgres", "freeze_redis", "freeze_postgres", "lose_stream", "lose_session",
    "restart_redis", "restart_postgres", "evict",
)  # fmt: skip


def drawn(seed: int, count: int, letters: str = "") -> Scenario:
    """Programs and faults that a seed draws; of few kinds of calls, most of the time, so that they meet."""
    chance = random.Random(f"program {seed}")
    if not letters:
        letters = chance.choice(("gs", "gs", "gsd", "gsG", "gSt", "gsi", "gsq", "gggssGSdtqi"))
    programs = tuple(
        (number, "".join(chance.choice(letters) for _ in range(chance.randint(1, 3)))) for number in (0, 0, 1)
    )
    return Scenario(f"seed {seed}", programs, FAULTS, count, keys=1 if len(letters) < 4 else 2)
