"""The ledger's entries, and the pace of retries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata.errors import DecodeError
from strata.protocol.entry import Entry, EntryOp, decode
from strata.writebehind.ledger.timing import Timing

entries = st.builds(
    Entry,
    st.integers(0, 2**63 - 1),
    st.sampled_from(EntryOp),
    st.integers(0, 10**13 - 1),
    st.text("0123456789abcdef", min_size=1, max_size=32),
    st.binary(max_size=50),
)


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


def test_pauses_double_up_to_their_longest() -> None:
    timing = Timing()
    assert 0.4 <= timing.after_outage(1) <= 0.6
    assert 0.8 <= timing.after_outage(2) <= 1.2
    assert 9.6 <= timing.after_outage(1_000_000) <= 14.4
