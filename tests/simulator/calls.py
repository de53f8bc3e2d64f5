"""The calls of programs, each of which says to the history what it was told and has seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from greenlet import getcurrent

from strata.errors import StrataError
from strata.writebehind.dirty.slot import Buffered, Slot
from tests.simulator.kinds import CALLS, REFUSED, Item
from tests.simulator.postgres import Postgres
from tests.simulator.process import Process
from tests.simulator.promises import History
from tests.simulator.valkey import Valkey
from tests.simulator.world import World


class Calls:
    """A call fails without a promise: but it may have done what it was to do. `keys`: those that calls are about."""

    def __init__(self, world: World, history: History, postgres: Postgres) -> None:
        self._world = world
        self._history = history
        self._postgres = postgres
        self.cache: Valkey | None = None  # where records are evicted from
        self.begin()

    def begin(self) -> None:
        """Nothing was called yet."""
        self.keys: tuple[int, int] = (1, 2)
        self.alone = False  # whether calls of one key are of the first
        self._values = 0
        self._stamps: dict[Any, int] = {}  # the version of the deferred write that a task made last

    def watch(self, process: Process) -> None:
        """Know the versions of a process's deferred writes as it takes them."""
        buffer = process.inside.buffer
        put, sent = buffer._put, buffer.sent

        def noted(schema: str, key: Any, key_text: str, item: Buffered, *, newest: bool = False) -> Any:
            if key in self.keys:  # of earlier ones nobody is asked any more
                self._history.stamped(key, item.version, None if item.record is None else item.record.text)
            self._stamps[getcurrent()] = item.version
            return put(schema, key, key_text, item, newest=newest)

        def handed_off(versions: Iterable[tuple[Slot, int]], now: float) -> None:
            versions = list(versions)
            for slot, version in ((slot, version) for slot, version in versions if slot.key in self.keys):
                self._history.handed_off(slot.key, version)
            sent(versions, now)

        buffer._put, buffer.sent = noted, handed_off  # type: ignore[method-assign]
        giving_up = process.inside.giving_up
        bury = giving_up.bury

        def buried(bound: Any, shard: Any, key_text: str, entry: Any, blame: Any) -> None:
            self._history.gave_up(int(key_text), entry.version)
            bury(bound, shard, key_text, entry, blame)

        giving_up.bury = buried  # type: ignore[method-assign]

    def run(self, process: Process, program: str) -> None:
        """One call after the other."""
        for number, letter in enumerate(program):
            if number:
                self._world.pause(lambda: True, what=f"calls {CALLS[letter]}")
            with contextlib.suppress(StrataError):
                getattr(self, CALLS[letter])(process)

    def read(self, process: Process, key: int, *, force_l2: bool = False) -> str | None:
        """What a process reads, of which no promise is held against it."""
        record = process.store.get(Item, key, default=None, force_l2=force_l2)
        return None if record is None else str(record.text)

    def _key(self) -> int:
        return self.keys[0] if self.alone or self._world.chance.random() < 0.8 else self.keys[1]

    def _fresh(self, kind: str = "v") -> str:
        self._values += 1
        return f"{kind}{self._values}"

    def _wrote(self, process: Process, key: int, value: str | None, since: int = 0) -> None:
        self._world.say(f"    {process} has set {key} to {value}")
        self._history.wrote(process, key, value, self._stamps.get(getcurrent()), since)

    def get(self, process: Process, *, force_l2: bool = False) -> None:
        key, began = self._key(), self._world.now
        floor = self._history.floor(process, key)
        found = self.read(process, key, force_l2=force_l2)
        self._world.say(f"    {process} has read {found} of {key}")
        self._history.read(process, key, found, floor, began)

    def get_past_l1(self, process: Process) -> None:
        self.get(process, force_l2=True)

    def get_many(self, process: Process) -> None:
        began = self._world.now
        floors = {key: self._history.floor(process, key) for key in self.keys}
        found = process.store.get_many(Item, list(self.keys))
        for key, floor in floors.items():
            value = found[key].text if key in found else None
            self._world.say(f"    {process} has read {value} of {key}")
            self._history.read(process, key, value, floor, began)

    def set(self, process: Process) -> None:
        key, value = self._key(), self._fresh()
        process.store.set(Item, key, Item(key, value))
        self._wrote(process, key, value)

    def set_many(self, process: Process) -> None:
        values = {key: self._fresh() for key in self.keys}
        process.store.set_many(Item, {key: Item(key, value) for key, value in values.items()})
        for key, value in values.items():
            self._history.wrote(process, key, self._postgres.keeps(value))

    def delete(self, process: Process) -> None:
        key = self._key()
        since = self._history.newest(key).version
        process.store.delete(Item, key)
        self._wrote(process, key, None, since)

    def tx(self, process: Process) -> None:
        values = {key: self._fresh() for key in self.keys}
        with process.store.tx() as tx:
            for key, value in values.items():
                tx.set(Item, key, Item(key, value))
        for key, value in values.items():
            self._history.wrote(process, key, self._postgres.keeps(value))

    def search(self, process: Process) -> None:
        process.store.search(Item)

    def search_cached(self, process: Process) -> None:
        process.store.search_cached(Item)

    def warm(self, process: Process) -> None:
        process.store.warm_cache(Item)

    def invalidate(self, process: Process) -> None:
        process.store.invalidate(Item, self._key())

    def update_by_hand(self, process: Process) -> None:
        """Another program changes the row; then the key is invalidated, until that succeeds, and so is promised."""
        key, value = self._key(), self._fresh()
        rows = self._postgres.data.rows
        self._world.pause(lambda: self._postgres.writable(key), what=f"an UPDATE of {key} by hand")
        if (row := rows.get(key)) is None:
            return
        rows[key] = (row[0], (key, value))
        self._world.say(f"    {key} was set to {value} by hand")
        tell = self._history.committed_untold(key, (key, value))
        while True:
            try:
                process.store.invalidate(Item, key)
            except StrataError:
                self._world.pause(seconds=0.2, what="invalidates again")
            else:
                tell()
                return

    def change_outside(self, process: Process) -> None:
        """Another program changes a row of a table that is watched, or deletes it, or makes it anew."""
        key = self._key()
        value = self._fresh() if self._world.chance.random() < 0.7 else None
        self._world.pause(lambda: self._postgres.writable(key), what=f"{key} to be {value}, by another program")
        bound = process.inside.schemas["item"]
        table, values = bound.rows.table, None if value is None else (key, value)
        if value is not None or key in self._postgres.data.rows:
            self._postgres.change(table.name, key, values, cached=bound.l2 is not None)
            self._history.changed_outside(key)

    def wait(self, process: Process) -> None:
        """Some time passes."""
        self._world.pause(seconds=self._world.chance.choice((0.05, 0.6, 2.0, 5.0)), what="waits")

    def set_alone(self, process: Process) -> None:
        """What is written through, of one key, in any mode."""
        key, value = self._key(), self._fresh()
        process.store.set_many(Item, {key: Item(key, value)})
        self._history.wrote(process, key, self._postgres.keeps(value))

    def delete_alone(self, process: Process) -> None:
        """As `set_alone`, a deletion."""
        key = self._key()
        since = self._history.newest(key).version
        with process.store.tx() as tx:
            tx.delete(Item, key)
        self._history.wrote(process, key, None, since=since)

    def evict(self, process: Process) -> None:
        """Redis gives up a record, to have room."""
        l2 = process.inside.schemas["item"].l2
        if l2 is not None and self.cache is not None:
            key = l2.key(str(self.keys[0])).encode()
            if self.cache.do_mget(key)[0] and self.cache.data[key][:1] in b"VT":
                self._world.say(f"    {key!r} is evicted")
                self.cache.do_del(key)

    def forget(self, process: Process) -> None:
        """L1 gives up a record, to have room."""
        l1 = process.inside.schemas["item"].l1
        if l1.store is not None:
            self._world.say(f"    {process} forgets {self.keys[0]}")
            l1.store.drop(self.keys[0])

    def stall(self, process: Process) -> None:
        """PostgreSQL stands still for a moment."""
        self._world.say("    postgres stands still for 1.2 s")
        self._postgres.frozen = True
        self._world.after(1.2, lambda: setattr(self._postgres, "frozen", False), "postgres goes on")

    def set_refused(self, process: Process) -> None:
        """A write that L3 refuses."""
        key, value = self._key(), self._fresh(REFUSED)
        process.store.set(Item, key, Item(key, value))
        self._wrote(process, key, value)

    def flush(self, process: Process) -> None:
        process.store.flush_dirty(timeout=2.0)
