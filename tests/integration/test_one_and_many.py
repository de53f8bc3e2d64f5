"""One is many of one: what `get` says of a key, `get_many` says too, whatever stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from strata import Collection, L3PoolConfig
from strata.testing import inspect
from tests.behind import deferred, hand_off, idle, paced
from tests.held import locked
from tests.models import Note
from tests.stores import MakeStore, schema, sure

Read = Callable[[Collection[Note]], Note | None]
READS: dict[str, Read] = {
    "get": lambda notes: notes.get(1, default=None),
    "get_many": lambda notes: notes.get_many([1]).get(1),
    "get_many of two": lambda notes: notes.get_many([1, 2]).get(1),
}
each_way = pytest.mark.parametrize("read", READS.values(), ids=READS)


def text(note: Note | None) -> str | None:
    return None if note is None else note.text


@pytest.mark.parametrize("read", [READS["get"], READS["get_many"]], ids=["get", "get_many"])
def test_what_the_ledger_holds_whole_is_read_while_postgres_does_not_answer(
    make: MakeStore, dsn: str, read: Read
) -> None:
    writer, reader = make(), make(l3_pool=L3PoolConfig(lock_timeout=0.2))
    seen: list[Any] = []
    for store in (writer, reader):
        paced(store)
        seen.append(store.register(deferred(name="notes", l1=None, l2=None)))
    writer.migrate()
    for store in (writer, reader):
        idle(store)
    seen[0].set(1, Note(1, "pending"))
    hand_off(writer)
    with locked(dsn):
        assert text(read(seen[1])) == "pending"


@each_way
def test_a_schema_without_l3_is_read_from_redis_while_repairs_of_others_are_due(make: MakeStore, read: Read) -> None:
    store = make()
    store.register(schema(Note, name="notes"))
    cached = store.register(schema(Note, name="cached", l1=None, l3=None))
    store.migrate()
    sure(store)
    cached.set(1, Note(1, "kept"))
    for _ in range(20):  # each time until the repairs were looked through
        inspect(store).repairs.distrust()
        assert text(read(cached)) == "kept"


@each_way
def test_an_own_write_that_is_pending_counts_as_a_hit_of_memory(make: MakeStore, read: Read) -> None:
    store = make()
    paced(store)
    notes = store.register(deferred(name="notes", l1=None))
    store.migrate()
    idle(store)
    notes.set(1, Note(1, "pending"))
    before = store.stats()
    assert text(read(notes)) == "pending"
    after = store.stats()
    assert after.l1_hits == before.l1_hits + 1
    assert after.gets - before.gets == 1 + (after.misses - before.misses)
