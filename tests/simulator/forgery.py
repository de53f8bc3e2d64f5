"""What somebody may put where Strata keeps its versions: such of the far future."""

from __future__ import annotations

import random

import msgspec

from strata.l3.values import Repair
from strata.protocol.entry import Entry, EntryOp
from strata.protocol.versions import NODE_BITS, text
from strata.writebehind.ledger.shard import home_of
from strata.writebehind.persist.outcomes import Failed, OutcomeReport, Persisted
from tests.simulator.kinds import Item
from tests.simulator.network import Server
from tests.simulator.postgres import Postgres
from tests.simulator.process import Process
from tests.simulator.world import World

AHEAD = 3600.0  # seconds


class Forgery:
    """Each method puts a version of the far future somewhere, for one key; what it says is shown in the trace."""

    def __init__(self, world: World, cache: Server, ledger: Server, postgres: Postgres) -> None:
        self._world = world
        self._cache = cache
        self._ledger = ledger
        self._postgres = postgres

    @property
    def _chance(self) -> random.Random:
        return self._world.chance

    def forge(self, process: Process, key: int, what: str, *, deferred: bool) -> str:
        """`what` is one of them, or empty: any; a process's store says what it is to look like."""
        version = int((self._world.now + AHEAD) * 1_000_000) << NODE_BITS
        kinds = ["message", "value", "repair", *(("floor", "entry", "outcome") if deferred else ())]
        return str(getattr(self, f"_{what or self._chance.choice(kinds)}")(process, key, version))

    def _message(self, process: Process, key: int, version: int) -> str:
        op = self._chance.choice(("set", "delete", "purge"))
        said = {"schema": "item", "id": str(key), "op": op, "v": text(version)}
        self._cache.valkey.do_publish(b"strata:invalidate", msgspec.json.encode(said))
        return f"a message, {op}"

    def _value(self, process: Process, key: int, version: int) -> str:
        l2 = process.inside.schemas["item"].l2
        if l2 is None:
            return "nothing"
        record = self._chance.choice((Item(key, "forged"), None))
        self._cache.valkey.do_set(l2.key(str(key)).encode(), l2.held(version, record)[0])
        return "a value" if record else "a tombstone"

    def _repair(self, process: Process, key: int, version: int) -> str:
        self._postgres.data.repairs[Repair(str(key), version)] = True
        return "a repair"

    def _floor(self, process: Process, key: int, version: int) -> str:
        for name in self._keys(process, key, "floor0", "floor1"):
            self._ledger.valkey.do_hset(name, str(key).encode(), text(version).encode())
        return "a floor"

    def _entry(self, process: Process, key: int, version: int) -> str:
        """Where there is none: another program may of course destroy one."""
        dirty, due = self._keys(process, key, "dirty", "due")
        field, valkey = str(key).encode(), self._ledger.valkey
        if valkey.do_hget(dirty, field) is not None:
            return "nothing"
        now, plan = int(self._world.now * 1000), process.inside.schemas["item"].plan
        entry = Entry(version, EntryOp.SET, now, "somebody", plan.pack_row((key, "forged")))
        valkey.do_hset(dirty, field, entry.encode())
        valkey.do_zadd(due, str(now).encode(), field)
        return "an entry"

    def _outcome(self, process: Process, key: int, version: int) -> str:
        report = OutcomeReport("item", persisted=[Persisted(str(key), version)])
        if self._chance.random() < 0.5:
            report = OutcomeReport("item", failed=[Failed(str(key), version, "", "forged", 1, True)])
        name = process.inside.outcomes._list(process.inside.instance)
        self._ledger.valkey.do_rpush(name.encode(), msgspec.msgpack.encode(report))
        return "an outcome"

    def _keys(self, process: Process, key: int, *names: str) -> list[bytes]:
        ledger = process.inside.ledger
        return [name.encode() for name in ledger.keys(home_of("item", str(key)), *names)]
