"""What one worker an hour does for all: `strata.fleet` under its leases in Redis."""

from __future__ import annotations

from datetime import timedelta

from tests.behind import deferred, rows
from tests.models import Note
from tests.stores import MakeStore


def test_tombstones_of_old_deletions_are_forgotten_by_one_worker_an_hour(make: MakeStore, dsn: str) -> None:
    one, other = make(), make()
    for store in (one, other):
        store.register(deferred(Note))
        store.migrate()
    for id in range(3):
        one.set(Note, id, Note(id, "gone"))
        one.delete(Note, id)
    one.flush_dirty(20)
    tombstones = "SELECT count(*) FROM _strata_tombstones"
    assert rows(dsn, tombstones) == [(3,)]
    assert one.fleet.forget_tombstones(timedelta(0)) == 3
    assert rows(dsn, tombstones) == [(0,)]
    assert rows(dsn, "SELECT count(*) FROM _strata_horizons WHERE version > 0") == [(1,)]
    one.set(Note, 1, Note(1, "again"))
    one.delete(Note, 1)
    one.flush_dirty(20)
    assert other.fleet.forget_tombstones(timedelta(0)) == 0
    assert rows(dsn, tombstones) == [(1,)]


def test_a_recent_deletion_is_remembered(make: MakeStore, dsn: str) -> None:
    store = make()
    store.register(deferred(Note))
    store.migrate()
    store.set(Note, 1, Note(1, "gone"))
    store.delete(Note, 1)
    store.flush_dirty(20)
    assert store.fleet.forget_tombstones() == 0
    assert rows(dsn, "SELECT count(*) FROM _strata_tombstones") == [(1,)]
