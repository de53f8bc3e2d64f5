"""Calls that are broken off at each of their waits, one after the other: nothing that they had stays taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from strata import DataStore, Q, WriteMode
from strata.testing import inspect
from tests.hubs import Cancelled, OneThread
from tests.models import Note
from tests.stores import MakeStore, schema, sure, wires_of
from tests.support import wait_until

pytestmark = pytest.mark.faults

MOST = 200  # waits of a call


def tx(store: DataStore) -> None:
    with store.tx() as opened:
        opened.set("notes", 1, Note(1, "x"))
        opened.delete("notes", 2)


def read_anew(store: DataStore) -> None:
    store.invalidate("notes", 3)
    store.get("notes", 3)


def make_anew(store: DataStore) -> None:
    store.delete("notes", 4)
    store.get_or_set("notes", 4, lambda: Note(4, "made"))
    store.delete("notes", 4)


def write_later(store: DataStore) -> None:
    store.set("later", 1, Note(1, "later"))
    store.flush_dirty(20)


CALLS: dict[str, Callable[[DataStore], Any]] = {
    "get": lambda store: store.get("notes", 1, default=None, force_l2=True),
    "get of what is in no cache": read_anew,
    "get_many": lambda store: store.get_many("notes", [1, 2, 3, 4]),
    "exists": lambda store: store.exists("notes", 4),
    "get_or_set": make_anew,
    "set": lambda store: store.set("notes", 1, Note(1, "y")),
    "set_many": lambda store: store.set_many("notes", {1: Note(1, "z"), 2: Note(2, "z")}),
    "touch": lambda store: store.touch("notes", 1, 60),
    "delete": lambda store: store.delete("notes", 2),
    "tx": tx,
    "search": lambda store: store.search("notes"),
    "search_cached": lambda store: store.search_cached("notes"),
    "search_iter": lambda store: list(store.search_iter("notes", chunk=2)),
    "count": lambda store: store.count("notes"),
    "update_where": lambda store: store.update_where("notes", Q().where("id < 3"), text="w"),
    "delete_where": lambda store: store.delete_where("notes", Q().where("id = 2")),
    "warm_cache": lambda store: store.warm_cache("notes"),
    "flush_dirty": write_later,
}


def left(store: DataStore) -> dict[str, Any]:
    """What calls that are over still have, and for a moment the threads of the store."""
    seen = inspect(store)
    database = seen.database
    claims = [bound.l1.claims for bound in seen.schemas.values()]
    return {
        "connections of PostgreSQL": database.counts().open - database.counts().idle,
        "connections of Redis": wires_of(seen.redis)._seats.used,
        "claims": sum(len(each._claims) + len(each._flights) + len(each._calls) for each in claims),
        "open breakers": [name for name, breaker in seen.breakers.items() if not breaker.closed],
    }


@pytest.mark.parametrize("done", [False, True], ids=["before the wait is over", "with its answer there"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_broken_off_at_any_of_its_waits_leaves_nothing_taken(
    make: MakeStore, one_thread: OneThread, name: str, done: bool
) -> None:
    store = make(write_behind_flush_interval=600)
    store.register(schema(Note, name="notes"))
    store.register(schema(Note, name="later", write_mode=WriteMode.WRITE_BEHIND))
    store.migrate()
    store.set_many("notes", {id: Note(id, "old") for id in (1, 2, 3)})
    sure(store)
    nothing = {"connections of PostgreSQL": 0, "connections of Redis": 0, "claims": 0, "open breakers": []}
    for number in range(MOST):
        found = one_thread.break_off(lambda: CALLS[name](store), number, done=done)
        wait_until(lambda: left(store) == nothing, what=f"nothing to be left after its wait number {number}")
        if not isinstance(found, Cancelled):
            break
    else:
        raise AssertionError(f"{name} waits more than {MOST} times")
    assert number > 0, "it does not wait"
    store.set("notes", 1, Note(1, "afterwards"))
    assert store.get("notes", 1, force_l3=True) == store.get("notes", 1) == Note(1, "afterwards")
