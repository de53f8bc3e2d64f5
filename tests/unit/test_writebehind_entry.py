"""The ledger's entries, and the pace of retries."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strata
from strata import Config, DataStore
from strata.bound import Bound
from strata.errors import DecodeError
from strata.l3.values import Change
from strata.protocol.entry import IN_PARTS, Ages, Entry, EntryOp, decode
from strata.testing import inspect
from strata.writebehind.dirty import changes
from strata.writebehind.ledger.timing import Timing
from tests.stores import schema

versions = st.integers(0, 2**63 - 1)
columns = st.text("abcxyz_019", min_size=1, max_size=8)


def entries_of(ops: Collection[EntryOp], ages: st.SearchStrategy[Ages]) -> st.SearchStrategy[Entry]:
    since, origin = st.integers(0, 10**13 - 1), st.text("0123456789abcdef", min_size=1, max_size=32)
    return st.builds(Entry, versions, st.sampled_from(sorted(ops)), since, origin, st.binary(max_size=50), ages)


in_parts = entries_of(IN_PARTS, st.lists(st.tuples(columns, versions), max_size=4).map(tuple))
entries = in_parts | entries_of(set(EntryOp) - set(IN_PARTS), st.just(()))


@given(entries)
def test_what_is_encoded_is_decoded(entry: Entry) -> None:
    assert decode(entry.encode()) == entry


@given(entries)
def test_the_version_stands_where_lua_looks_for_it(entry: Entry) -> None:
    assert entry.encode()[3:22] == b"%019d" % entry.version


@pytest.mark.parametrize("raw", [b"", b"E2:0000000000000000001:s:0000000000000:a:", b"E1:x", b"junk" * 20])
def test_what_a_newer_process_wrote_is_not_guessed_at(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(raw)


@pytest.mark.parametrize(
    "ages", [b"", b"x", b"x=1:", b"x=%019d,:" % 1, b"x=%019d" % 1, b"=%019d:" % 1, b"X=%019d:" % 1]
)
def test_ages_that_are_damaged_make_no_entry(ages: bytes) -> None:
    with pytest.raises(DecodeError, match="versions of its columns"):
        decode(b"E1:%019d:p:%013d:a:" % (1, 1) + ages)


@dataclass
class Wide:
    """With columns that are written apart."""

    id: Annotated[int, strata.PrimaryKey]
    a: str = ""
    b: str = ""
    c: str = ""


def bound() -> Bound:
    store = DataStore(Config())
    store.register(schema(Wide, name="wide"))
    return inspect(store).schemas["wide"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_change_is_the_writes_of_which_it_was_made_each_at_its_own_version(whole: bool) -> None:
    names = None if whole else ("id", "a", "b", "c")
    change = Change(1, "1", 9, False, names, (1, "a", "b", "c"), (("a", 3), ("c", 5)))
    first, *later = changes.in_order(bound(), change)
    assert (first.version, first.names) == (3, None if whole else ("id", "a"))
    assert [(each.version, each.names, each.values) for each in later] == [
        (5, ("id", "c"), (1, "c")),
        (9, ("id", "b"), (1, "b")),
    ]


def test_a_change_whose_columns_are_all_older_ends_at_its_own_version() -> None:
    change = Change(1, "1", 9, False, ("id", "a"), (1, "a"), (("a", 3),))
    assert [(each.version, each.names) for each in changes.in_order(bound(), change)] == [
        (3, ("id", "a")),
        (9, ("id",)),
    ]


def test_pauses_double_up_to_their_longest() -> None:
    timing = Timing()
    assert 0.4 <= timing.after_outage(1) <= 0.6
    assert 0.8 <= timing.after_outage(2) <= 1.2
    assert 9.6 <= timing.after_outage(1_000_000) <= 14.4
