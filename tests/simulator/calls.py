"""The calls of programs, each of which says to the history what it was told and has seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from greenlet import getcurrent

from strata import UNLOADED, Q
from strata.errors import StrataError
from strata.protocol.entry import IN_PARTS
from strata.writebehind.dirty.slot import Accepted, Addition, Buffered, Slot
from tests.simulator.counts import Bit, Counts
from tests.simulator.kinds import CALLS, OTHERS, REFUSED, Item, Pair, Tally
from tests.simulator.lives import LIFE, Lives
from tests.simulator.postgres import Postgres
from tests.simulator.process import Process
from tests.simulator.promises import History
from tests.simulator.valkey import Valkey
from tests.simulator.world import Cancelled, World


class Calls:
    """A call fails without a promise: but it may have done what it was to do. `keys`: those that calls are about.

    To the history each column of a row is a key of its own: the second one of row 7 is -7.
    """

    def __init__(self, world: World, history: History, postgres: Postgres, model: type[Item] = Item) -> None:
        self._world = world
        self._history = history
        self._postgres = postgres
        self.l3 = True
        self.counts = Counts(world)
        self.counts.version_of, self.counts.deleted_after = history.version, history.deleted_after
        self.counts.written_after = history.written_after
        history.added_after = self.counts.added_after
        self.cache: Valkey | None = None  # where records are evicted from
        self._model = model
        self.begin()

    def begin(self) -> None:
        """Nothing was called yet."""
        self.keys: tuple[int, int] = (1, 2)
        self.alone = False  # whether calls of one key are of the first
        self._values = 0
        self.lives = Lives(self._world)
        self.defaults: dict[int, set[str]] = {}  # texts of records that are made only where there is none
        self._stamps: dict[Any, int] = {}  # the version of the deferred write that a task made last
        self._refused: dict[Any, tuple[Any, Any]] = {}  # a task's write, by key and record, that found no room
        self._carried: dict[tuple[int, int], list[int]] = {}  # the columns of a key's deferred write of a version

    def watch(self, process: Process) -> None:
        """Know the versions of a process's deferred writes as it takes them."""
        buffer = process.inside.buffer
        put, sent, make_room, on_top = buffer._put, buffer.sent, buffer._make_room, buffer.tallies.on_top

        def taken(schema: str, key: Any, key_text: str, item: Buffered, newest: bool = False) -> Accepted:
            again = (key, item.held) == self._refused.get(getcurrent())
            if not again:
                note(key, item)
            accepted: Accepted = put(schema, key, key_text, item, newest=newest)
            if again and accepted.room:
                note(key, item)
            if not accepted.room:  # it goes around the ledger as it was stamped first, until there is room
                self._refused[getcurrent()] = key, item.held
            return accepted

        def note(key: Any, item: Buffered) -> None:
            if key in self.keys:  # of earlier ones nobody is asked any more
                ages, carried = dict(item.ages), self.columns(key, item.record)
                for name, (column, value) in zip(("text", "note"), carried.items(), strict=False):
                    self._history.stamped(column, ages.get(name, item.version), value)
                self._carried[key, item.version] = [
                    column for name, column in zip(("text", "note"), carried, strict=False) if name not in ages
                ]
            self._stamps[getcurrent()] = item.version
            if item.added and key in self.keys:
                counted(key, item.version)

        def counted(key: Any, version: int) -> None:
            self.counts.added(key, process, version)
            for text in self.defaults.get(key, ()):  # any of which may be what it is on top of
                self._history.stamped(key, version, text)

        def noted_on_top(slot: Slot, what: Addition) -> Accepted | None:
            accepted = on_top(slot, what)
            if accepted is not None and slot.key in self.keys:
                self._stamps[getcurrent()] = accepted.version
                counted(slot.key, accepted.version)
            return accepted

        def handed_off(versions: Iterable[tuple[Slot, int]], now: float) -> None:
            versions = list(versions)
            for slot, version in versions:
                if slot.key in self.keys:
                    self.counts.handed_off(slot.key, process, version)
                # A journal may have writes of keys of which nobody is asked any more.
                for column in self._carried.get((slot.key, version), ()) if slot.key in self.keys else ():
                    self._history.handed_off(column, version)
            sent(versions, now)

        def made_room() -> bool:
            for slot in [*buffer._queues.kept][:1]:
                self.counts.let_go(slot.key, process)
                for column in self._carried.get((slot.key, slot.item.version), ()):
                    self._history.left(process, column, slot.item.version)
            return make_room()

        buffer._put, buffer.sent, buffer._make_room = taken, handed_off, made_room  # type: ignore[method-assign]
        buffer.tallies.on_top = noted_on_top  # type: ignore[method-assign]
        giving_up = process.inside.giving_up
        bury = giving_up.bury

        def buried(bound: Any, shard: Any, key_text: str, entry: Any, blame: Any) -> None:
            key = int(key_text)
            self.counts.gave_up(key, entry.version)
            own = buffer.slot("item", key)
            orphan = entry.op in IN_PARTS and (self._is_gone(key) or (own is not None and own.item.deletes))
            for version in {entry.version, *dict(entry.ages).values()}:
                for column in self._carried.get((key, version), [key]):
                    self._history.gave_up(column, version, orphan=orphan)
            bury(bound, shard, key_text, entry, blame)

        giving_up.bury = buried  # type: ignore[method-assign]

    def _is_gone(self, key: int) -> bool:
        """Whether L3 holds no row, or a deletion of it is pending."""
        return (
            key not in self._postgres.data.rows or self._history.version(key, None) > self._history.newest(key).version
        )

    def run(self, process: Process, program: str) -> None:
        """One call after the other."""
        for number, letter in enumerate(program):
            if number:
                self._world.pause(lambda: True, what=f"calls {CALLS[letter]}")
            task = getcurrent()
            task.awaited = letter not in OTHERS
            with contextlib.suppress(StrataError, Cancelled):
                getattr(self, CALLS[letter])(process)
            task.awaited = task.cancelled = False
            self._refused.pop(task, None)

    def columns(self, key: int, record: Item | None) -> dict[int, str | None]:
        """What a record has in the columns that it carries; of none, in all of them."""
        found = {key: None if record is None else record.text}
        if self._model is Pair:
            found[-key] = record.note if isinstance(record, Pair) else None
        return {column: value for column, value in found.items() if value is not UNLOADED}

    def record(self, key: int, value: str) -> Item:
        """One that has a value in each column."""
        return Pair(key, value, value) if self._model is Pair else self._model(key, value)

    def read(self, process: Process, key: int, *, force_l2: bool = False) -> dict[int, str | None]:
        """What a process reads, of which no promise is held against it, by column."""
        return self.columns(key, self._found(process, key, force_l2=force_l2))

    def _found(self, process: Process, key: int, *, force_l2: bool = False) -> Item | None:
        return process.store.get(self._model, key, default=None, force_l2=force_l2)

    def _key(self) -> int:
        return self.keys[0] if self.alone or self._world.chance.random() < 0.8 else self.keys[1]

    def _fresh(self, kind: str = "v") -> str:
        self._values += 1
        return f"{kind}{self._values}"

    def _wrote(
        self, process: Process, key: int, record: Item | None, since: int | None = None, *, through: bool = False
    ) -> None:
        """A call returned that wrote a record, `through` in any mode; `since`: the newest version when it began."""
        stamp = None if through else self._stamps.get(getcurrent())
        for column, value in self.columns(key, record).items():
            self._world.say(f"    {process} has set {column} to {value}")
            self.lives.wrote(column, value)
            held = value if value is None or stamp is not None else self._postgres.keeps(value)
            self._history.wrote(process, column, held, stamp, since)

    def _floors(self, process: Process, key: int) -> dict[int, int]:
        return {column: self._history.floor(process, column) for column in self.columns(key, None)}

    def add(self, process: Process, *, default: bool = False) -> None:
        """To a number of a record that is there, or, where there is a default, is made."""
        key = self._key()
        bit = self.counts.fresh(process, key)
        if bit is not None:
            made = self.record(key, self._fresh()) if default else None
            if made is not None:
                self.defaults.setdefault(key, set()).add(made.text)
                self._history.stamped(key, self.counts.newest(key), made.text)
            began, added = self._world.now, self.counts.acked_by(process, key)
            found = process.store.increment(self._model, key, n=bit.value, default=made)
            self._world.say(f"    {process} has added {bit.value:b} to {key}")
            self.counts.acknowledged(key, bit)
            if isinstance(found, Tally) and found.n is not UNLOADED:
                self._counted(process, key, found, added, began)

    def add_to_default(self, process: Process) -> None:
        self.add(process, default=True)

    def _read(self, process: Process, found: dict[int, str | None], floors: dict[int, int], began: float) -> None:
        for column, value in found.items():
            self._world.say(f"    {process} has read {value} of {column}")
            if not self.l3:  # which keeps what others let go of
                self.lives.read(process, column, value, began)
            if value is None and not self.l3 and self.lives.may_be_over(column):
                continue
            floor = floors[column]
            if self._is_hidden(column, floor, process):
                floor = min(floor, self._history.newest(column).version)
            self._history.read(process, column, value, floor, began)

    def _is_hidden(self, column: int, version: int, process: Process) -> bool:
        """Whether it is a deferred write that may be hidden until L3 has it: one of all columns, under a newer one of
        the other column, or one of this column, over a record that is gone (docs/models-and-types.md)."""
        carried, last = self._carried.get((abs(column), version), ()), self._history.newest(column)
        if self._history.is_deletion(column, version) and self.counts.added_after(column, version):
            return True  # what is added later keeps the row, as any write in part
        if self.counts.added_after(column, version, but=process) and last.version < version:
            return True  # one of all columns, under what others have added since
        whole = len(carried) == 2 and version < self._history.latest(-column)
        orphan = len(carried) == 1 and last.value is None
        return (whole or orphan) and last.version < version

    def get(self, process: Process, *, force_l2: bool = False) -> None:
        key, began = self._key(), self._world.now
        floors, added = self._floors(process, key), self.counts.acked_by(process, key)
        record = self._found(process, key, force_l2=force_l2)
        self._read(process, self.columns(key, record), floors, began)
        self._counted(process, key, record, added, began)

    def get_past_l1(self, process: Process) -> None:
        self.get(process, force_l2=True)

    def get_many(self, process: Process) -> None:
        began = self._world.now
        floors = {key: self._floors(process, key) for key in self.keys}
        added = {key: self.counts.acked_by(process, key) for key in self.keys}
        found = process.store.get_many(self._model, list(self.keys))
        for key, floor in floors.items():
            self._read(process, self.columns(key, found.get(key)), floor, began)
            self._counted(process, key, found.get(key), added[key], began)

    def _counted(self, process: Process, key: int, record: Item | None, added: set[Bit], began: float) -> None:
        if isinstance(record, Tally):
            self.counts.read(process, key, record.text, record.n, added, began)

    def set(self, process: Process) -> None:
        self._set(process, self.record(self._key(), self._fresh()))

    def _set(self, process: Process, record: Item) -> None:
        since = self._history.newest(record.id).version
        process.store.set(self._model, record.id, record)
        self._wrote(process, record.id, record, since)

    def set_short(self, process: Process) -> None:
        """With a life of its own, which is short."""
        record = self.record(self._key(), self._fresh())
        since = self._history.newest(record.id).version
        with self.lives.begins(record.id, record.text):
            process.store.set(self._model, record.id, record, ttl=LIFE)
        self._wrote(process, record.id, record, since)

    def touch(self, process: Process) -> None:
        """Whatever there is has that short life from now on."""
        key = self._key()
        with self.lives.touches(key):
            process.store.touch(self._model, key, LIFE)
        self._world.say(f"    {process} has touched {key}")

    def _part(self) -> Item:
        value = self._fresh()
        return Pair(self._key(), *((value, UNLOADED) if self._world.chance.random() < 0.5 else (UNLOADED, value)))

    def set_part(self, process: Process) -> None:
        """One of the columns."""
        self._set(process, self._part())

    def set_part_alone(self, process: Process) -> None:
        """As `set_part`, written through in any mode."""
        self._set_alone(process, self._part())

    def set_many(self, process: Process) -> None:
        records = {key: self.record(key, self._fresh()) for key in self.keys}
        since = {key: self._history.newest(key).version for key in self.keys}
        process.store.set_many(self._model, records)
        for key, record in records.items():
            self._wrote(process, key, record, since[key], through=True)

    def delete(self, process: Process) -> None:
        key = self._key()
        since = self._history.newest(key).version
        process.store.delete(self._model, key)
        self._wrote(process, key, None, since)

    def tx(self, process: Process) -> None:
        records = {key: self.record(key, self._fresh()) for key in self.keys}
        with process.store.tx() as tx:
            for key, record in records.items():
                tx.set(self._model, key, record)
        for key, record in records.items():
            self._wrote(process, key, record, through=True)

    def _both(self) -> Q:
        return Q().where("id = ANY($1)", list(self.keys))

    def update_where(self, process: Process) -> None:
        """All rows that there are of the keys, in one column."""
        value = self._fresh()
        if process.store.update_where(self._model, self._both(), text=value) == len(self.keys):
            for key in self.keys:
                self._changed(process, key, value)

    def delete_where(self, process: Process) -> None:
        since = {key: self._history.newest(key).version for key in self.keys}
        if process.store.delete_where(self._model, self._both()) == len(self.keys):
            for key in self.keys:
                self._wrote(process, key, None, since[key], through=True)

    def search(self, process: Process) -> None:
        process.store.search(self._model)

    def search_cached(self, process: Process) -> None:
        process.store.search_cached(self._model)

    def warm(self, process: Process) -> None:
        process.store.warm_cache(self._model)

    def invalidate(self, process: Process) -> None:
        process.store.invalidate(self._model, self._key())

    def invalidate_tag(self, process: Process) -> None:
        process.store.invalidate_tag(f"key:{self._key()}")

    def update_by_hand(self, process: Process) -> None:
        """Another program changes the row; then the key is invalidated, until that succeeds, and so is promised."""
        self._by_hand(lambda key: process.store.invalidate(self._model, key))

    def update_by_hand_and_tag(self, process: Process) -> None:
        """As above, by the record's tag."""
        self._by_hand(lambda key: process.store.invalidate_tag(f"key:{key}"))

    def update_by_hand_and_all(self, process: Process) -> None:
        """As above, with all the others."""
        self._by_hand(lambda key: process.store.invalidate_all(self._model))

    def _by_hand(self, invalidate: Callable[[int], None]) -> None:
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
                invalidate(key)
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

    def add_outside(self, process: Process) -> None:
        """Another program adds to the number of a row, by SQL."""
        key = self._key()
        self._world.pause(lambda: self._postgres.writable(key), what=f"{key} to be added to, by another program")
        row, bit = self._postgres.data.rows.get(key), self.counts.fresh(None, key, change=True)
        if row is None or bit is None:
            return
        bound = process.inside.schemas["item"]
        values, names = (*row[1][:2], row[1][2] + bit.value), bound.plan.column_names if bound.deferred else ()
        self._postgres.change(bound.rows.table.name, key, values, cached=bound.l2 is not None, noted_as=names)
        self.counts.acknowledged(key, bit)
        if not self._history.calm:
            self.counts.untold(bit)

    def modify_adding(self, process: Process) -> None:
        """As `add`, by a function of the record."""
        key = self._key()
        bit = self.counts.fresh(process, key, change=True)

        def change(record: Item) -> Item:
            assert isinstance(record, Tally) and bit is not None
            record.n += bit.value
            return record

        if bit is not None:
            process.store.modify(self._model, key, change)
            self._world.say(f"    {process} has added {bit.value:b} to {key}, by a function")
            self.counts.acknowledged(key, bit)

    def insert(self, process: Process) -> None:
        """A record, where there is none."""
        key, value = self._key(), self._fresh()
        self._history.decided(key, self._postgres.keeps(value), None)
        process.store.insert(self._model, self.record(key, value))
        self._wrote(process, key, self.record(key, value), through=True)

    def update(self, process: Process) -> None:
        """If it still is what it was."""
        key, value = self._key(), self._fresh()
        held = process.store.get(self._model, key, force_l3=self.l3).text
        self._history.decided(key, self._postgres.keeps(value), held)
        process.store.update(self._model, key, expect={"text": held}, text=value)
        self._changed(process, key, value)

    def modify(self, process: Process) -> None:
        """A change that depends on what is there."""
        key, made, began = self._key(), [], self._world.now
        floors = self._floors(process, key)

        def change(record: Item) -> Item:
            self._read(process, self.columns(key, record), floors, began)
            made.append(self._fresh())
            self._history.decided(key, self._postgres.keeps(made[-1]), record.text)
            record.text = made[-1]
            return record

        process.store.modify(self._model, key, change)
        self._changed(process, key, made[-1])

    def _changed(self, process: Process, key: int, value: str) -> None:
        record = Pair(key, value, UNLOADED) if self._model is Pair else self.record(key, value)
        self._wrote(process, key, record, through=True)

    def wait(self, process: Process) -> None:
        """Some time passes."""
        self._world.pause(seconds=self._world.chance.choice((0.05, 0.6, 2.0, 5.0)), what="waits")

    def set_alone(self, process: Process) -> None:
        """What is written through, of one key, in any mode."""
        self._set_alone(process, self.record(self._key(), self._fresh()))

    def _set_alone(self, process: Process, record: Item) -> None:
        since = self._history.newest(record.id).version
        process.store.set_many(self._model, {record.id: record})
        self._wrote(process, record.id, record, since, through=True)

    def delete_alone(self, process: Process) -> None:
        """As `set_alone`, a deletion."""
        key = self._key()
        since = self._history.newest(key).version
        with process.store.tx() as tx:
            tx.delete(self._model, key)
        self._wrote(process, key, None, since, through=True)

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
        self._postgres.freeze()
        self._world.after(1.2, self._postgres.go_on, "postgres goes on")

    def set_refused(self, process: Process) -> None:
        """A write that L3 refuses."""
        self._set(process, self.record(self._key(), self._fresh(REFUSED)))

    def rotate_keys(self, process: Process) -> None:
        """What is under another key than the process's is encrypted anew."""
        process.store.rotate_keys()

    def flush(self, process: Process) -> None:
        process.store.flush_dirty(timeout=2.0)
