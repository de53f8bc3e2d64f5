"""Columns that a write does not carry are not its to decide: what another write put there stays, whatever the order."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import strata
from strata import UNLOADED, DataStore
from strata.protocol.versions import NODE_BITS
from strata.testing import Proxy, inspect
from tests.behind import comes_after, deferred, hand_off, idle, paced, persist, rows, run
from tests.models import Account
from tests.stores import MakeStore
from tests.support import wait_until

SLOW = {"write_behind_flush_interval": 3600.0, "write_behind_flush_threshold": 10**9}


def two(make: MakeStore, **options: Any) -> tuple[DataStore, DataStore]:
    """Two instances of which nothing moves by itself; the first has written the record, and L3 has it."""
    made = []
    for _ in range(2):
        store = make(encryption_key=bytes(range(32)), **SLOW, **options)
        paced(store)
        store.register(deferred(Account))
        store.migrate()
        idle(store)
        made.append(store)
    made[0].set(Account, "a", Account("a", "first", "first", "first", None))
    made[0].flush_dirty(10)
    comes_after(made[1], made[0])
    return made[0], made[1]


def whole(text: str) -> Account:
    return Account("a", text, text, text, None)


def part(**values: Any) -> Account:
    """A record that was loaded in part."""
    made = Account("a", values.get("name", UNLOADED))
    for name in ("secret", "biography", "token"):
        setattr(made, name, values.get(name, UNLOADED))
    return made


def held(dsn: str) -> tuple[str, str, str]:
    found: tuple[str, str, str] = rows(dsn, "SELECT name, secret, biography FROM account")[0]
    return found


@pytest.mark.parametrize("how", ["set_many", "tx"])
def test_a_synchronous_partial_write_keeps_what_another_process_has_pending(
    make: MakeStore, dsn: str, how: str
) -> None:
    one, other = two(make)
    one.set(Account, "a", whole("pending"))
    hand_off(one)
    comes_after(other, one)
    if how == "tx":
        with other.tx() as tx:
            tx.set(Account, "a", part(name="newer"))
    else:
        stored = other.set_many(Account, {"a": part(name="newer")})
        assert (stored["a"].name, stored["a"].biography) == ("newer", "pending")
    persist(other, "account")
    assert held(dsn) == ("newer", "pending", "pending")
    one.flush_dirty(10)
    for store in (one, other):
        found = store.get(Account, "a", force_l2=True)  # L1 does not keep the biography
        assert (found.name, found.biography) == ("newer", "pending")
    assert held(dsn) == ("newer", "pending", "pending")


def test_a_synchronous_partial_write_keeps_what_its_own_process_has_not_handed_off(make: MakeStore, dsn: str) -> None:
    _, store = two(make)
    store.set(Account, "a", whole("pending"))
    store.set_many(Account, {"a": part(name="newer")})
    assert held(dsn) == ("newer", "pending", "pending")
    store.flush_dirty(10)
    assert held(dsn) == ("newer", "pending", "pending")
    assert store.stats().dirty_count == 0


def test_a_synchronous_partial_write_is_laid_over_a_pending_partial_one(make: MakeStore, dsn: str) -> None:
    one, other = two(make)
    one.set(Account, "a", part(biography="pending"))
    hand_off(one)
    comes_after(other, one)
    other.set_many(Account, {"a": part(name="newer")})
    assert held(dsn) == ("newer", "first", "pending")
    one.flush_dirty(10)
    assert held(dsn) == ("newer", "first", "pending")


def test_a_synchronous_partial_write_over_a_pending_deletion_fails_and_the_deletion_stays(
    make: MakeStore, dsn: str
) -> None:
    one, other = two(make)
    one.delete(Account, "a")
    hand_off(one)
    comes_after(other, one)
    with pytest.raises(strata.EncodeError):
        other.set_many(Account, {"a": part(name="newer")})
    one.flush_dirty(10)
    assert rows(dsn, "SELECT * FROM account") == []


def test_what_is_pending_but_older_than_the_row_does_not_come_back_under_a_partial_write(
    make: MakeStore, dsn: str
) -> None:
    one, other = two(make)
    one.set(Account, "a", whole("pending"))
    comes_after(other, one)
    other.set_many(Account, {"a": whole("newer")})
    one.set_many(Account, {"a": part(name="newest")})
    one.flush_dirty(10)
    assert held(dsn) == ("newest", "newer", "newer")


# -- older writes that come late ------------------------------------------------------------------------------------


@pytest.mark.parametrize("synchronous", [True, False], ids=["synchronous", "deferred"])
@pytest.mark.parametrize("route", ["ledger", "direct"])
def test_an_older_whole_write_gives_the_columns_that_a_newer_partial_one_did_not_carry(
    make: MakeStore, dsn: str, synchronous: bool, route: str
) -> None:
    one, other = two(make)
    one.set(Account, "a", whole("older"))
    comes_after(other, one)
    if synchronous:
        other.set_many(Account, {"a": part(name="newer")})
    else:
        other.set(Account, "a", part(name="newer"))
        other.flush_dirty(10)
    assert held(dsn) == ("newer", "first", "first")
    if route == "ledger":
        slot = inspect(one).buffer.slot("account", "a")
        assert slot is not None
        slot.superseded = 0
        hand_off(one)
        persist(other, "account")
    one.flush_dirty(10)
    assert held(dsn) == ("newer", "older", "older")
    agrees(one, other, "newer", "older")


def test_an_older_partial_write_gives_what_newer_partial_ones_did_not_carry(make: MakeStore, dsn: str) -> None:
    one, other = two(make)
    one.set(Account, "a", part(name="older", biography="older", secret="older"))
    comes_after(other, one)
    other.set_many(Account, {"a": part(name="newer")})
    other.set_many(Account, {"a": part(biography="newest")})
    one.flush_dirty(10)
    assert held(dsn) == ("newer", "older", "newest")
    agrees(one, other, "newer", "newest")


def test_of_several_late_writes_each_column_has_its_newest(make: MakeStore, dsn: str) -> None:
    one, other = two(make)
    third = make(encryption_key=bytes(range(32)), **SLOW)
    paced(third)
    third.register(deferred(Account))
    idle(third)
    one.set(Account, "a", whole("oldest"))
    comes_after(third, one)
    third.set(Account, "a", part(biography="middle"))
    comes_after(other, third)
    other.set_many(Account, {"a": part(name="newest")})
    third.flush_dirty(10)
    one.flush_dirty(10)
    assert held(dsn) == ("newest", "oldest", "middle")
    agrees(one, other, "newest", "middle")


@pytest.mark.parametrize("where", ["the ledger", "the row"])
def test_a_deletion_after_the_newest_wins_over_what_was_laid_under_that(make: MakeStore, dsn: str, where: str) -> None:
    """Even where its writer's clock is late: it has nothing but the newest version it knew to stamp by."""
    one, other = two(make)
    inspect(other).versions.observe(inspect(one).stamp() + (10_000_000 << NODE_BITS))
    one.set(Account, "a", part(name="older"))
    other.set(Account, "a", part(secret="newer"))
    hand_off(other)
    if where == "the row":
        persist(other, "account")
    other.delete(Account, "a")
    slot = inspect(one).buffer.slot("account", "a")
    assert slot is not None
    slot.superseded = 0  # it has not heard of the other
    hand_off(one)
    if where == "the row":
        persist(one, "account")
        assert held(dsn) == ("older", "newer", "first")
    other.flush_dirty(10)
    one.flush_dirty(10)
    assert rows(dsn, "SELECT * FROM account") == []


def test_a_late_write_is_nothing_once_the_row_was_written_whole(make: MakeStore, dsn: str) -> None:
    one, other = two(make)
    one.set(Account, "a", whole("older"))
    comes_after(other, one)
    other.set_many(Account, {"a": whole("whole")})
    other.set_many(Account, {"a": part(name="newer")})
    one.flush_dirty(10)
    assert held(dsn) == ("newer", "whole", "whole")
    other.delete(Account, "a")
    other.flush_dirty(10)
    assert rows(dsn, "SELECT * FROM account") == []


def test_a_late_write_replayed_changes_nothing(make: MakeStore, dsn: str) -> None:
    one, other = two(make)
    one.set(Account, "a", whole("older"))
    table, database = inspect(one).schemas["account"].rows.table, inspect(one).schemas["account"].rows.primary
    assert table is not None and database is not None
    behind = inspect(one).writebehind
    late = behind.beneath(inspect(one).schemas["account"], "a", "a", None)
    comes_after(other, one)
    other.set_many(Account, {"a": part(name="newer")})
    versions = []
    for _ in range(3):
        with database.transaction() as conn:
            versions.append(table.apply(conn, late)[0].version)
    assert len(set(versions)) == 1
    assert held(dsn) == ("newer", "older", "older")


def test_an_older_whole_write_is_merged_under_a_partial_one_that_is_pending(make: MakeStore, dsn: str) -> None:
    one, other = two(make)
    one.set(Account, "a", whole("older"))
    comes_after(other, one)
    other.set(Account, "a", part(name="newer"))
    hand_off(other)
    hand_off(one)
    agrees(one, other, "newer", "older")
    persist(other, "account")
    assert held(dsn) == ("newer", "older", "older")
    one.flush_dirty(10)
    other.flush_dirty(10)
    agrees(one, other, "newer", "older")
    assert held(dsn) == ("newer", "older", "older")


def agrees(one: DataStore, other: DataStore, name: str, biography: str) -> None:
    """Both instances come to read this from the shared tiers, and the one that L1 holds as well from there."""
    for store in (one, other):
        wait_until(
            lambda store=store: (  # type: ignore[misc]
                (found := store.get(Account, "a", force_l2=True)).name == name and found.biography == biography
            )
        )
        wait_until(lambda store=store: store.get(Account, "a").name == name)  # type: ignore[misc]


def test_a_partial_write_over_an_own_deletion_is_given_up_and_the_deletion_stays(make: MakeStore, dsn: str) -> None:
    store, _ = two(make)
    store.delete(Account, "a")
    store.set(Account, "a", part(name="late"))
    assert store.get(Account, "a", default=None) is None
    assert [letter.op for letter in store.dead_letters.list()] == ["partial"]
    store.flush_dirty(10)
    assert rows(dsn, "SELECT * FROM account") == []


def test_a_dead_letter_outlives_a_newer_write_of_other_columns(make: MakeStore, dsn: str) -> None:
    store, other = two(make)
    run(dsn, "ALTER TABLE account ADD CONSTRAINT good CHECK (name <> 'refused')")
    store.set(Account, "a", part(name="refused", biography="given up"))
    store.flush_dirty(30)
    assert len(store.dead_letters.list()) == 1
    other.set_many(Account, {"a": part(secret="synchronous")})
    comes_after(other, store)
    other.set(Account, "a", part(secret="deferred"))
    other.flush_dirty(10)
    [letter] = store.dead_letters.list()
    run(dsn, "ALTER TABLE account DROP CONSTRAINT good")
    store.dead_letters.retry(letter.id)
    store.flush_dirty(10)
    assert held(dsn) == ("refused", "deferred", "given up")


def overtaken(store: DataStore) -> bool:
    slot = inspect(store).buffer.slot("account", "a")
    return slot is not None and slot.overtaken


def test_a_partial_write_that_was_overtaken_by_one_of_another_column_is_read_by_its_process(make: MakeStore) -> None:
    one, other = two(make)
    one.set(Account, "a", part(name="own"))
    comes_after(other, one)
    other.set_many(Account, {"a": part(biography="other")})
    wait_until(lambda: overtaken(one))
    for found in (one.get(Account, "a"), one.get_many(Account, ["a"])["a"]):
        assert found.name == "own"


def test_without_l3_a_synchronous_partial_write_is_read_and_not_the_deferred_one_before_it(
    make: MakeStore, dsn: str
) -> None:
    place = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        store, _ = two(make, postgres_dsn=make_conninfo(dsn, host="127.0.0.1", port=link.port))
        store.set(Account, "a", part(name="deferred"))
        store.set_many(Account, {"a": part(name="newer")})
        link.refuse()
        assert store.get(Account, "a", force_l2=True).name == "newer"
        assert store.stats().dirty_count == 0


def test_a_partial_write_leaves_the_overtaken_one_before_it_what_that_gave(make: MakeStore, dsn: str) -> None:
    one, other = two(make)
    one.set(Account, "a", part(name="own"))
    comes_after(other, one)
    other.set_many(Account, {"a": part(secret="other")})
    wait_until(lambda: overtaken(one))
    one.set(Account, "a", part(biography="own, later"))
    one.flush_dirty(10)
    assert held(dsn) == ("own", "other", "own, later")


def test_a_write_that_was_deleted_before_its_process_wrote_a_part_of_it_is_not_read_any_more(make: MakeStore) -> None:
    one, other = two(make)
    one.set(Account, "a", whole("deleted"))
    comes_after(other, one)
    other.delete(Account, "a")
    comes_after(one, other)
    one.set(Account, "a", part(name="late"))
    other.flush_dirty(10)
    wait_until(lambda: one.get(Account, "a", default=None) is None, what="the deletion")
    assert not one.exists(Account, "a") and one.get_many(Account, ["a"]) == {}
