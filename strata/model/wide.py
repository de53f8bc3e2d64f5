"""Whole numbers beyond 64 bits, which JSON and JSONB have and MessagePack has not: there they are an extension."""

from __future__ import annotations

from typing import Any

import msgspec

_CODE = 1  # of the extension; its data are the digits
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1


def widened(value: Any) -> Any:
    """A value with such numbers in a form that MessagePack takes."""
    if type(value) is int and not _LEAST <= value <= _MOST:
        return msgspec.msgpack.Ext(_CODE, str(value).encode())
    if isinstance(value, dict):
        return {key: widened(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)([widened(item) for item in value])
    if isinstance(value, msgspec.Struct):
        return type(value)(*map(widened, msgspec.structs.astuple(value)))
    return value


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder of MessagePack that takes them back where the type says nothing of a number."""
    return msgspec.msgpack.Decoder(kind, ext_hook=_number)


def _number(code: int, data: memoryview) -> int:
    if code != _CODE:
        raise ValueError("an unknown extension")
    return int(bytes(data))
