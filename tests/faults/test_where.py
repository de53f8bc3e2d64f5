"""Rows by a query, and a fault between commit and telling: nobody reads what is stale, and the caches recover."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from strata import DataStore, L2PoolConfig, L3PoolConfig, L3UnavailableError, Q, WriteMode
from strata.engine import where
from strata.l3.pool import Transaction
from strata.testing import Proxy, inspect
from tests import forked
from tests.behind import hand_off, idle, paced, rows
from tests.fleet import ROOT, environment
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

pytestmark = pytest.mark.faults

IMPATIENT = L3PoolConfig(statement_timeout=1.0, lock_timeout=1.0, connect_timeout=2.0)
QUICK = L2PoolConfig(dial_timeout=0.5, read_timeout=0.5, write_timeout=0.5)
MODES: dict[str, dict[str, Any]] = {
    "through": {},
    "through, no L2": {"l2": None},
    "through, no L1": {"l1": None},
    "behind": {"write_mode": WriteMode.WRITE_BEHIND},
    "behind, no L2": {"write_mode": WriteMode.WRITE_BEHIND, "l2": None},
}
CALLS: dict[str, Callable[[DataStore], int]] = {
    "update_where": lambda store: store.update_where("notes", Q().where("id < 3"), text="new"),
    "delete_where": lambda store: store.delete_where("notes", Q().where("id < 3")),
}
AFTER: dict[str, list[str | None]] = {"update_where": ["new", "new", "old"], "delete_where": [None, None, "old"]}


def opened(store: DataStore, options: dict[str, Any]) -> DataStore:
    store.register(schema(Note, name="notes", **options))
    store.migrate()
    sure(store)
    return store


@pytest.fixture(params=MODES)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODES[request.param]


def texts(store: DataStore, **force: bool) -> list[str | None]:
    found = (store.get("notes", id, default=None, **force) for id in (1, 2, 3))
    return [None if note is None else note.text for note in found]


def texts_if_any(store: DataStore) -> list[str | None] | None:
    """As `texts`; None while the breaker of PostgreSQL is open."""
    try:
        return texts(store)
    except L3UnavailableError:
        return None


def filled(*stores: DataStore) -> None:
    """Everybody has the three notes in its caches."""
    stores[0].set_many("notes", {id: Note(id, "old") for id in (1, 2, 3)})
    for store in stores:
        assert texts(store) == ["old"] * 3


def cached(store: DataStore) -> bool:
    """Whether the first note is in a cache, after a call that may have brought it there."""
    store.get("notes", 1, default=None)
    before = store.stats()
    store.get("notes", 1, default=None)
    after = store.stats()
    return after.l1_hits + after.l2_hits > before.l1_hits + before.l2_hits


KILLED = """
import os, sys
from strata import Config, DataStore
from strata.engine import where
from tests.faults.test_where import CALLS, MODES, opened

store = opened(DataStore(Config.from_env()), MODES[sys.argv[1]])
put, left = where._Step._put, int(sys.argv[3])

def killed(step, part, began):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), 9)
    put(step, part, began)

where._Step._put = killed
where.STEP = 2 if left == 1 else 1
CALLS[sys.argv[2]](store)
"""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("mode", MODES)
def test_a_process_that_is_killed_between_commit_and_telling_leaves_nothing_stale(
    make: MakeStore, dsn: str, redis_addr: str, mode: str, call: str
) -> None:
    readers = [opened(make(), MODES[mode]) for _ in range(2)]
    filled(*readers)
    script = [sys.executable, "-c", KILLED, mode, call, "1"]
    ended = forked.run(script, env=environment(dsn, redis_addr), cwd=ROOT, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    for reader in readers:
        assert texts(reader) == texts(reader, force_l2=True) == texts(reader, force_l3=True) == AFTER[call]


def test_of_the_steps_of_a_process_that_is_killed_each_was_made_or_not_and_the_call_goes_on_from_there(
    make: MakeStore, dsn: str, redis_addr: str
) -> None:
    reader = opened(make(), {})
    filled(reader)
    script = [sys.executable, "-c", KILLED, "through", "delete_where", "2"]
    assert forked.run(script, env=environment(dsn, redis_addr), cwd=ROOT, timeout=60).returncode == -signal.SIGKILL
    assert texts(reader) == texts(reader, force_l2=True) == [None, None, "old"]
    assert reader.delete_where("notes", Q()) == 1


@pytest.mark.parametrize("call", CALLS)
def test_a_redis_that_is_cut_off_between_commit_and_telling_is_told_when_it_is_back(
    make: MakeStore, dsn: str, redis_addr: str, options: dict[str, Any], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(redis_addr) as link:
        pools = {
            "l2_pool": QUICK,
            "l3_pool": IMPATIENT,
        }  # the intents that are left stand for as long as a commit may take
        writer, reader = (opened(make(redis_addr=addr, **pools), options) for addr in (link.addr, redis_addr))
        filled(writer, reader)
        put = where._Step._put

        def cut(step: Any, part: Any, began: float) -> None:
            link.refuse()
            put(step, part, began)

        monkeypatch.setattr(where._Step, "_put", cut)
        assert CALLS[call](writer) == 2
        wait_until(lambda: texts(reader) == AFTER[call])  # which has heard, if not of the commit, of what announced it
        for store in (reader, writer):
            assert texts(store) == texts(store, force_l2=True) == AFTER[call]
        link.resume()
        wait_until(lambda: rows(dsn, "SELECT count(*) FROM _strata_repairs") == [(0,)])
        wait_until(lambda: call == "delete_where" or (cached(writer) and cached(reader)))
        for store in (reader, writer):
            assert texts(store) == texts(store, force_l2=True) == AFTER[call]


@pytest.mark.parametrize("call", CALLS)
def test_what_is_written_while_redis_is_away_is_repaired_by_whoever_reaches_it(
    make: MakeStore, dsn: str, redis_addr: str, options: dict[str, Any], call: str
) -> None:
    with Proxy(redis_addr) as link:
        writer, reader = (opened(make(redis_addr=addr, l2_pool=QUICK), options) for addr in (link.addr, redis_addr))
        filled(writer, reader)
        link.refuse()
        assert CALLS[call](writer) == 2
        assert texts(writer) == AFTER[call]
        wait_until(lambda: texts(reader) == texts(reader, force_l2=True) == AFTER[call])
        link.resume()
        wait_until(lambda: rows(dsn, "SELECT count(*) FROM _strata_repairs") == [(0,)])
        assert texts(writer) == texts(reader) == AFTER[call]


@pytest.mark.parametrize("call", CALLS)
def test_a_commit_of_which_nobody_knows_whether_it_happened_is_read_by_everybody_once_it_did(
    make: MakeStore, dsn: str, options: dict[str, Any], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        through_link = make_conninfo(dsn, host="127.0.0.1", port=link.port)
        writer, reader = opened(make(postgres_dsn=through_link, l3_pool=IMPATIENT), options), opened(make(), options)
        filled(writer, reader)
        commit = Transaction._commit

        def late(transaction: Transaction) -> None:
            link.stall()
            commit(transaction)

        monkeypatch.setattr(Transaction, "_commit", late)
        with pytest.raises(L3UnavailableError) as caught:
            CALLS[call](writer)
        assert caught.value.outcome_unknown
        monkeypatch.setattr(Transaction, "_commit", commit)
        link.resume()
        wait_until(lambda: texts(reader) == texts(reader, force_l3=True) == AFTER[call] == texts_if_any(writer))
        wait_until(lambda: not inspect(writer).unfinished)
        assert texts(reader, force_l2=True) == AFTER[call]


@pytest.mark.parametrize("call", CALLS)
def test_without_postgres_nothing_is_written_and_what_is_pending_stays(make: MakeStore, dsn: str, call: str) -> None:
    place = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        through_link = make_conninfo(dsn, host="127.0.0.1", port=link.port)
        store = make(postgres_dsn=through_link, l3_pool=IMPATIENT)
        paced(store)
        opened(store, MODES["behind"])
        filled(store)
        idle(store)
        store.set("notes", 1, Note(1, "pending"))
        hand_off(store)
        link.refuse()
        with pytest.raises(L3UnavailableError):
            CALLS[call](store)
        assert store.get("notes", 1).text == "pending"
        link.resume()
        store.flush_dirty()
        assert texts(store, force_l3=True) == ["pending", "old", "old"]


def test_writers_of_the_same_rows_and_of_single_ones_end_as_if_one_had_come_after_the_other(make: MakeStore) -> None:
    stores = [opened(make(), {}) for _ in range(2)]
    filled(*stores)
    jobs: list[Callable[[], Any]] = []
    for name, store in zip("ab", stores, strict=True):
        jobs += [
            partial(store.update_where, "notes", Q(), text=name),
            partial(store.update_where, "notes", Q().order_by("id").desc().limit(3), text=name),
            partial(store.set, "notes", 2, Note(2, name)),
            partial(store.delete_where, "notes", Q().where("id = 1")),
            partial(store.set, "notes", 1, Note(1, name)),
        ]
    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(job) for _ in range(10) for job in jobs]:
            job.result()
    for store in stores:
        assert texts(store) == texts(store, force_l2=True) == texts(store, force_l3=True)
