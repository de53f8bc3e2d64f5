"""A house: processes and servers that live for some episodes, each a scenario after which all must be well again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import partial
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

from strata import UNLOADED, Durability
from strata.coherence import ownership, pulse
from strata.errors import StrataError
from strata.l1.trust import BUS_GRACE
from strata.l2 import scripts_over, strays
from strata.l2.content import HEADER, OUTDATED
from strata.l2.tier import L2Tier
from strata.protocol.versions import NODE_BITS
from strata.writebehind.ledger import ledger
from tests.simulator.calls import Calls
from tests.simulator.draw import Pick, Planned, Scenario, first
from tests.simulator.faults import Faults
from tests.simulator.forgery import AHEAD, Forgery
from tests.simulator.kinds import OLD, REFUSED, Item, Kind, Pair, Secret, Tally
from tests.simulator.network import Server
from tests.simulator.postgres import Postgres
from tests.simulator.process import LEDGER, Mutate, Process, as_shipped, know
from tests.simulator.promises import STALE, History
from tests.simulator.world import World
from tests.stores import wires_of

T = TypeVar("T")
HEALED = 60.0  # seconds after which, all faults being mended, everybody trusts the caches again
HEARD = 0.05  # seconds after which everybody that is connected has heard of a commit
GRACE = BUS_GRACE + HEARD  # the same where somebody may not have been connected a moment ago


class Episode(NamedTuple):
    """A scenario, and the order of its events; `overtaking`: how likely a thread that takes a lock is overtaken."""

    scenario: Scenario
    pick: Pick
    overtaking: float = 0.0


class House:
    """What is built once, and begins anew with each life."""

    def __init__(self, kind: Kind, mutate: Mutate = as_shipped) -> None:
        self.kind = kind
        self.world = world = World()
        self.redis = Server(world, "redis")
        self.postgres = Postgres(world)
        self.history = History(world)
        self.history.with_l3 = kind.l3
        self.postgres.committed = self._committed
        self.postgres.resealed = self._resealed
        self.postgres.told = lambda key, added: self.calls.counts.told(key, added)
        self.history.answers_since = lambda: self.postgres.answers_since
        if kind.keeps:
            self.postgres.keeps = lambda text: text if text.endswith("*") else f"{text}*"
        self.postgres.refuses = lambda values: values[1] is not UNLOADED and str(values[1]).startswith(REFUSED)
        self.ledger = Server(world, "ledger") if kind.apart else self.redis
        servers = {1: self.redis, 2: self.ledger}
        self.servers = list(dict.fromkeys(servers.values()))
        others = {"belong": ownership._belong, "beat": pulse._beat, "stray": strays._stray}
        for server in self.servers:
            for scripts in (scripts_over.SCRIPTS, ledger._scripts, others):
                know(server, scripts, mutate)
        settings = {"write_behind_flush_interval": 0.1, **dict(kind.config)}
        if kind.apart:
            settings["ledger_addr"] = LEDGER
        self.durable = settings.get("write_behind_durability") is Durability.JOURNAL
        if self.durable:
            self.journals = TemporaryDirectory()
            settings["journal_dir"] = f"{self.journals.name}/journals"
        self.processes = [
            Process(world, number, servers, self.postgres, kind.schemas(), encryption_key=kind.keys(number), **settings)
            for number in range(kind.processes)
        ]
        self.calls = Calls(world, self.history, self.postgres, kind.model)
        self.calls.cache = self.redis.valkey
        self.calls.l3 = kind.l3
        self.faults = Faults(world, self.processes, self.servers, self.postgres)
        self.faults.kill_one = self._replace
        self.faults.lost = self._lost
        forgery = Forgery(world, self.redis, self.ledger, self.postgres)
        self.faults.forge_for = lambda process, what: forgery.forge(
            process, self.calls.keys[0], what, deferred=kind.deferred
        )
        self.redis.valkey.stored = None if kind.l3 else self._stored
        for process in self.processes:
            process.on_start = self._started
            process.bell = self._ring

    # -- a life -------------------------------------------------------------------------------------------------

    def begin(self, seed: int) -> None:
        """A new life: everybody is connected, and sure of what it hears."""
        world = self.world
        world.begin(seed)
        for server in self.servers:
            server.begin()
        self.postgres.begin()
        if self.durable:
            rmtree(f"{self.journals.name}/journals", ignore_errors=True)
        self.history.begin(calm=True, deferred=self.kind.deferred)
        self.calls.begin()
        self.due: list[Planned] = []  # of the episode: what has not happened yet
        self.busy = 0
        self._kept: set[int] = set()  # columns of rows that outlived a deletion
        self._episodes = 0
        world.pick = first
        for process in self.processes:
            process.lives = 0
            process.clock.ahead = 0.0
            process.start()
            self._first_call(process)
        world.run(lambda: all(self._sure(process) for process in self.processes) and not self._opening())

    def run(self, episode: Episode, trace: list[str] | None = None) -> str:
        """The promise that was broken, or nothing: then another episode may follow."""
        world, scenario = self.world, episode.scenario
        if not world.broken:
            self._prepare(scenario)
            world.episode(episode.pick, trace)
            world.overtaking = episode.overtaking
            self.due = list(scenario.faults)
            self._heard = GRACE if self.due else HEARD
            world.before_step = partial(self._let_happen, self.due) if self.due else None
            for number, program in scenario.programs:
                self._call(self.processes[number], program)
            world.run(lambda: not self.busy)
            self._come_to_rest()
        return world.broken

    def end(self) -> None:
        """Of the life."""
        self.world.end()

    def _prepare(self, scenario: Scenario) -> None:
        """Keys of which nobody knows, but who is to: the first has a row, and where rows are written in part, both."""
        self._episodes += 1
        keys = self.calls.keys = (2 * self._episodes - 1, 2 * self._episodes)
        self.calls.alone = scenario.keys == 1
        calm = self.kind.steady or not scenario.faults
        stale = math.inf if "fail_safe" in self.kind.aging.l1 else STALE  # an outage may be as long as it likes
        self.history.begin(calm=calm, deferred=self.kind.deferred, stale=stale)
        self.calls.counts.begin(deferred=self.kind.deferred)
        if self.kind.l3:
            for key in keys if self.kind.model is Pair else keys[:1]:
                row = self.processes[0].at_once(partial(self._row, self.calls.record(key, "v0")))
                self.postgres.data.rows[key] = (1, row)
                self._committed(key, 1, row)
        else:
            l2 = self._l2()
            self.redis.valkey.do_set(l2.key(str(keys[0])).encode(), l2.held(1, Item(keys[0], "v0"))[0])
        self.world.pick = first
        for number in self.kind.known:
            read = partial(self.calls.read, self.processes[number], keys[0])
            self.world.spawn(self.processes[number], partial(_quietly, read), "opens")
        self.world.run(lambda: not self._opening())

    def _let_happen(self, due: list[Planned]) -> None:
        while due and self.world.steps >= due[0].after:
            if not self.faults.happens(due[0].fault):
                return  # there is nothing yet that it could happen to
            due.pop(0)

    def _opening(self) -> bool:
        return any(task.name == "opens" for task in self.world.tasks)

    def _first_call(self, process: Process) -> None:
        self.world.spawn(process, partial(_quietly, partial(self.calls.read, process, 0)), "opens")

    def _sure(self, process: Process) -> bool:
        return process.inside.sure

    def _started(self, process: Process) -> None:
        if self.kind.deferred:
            self.calls.watch(process)

    def _ring(self, process: Process, shard: Any) -> None:
        """A doorbell rings at the last process, which is the fleet."""
        worker = self.processes[-1]
        if worker.alive:
            persist = partial(worker.store.fleet.persist, shard.schema, shard.number)
            self.world.spawn(worker, partial(_quietly, persist), "persist", daemon=True)

    def _call(self, process: Process, program: str) -> None:
        self.busy += 1

        def run() -> None:
            try:
                self.calls.run(process, program)
            finally:
                if process.alive:
                    self.busy -= 1

        self.world.spawn(process, run, program)

    def kill(self, process: Process) -> None:
        """End a process in the midst of its calls."""
        self.busy -= sum(
            task.process is process and not task.daemon and task.name != "opens" for task in self.world.tasks
        )
        process.kill()

    def _replace(self, process: Process) -> None:
        """Another takes its place at once, and reads."""
        self.kill(process)
        self._restart(process)
        self._call(process, "ggg")

    def _lost(self, server: Server) -> None:
        if server is self.ledger:
            self.history.ledger_lost()
            self.calls.counts.ledger_lost()

    def _restart(self, process: Process) -> None:
        self.history.forget(process, durable=self.durable)
        self.calls.counts.forget(process, durable=self.durable)
        process.start()
        self._first_call(process)

    # -- at rest ------------------------------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """All faults are mended; some time later everybody agrees with L3."""
        world = self.world
        if world.broken:
            return
        world.before_step = None
        world.say("everything is mended")
        world.timers.clear()
        for server in self.servers:
            server.heal()
        self.postgres.heal()
        for process in self.processes:
            process.frozen = False
            if not process.alive:
                self._restart(process)
        until = world.now + HEALED
        while not world.broken:
            world.run(lambda: self._healed() or world.now >= until)
            world.run_for(self._heard)
            if self._healed():
                break
            if world.now >= until:
                world.breaks(f"{HEALED:g} s after all was mended the caches are not trusted again")
        if self.kind.model is Secret:
            last = self.processes[-1]
            world.spawn(last, partial(self._by_and_by, partial(self.calls.rotate_keys, last)), "rotates")
            world.run(lambda: not any(task.name == "rotates" for task in world.tasks))
        for process in self.processes:
            self.busy += 1
            world.spawn(process, partial(self._last, process), "looks")
        world.run(lambda: not self.busy)
        until = world.now + HEALED
        world.run(lambda: world.now >= until or not any(map(_left, self.processes)))
        for process in self.processes:
            if left := _left(process):
                world.breaks(f"at rest {process} still has {left}")
        if not world.broken:
            self.history.check_persisted()
            if self.kind.model is Tally:
                self._check_sums()
            self._check_l2()
            self._check_keys()

    def _healed(self) -> bool:
        return (
            not self.postgres.data.repairs
            and all(map(self._is_well, self.processes))
            and not any(key.endswith((b":dirty", b":untold")) for key in self.ledger.valkey.data)
        )

    def _is_well(self, process: Process) -> bool:
        """Whether it trusts its caches, and has nothing left to write or to tell."""
        inside = process.inside
        repairs = inside.repairs
        return (
            inside.sure
            and (not self.kind.l3 or (repairs._sure and not repairs._skipped))
            and not len(inside.unfinished)
            and not (self.kind.deferred and inside.writebehind.dirty_count())
        )

    def _last(self, process: Process) -> None:
        for key in self.calls.keys:
            for column, found in self._by_and_by(partial(self.calls.read, process, key)).items():
                wanted = self.history.newest(column).value
                over = found is None and not self.kind.l3 and self.calls.lives.may_be_over(column)
                if found != wanted and not over:
                    self.world.breaks(f"at rest {process} reads {found} of {column}, and L3 holds {wanted}")
        self.busy -= 1

    def _by_and_by(self, call: Callable[[], T]) -> T:
        until = self.world.now + HEALED
        while True:
            try:
                return call()
            except StrataError:
                if self.world.now >= until:
                    raise
            self.world.pause(seconds=0.2, what="tries again")

    def _check_l2(self) -> None:
        if not (self.kind.l2 and self.kind.l3):
            return
        prefix = self._l2()._prefix.encode()
        unread = int((self.world.began + AHEAD / 2) * 1_000_000) << NODE_BITS  # those above are not believed
        for raw_key, raw in self.redis.valkey.data.items():
            if raw_key.startswith(prefix) and raw[:1] == b"V" and int(raw[3:22]) < unread:
                key = int(raw_key.removeprefix(prefix))
                row = self.postgres.data.rows.get(key)
                found = self._l2()._contents.read(str(key), raw, -1)
                if found is OUTDATED:
                    continue
                if not found or not row or row[0] != found.version or self._record(row[1]) != found.record:
                    self.world.breaks(f"at rest L2 holds something else of {key} than L3")

    def _check_keys(self) -> None:
        """The last rotation has left nothing under the old key, which could be taken away now."""
        for where, held in (("L3", self.postgres.data.rows), ("the ledger", self.ledger.valkey.data)):
            if f"s1:{OLD}:" in str(held):
                self.world.breaks(f"at rest there is a ciphertext under the old key in {where}")

    def _row(self, record: Item) -> tuple[Any, ...]:
        """A record as L3 has it."""
        bound = self.processes[0].inside.schemas["item"]
        return bound.plan.to_row(record, bound.cipher)

    def _record(self, values: tuple[Any, ...]) -> Any:
        """The record that a row of L3 is."""
        return self.processes[0].inside.schemas["item"].record(values)

    def _l2(self) -> L2Tier:
        l2 = self.processes[0].inside.schemas["item"].l2
        assert l2 is not None
        return l2

    def _committed(self, key: int, version: int, values: tuple[Any, ...] | None, untold: bool = False) -> None:
        """L3 has taken a change, which is one of each column that has a value of another write."""
        record = None if values is None else self._record(values)
        if self.kind.model is Tally:
            self._committed_sum(key, version, record, untold)
            return
        if self.kind.model is not Pair:
            self.history.committed(key, version, record and (key, record.text), untold)
            return
        note = self.postgres.data.notes.get(key)
        good = note if note is not None and note.version == version else None
        for name, (column, value) in zip(("text", "note"), self.calls.columns(key, record).items(), strict=True):
            last, deleted = self.history.newest(column), self.history.version(column, None)
            same = value is not None and value == last.value
            at = last.version if same else good.decided(name) if good else version
            if value is not None and at < deleted < version:
                # A part, newer than a deletion that L3 has not seen yet, keeps the row with what it had.
                at = version
                self._kept.add(column)
            elif same:
                continue
            if column in self._kept:
                at = max(at, last.version + 1)
                self.history.stamped(column, at, value)
            self.history.committed(column, at, None if value is None else (key, value), untold)

    def _committed_sum(self, key: int, version: int, record: Tally | None, untold: bool) -> None:
        """L3 has taken a change of a record with a sum, which may be one of the sum alone."""
        last = self.history.newest(key)
        if key in self.calls.keys:
            text, sum_ = (None, 0) if record is None else (record.text, record.n)
            self.calls.counts.committed(key, version, text, sum_)
        note = self.postgres.data.notes.get(key)
        if record is not None and record.text == last.value:
            return
        if record is not None and note is not None and note.version == version:
            # One that was made of a default is older than any write that comes late.
            if record.text in self.calls.defaults.get(key, ()):
                self.history.stamped(key, version, record.text)
            version = max(note.decided("text"), last.version + 1)
        self.history.committed(key, version, None if record is None else (key, record.text), untold)

    def _check_sums(self) -> None:
        for key in self.calls.keys:
            row, note = self.postgres.data.rows.get(key), self.postgres.data.notes.get(key)
            if row is None:
                written = self.postgres.data.tombstones.get(str(key), 0)
            elif note is not None and note.version == row[0]:
                written = note.columns.get("n", note.base)
                if self.calls.counts.is_change(key, written):
                    written = 0  # which takes away nothing that was not in it
            else:
                written = row[0]
            self.calls.counts.check(key, written)

    def _resealed(self, key: int, values: tuple[Any, ...]) -> None:
        """A rotation has made other ciphertexts of a row, which is to be what it was."""
        found, wanted = self._record(values).text, self.history.newest(key).value
        if key in self.history.commits and found != wanted:
            self.world.breaks(f"a rotation has put {found} in the place of {wanted} in row {key}")

    def _stored(self, raw_key: bytes, raw: bytes) -> None:
        """Where L2 is the lowest tier, what is stored there is committed."""
        prefix = self._l2()._prefix.encode()
        if raw_key.startswith(prefix) and raw[:1] in (b"V", b"T"):
            key = int(raw_key.removeprefix(prefix))
            text = self._text(raw) if raw[:1] == b"V" else None
            if text is None or text != self.history.newest(key).value:  # else it was touched
                self.history.committed(key, 0, None if text is None else (key, text))

    def _text(self, raw: bytes) -> str:
        return str(self._l2()._contents._decode(raw[HEADER:]).text)


def _left(process: Process) -> str:
    """What calls have taken, and not given back."""
    inside = process.inside
    if any(
        bound.l1.claims._claims or bound.l1.claims._flights or bound.l1.claims._calls
        for bound in inside.schemas.values()
    ):
        return "a claim"
    if any(used.open > used.idle for used in (database.counts() for database in inside.databases.values())):
        return "a connection of PostgreSQL"
    used = any(wires_of(server)._seats.used for server in (inside.redis, inside.ledger_redis))
    return "a connection of Redis" if used else ""


def _quietly(run: Callable[[], object]) -> None:
    with contextlib.suppress(StrataError):
        run()
