"""Bytes gone wrong: random ones, and good ones that were damaged."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

Damage = Callable[[bytes], bytes]


def cut(data: bytes, at: int) -> bytes:
    return data[: at % (len(data) + 1)]


def flip(data: bytes, bits: list[int]) -> bytes:
    damaged = bytearray(data)
    for bit in bits if data else []:
        damaged[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(damaged)


def zero(data: bytes, at: int, more: int) -> bytes:
    """What has its length, but its end was never written; or it grew, and that is all."""
    at %= len(data) + 1
    return data[:at] + bytes(len(data) - at + more)


def other(data: bytes, at: int, rest: bytes) -> bytes:
    return data[: at % (len(data) + 1)] + rest


_numbers = st.integers(0, 1 << 20)
damages: st.SearchStrategy[Damage] = st.one_of(
    _numbers.map(lambda at: lambda data: cut(data, at)),
    st.lists(_numbers, min_size=1, max_size=8).map(lambda bits: lambda data: flip(data, bits)),
    st.tuples(_numbers, st.integers(0, 5000)).map(lambda given: lambda data: zero(data, *given)),
    st.tuples(_numbers, st.binary(max_size=64)).map(lambda given: lambda data: other(data, *given)),
)


def garbage(*good: bytes) -> st.SearchStrategy[bytes]:
    """Anything at all, and what is left of good bytes."""
    deep = st.sampled_from([b"\x91", b"\x81\xa1n", b"[", b'{"a":']).map(lambda level: level * 100_000)
    return st.binary(max_size=200) | deep | st.builds(lambda one, damage: damage(one), st.sampled_from(good), damages)
