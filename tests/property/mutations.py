"""Bytes that are nearly right, and bytes that are not: what a decoder may be given."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

# What has once harmed a decoder of somebody's: numbers that are none, depth, and texts that are no text.
PIECES = (
    b"\xc2\xb2", b"9" * 5000, b"-", b"1e999", b"NaN", b"[" * 3000, b'{"a":' * 3000, b"\x00", b"\xff\xfe", b"\\ud800",
    b'"', b"null", b"true", b"1_0", b" ", b"\n", b"\xc1", b"\xdf\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff",
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with some of its bytes flipped, cut, doubled, or replaced by something of the above."""
    data = bytearray(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data), 1))) % (len(data) + 1)
        end = min(len(data), at + draw(st.integers(0, 12)))
        data[at:end] = draw(
            st.one_of(st.binary(max_size=6), st.sampled_from(PIECES), st.just(bytes(data[at:end]) * 2), st.just(b""))
        )
    return bytes(data)


def hostile(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, and mutations of the seeds."""
    return st.one_of(st.binary(max_size=200), mutated(seeds))
