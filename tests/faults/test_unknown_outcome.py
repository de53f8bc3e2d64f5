"""Commits of which the writer is not told whether they happened: others read what they brought all the same."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from strata import DataStore, L3PoolConfig, L3UnavailableError
from strata.l3.pool import Transaction
from strata.testing import Proxy, inspect
from tests.models import Note
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

pytestmark = pytest.mark.faults

IMPATIENT = L3PoolConfig(statement_timeout=1.0, lock_timeout=1.0, connect_timeout=2.0)


def cached(store: DataStore) -> bool:
    """Whether the record is in a cache, after a call that may have brought it there."""
    store.get(Note, 1)
    before = store.stats()
    store.get(Note, 1)
    after = store.stats()
    return after.l1_hits + after.l2_hits > before.l1_hits + before.l2_hits


@pytest.mark.parametrize("tiers", [{}, {"l2": None}, {"l1": None}], ids=["all tiers", "without L2", "without L1"])
@pytest.mark.parametrize("several", [False, True], ids=["a statement", "a transaction"])
def test_a_commit_that_happens_long_after_its_writer_gave_it_up_is_read_by_everybody(
    make: MakeStore, dsn: str, tiers: dict[str, Any], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        through_link = make_conninfo(dsn, host="127.0.0.1", port=link.port)
        writer, reader = make(postgres_dsn=through_link, l3_pool=IMPATIENT), make()
        for store in (reader, writer):
            store.register(schema(Note, name="notes", **tiers))
            store.migrate()
            sure(store)
        writer.set(Note, 1, Note(1, "old"))
        commit = Transaction._commit

        def late(transaction: Transaction) -> None:
            link.stall()
            commit(transaction)

        monkeypatch.setattr(Transaction, "_commit", late)
        if not several:
            link.stall()
        with pytest.raises(L3UnavailableError) as caught:
            writer.set_many(Note, {id: Note(id, "new") for id in ((1, 2) if several else (1,))})
        assert caught.value.outcome_unknown
        wait_until(lambda: cached(reader), what="the old value in the caches again")
        assert reader.get(Note, 1) == Note(1, "old")
        link.resume()
        with psycopg.connect(dsn, autocommit=True) as conn:
            wait_until(
                lambda: conn.execute("SELECT text FROM notes WHERE id = 1").fetchone() == ("new",),
                what="the late commit",
            )
        wait_until(lambda: reader.get(Note, 1) == Note(1, "new") == writer.get(Note, 1))
        wait_until(lambda: not inspect(writer).unfinished)
