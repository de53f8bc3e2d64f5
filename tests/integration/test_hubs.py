"""Every call works for operations that share one thread: what waits gives way, and nothing takes one for another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import pytest

from strata import DataStore, PrimaryKey, Q, WriteMode
from tests.hubs import OneThread
from tests.stores import MakeStore, schema

FEW = 12


@dataclass
class Line:
    id: Annotated[int, PrimaryKey]
    text: str = ""


def together(hubs: OneThread, *calls: Callable[[], object]) -> list[object]:
    """What the calls return; any exception is raised."""
    found = hubs.run(*calls)
    for item in found:
        if isinstance(item, BaseException):
            raise item
    return found


@pytest.fixture
def store(make: MakeStore) -> DataStore:
    store = make()
    store.register(schema(Line, name="lines"))
    store.migrate()
    store.set_many(Line, {id: Line(id, f"line {id}") for id in range(FEW)})
    return store


def test_operations_of_one_thread_share_one_load_of_a_key(store: DataStore, one_thread: OneThread) -> None:
    store.invalidate(Line, 1)
    before = store.stats().l3_hits
    found = together(one_thread, *[lambda: store.get(Line, 1)] * FEW)
    assert found == [Line(1, "line 1")] * FEW
    assert store.stats().l3_hits == before + 1


def test_operations_of_one_thread_read_and_write_what_is_theirs(store: DataStore, one_thread: OneThread) -> None:
    def rewrite(id: int) -> Line:
        store.get(Line, id, force_l2=True)
        store.set(Line, id, Line(id, f"again {id}"))
        return store.get(Line, id, force_l3=True)

    found = together(one_thread, *[lambda id=id: rewrite(id) for id in range(FEW)])
    assert found == [Line(id, f"again {id}") for id in range(FEW)]
    assert one_thread.switches > 3 * FEW, "nothing gave way"


def test_a_transaction_keeps_its_connection_while_others_of_its_thread_use_theirs(
    store: DataStore, one_thread: OneThread
) -> None:
    def moved(id: int) -> None:
        with store.tx() as tx:
            tx.set(Line, id, Line(id, f"moved {id}"))
            store.count(Line)
            tx.set(Line, id + FEW, Line(id + FEW, f"moved {id + FEW}"))

    together(one_thread, *[lambda id=id: moved(id) for id in range(FEW)])
    assert store.get_many(Line, range(2 * FEW)) == {id: Line(id, f"moved {id}") for id in range(2 * FEW)}


def test_a_walk_through_rows_is_shared_by_operations_of_one_thread(store: DataStore, one_thread: OneThread) -> None:
    records = store.search_iter(Line, Q(), chunk=2)
    seen: list[int] = []

    def walk() -> None:
        for record in records:
            seen.append(record.id)

    together(one_thread, walk, walk, walk)
    assert sorted(seen) == list(range(FEW))


def test_deferred_writes_of_one_thread_are_handed_off_in_turns(make: MakeStore, one_thread: OneThread) -> None:
    store = make()
    store.register(schema(Line, name="lines", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()

    def write(id: int) -> None:
        store.set(Line, id, Line(id, f"line {id}"))
        store.flush_dirty(20)

    together(one_thread, *[lambda id=id: write(id) for id in range(3)])
    assert store.count(Line) == 3
