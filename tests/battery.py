"""The main operations one after the other, on whatever tiers a schema has; run over every topology."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import strata
from strata import Collection, DataStore, MemPolicy, PostgresPolicy, Q, RedisPolicy, Schema, SearchExpiry, WriteMode
from tests.models import Note, Point
from tests.support import wait_until

L1 = {"l1": MemPolicy(ttl=60)}
L2 = {"l2": RedisPolicy(ttl=600, search_expiry=SearchExpiry.ON_WRITE)}
L3 = {"l3": PostgresPolicy()}
SHAPES: dict[str, dict[str, Any]] = {
    "L1": L1,
    "L2": L2,
    "L3": L3,
    "L1+L2": L1 | L2,
    "L1+L3": L1 | L3,
    "L2+L3": L2 | L3,
    "L1+L2+L3": L1 | L2 | L3,
}


def run(store: DataStore, shape: str, mode: WriteMode = WriteMode.WRITE_THROUGH) -> None:
    """Every part of the battery, on a fresh schema of this shape."""
    tiers = SHAPES[shape]
    notes = store.register(Schema(Note, name="notes", write_mode=mode, **tiers))
    brief = {name: dataclasses.replace(policy, ttl=0.2) for name, policy in tiers.items() if name != "l3"}
    points = store.register(Schema(Point, name="points", **brief, **{k: v for k, v in tiers.items() if k == "l3"}))
    if "l3" in tiers:
        store.migrate()
    _one(notes, below=shape != "L1")
    _many(notes)
    _invalidation(store, notes)
    _transactions(store, notes, mode)
    if "l3" in tiers:
        _queries(store, notes)
    _expiry(store, points, "l3" in tiers)


def _expiry(store: DataStore, points: Collection[Point], below: bool) -> None:
    points.set("p", Point("p", 1))
    assert points.get("p").x == 1
    if below:
        before = store.stats().l3_hits
        wait_until(lambda: points.get("p").x == 1 and store.stats().l3_hits > before, what="the expiry")
    else:
        wait_until(lambda: points.get("p", default=None) is None, what="the expiry")


def _one(notes: Collection[Note], below: bool) -> None:
    for turn in range(3):
        for n in range(30):
            note = Note(n, f"turn {turn}", ["a"], {"n": n})
            assert notes.set(n, note) == note
            assert notes.get(n) == note
            assert not below or notes.get(n, force_l2=True) == note
            assert notes.exists(n)
    for n in range(30):
        notes.delete(n)
        assert notes.get(n, default=None) is None
        assert not notes.exists(n)
    with pytest.raises(strata.NotFoundError):
        notes.get(1)


def _many(notes: Collection[Note]) -> None:
    given = {n: Note(n, f"note {n}") for n in range(100, 400)}
    assert notes.set_many(given) == given
    assert notes.get_many(range(90, 410)) == given
    notes.delete_many(range(100, 250))
    assert notes.get_many(range(100, 400)).keys() == set(range(250, 400))
    notes.delete_many(range(250, 400))
    assert notes.get_many(range(100, 400)) == {}


def _invalidation(store: DataStore, notes: Collection[Note]) -> None:
    notes.set(1, Note(1, "kept below"))
    store.flush_dirty()
    notes.invalidate(1)
    assert notes.get(1).text == "kept below"  # the lowest tier is never emptied


def _transactions(store: DataStore, notes: Collection[Note], mode: WriteMode) -> None:
    notes.set(2, Note(2, "old"))
    store.flush_dirty()
    with store.tx() as tx:
        tx.set(notes.name, 1, Note(1, "in tx"))
        tx.delete(notes.name, 2)
        tx.set(notes.name, 3, Note(3, "in tx too"))
    assert (notes.get(1).text, notes.get(2, default=None), notes.get(3).text) == ("in tx", None, "in tx too")
    store.flush_dirty()
    assert (notes.get(1).text, notes.get(2, default=None), notes.get(3).text) == ("in tx", None, "in tx too")


def _queries(store: DataStore, notes: Collection[Note]) -> None:
    notes.set_many({n: Note(n, "found") for n in range(500, 520)})
    query = Q().where("text = $1 AND id >= $2", "found", 510).order_by("id")
    assert [note.id for note in notes.search(query)] == list(range(510, 520))
    assert [note.id for note in notes.search_cached(query)] == list(range(510, 520))
    assert [note.id for note in notes.search_cached(query)] == list(range(510, 520))
    page = notes.search_page(query.limit(6))
    assert [note.id for note in page.records] == list(range(510, 516))
    assert [note.id for note in notes.search_page(query.limit(6), after=page.next).records] == list(range(516, 520))
    assert notes.count(query) == 10
    notes.set_many({n: Note(n, "lost" if n == 512 else "found") for n in range(510, 520)})
    assert 512 not in [note.id for note in notes.search_cached(query)]
    assert store.warm_cache(notes.name) >= 20
    assert notes.get(515).text == "found"
