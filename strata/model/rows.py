"""Rows as bytes: the payload of ledger and journal, plain data with a format number first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from strata.errors import DecodeError
from strata.model.columns import Column
from strata.model.compile import Source
from strata.model.jsonb import UNREADABLE, said
from strata.model.shapes import shadow_of
from strata.model.unloaded import UNLOADED

ROW_FORMAT = 1  # a reader that meets another leaves the row to a newer process
UNSET: Any = msgspec.UNSET

PackRow = Callable[..., bytes]
UnpackRow = Callable[[bytes], tuple[tuple[str, ...], tuple[Any, ...]]]


class UnknownColumnError(DecodeError):
    """A row has a column, or a format, that this process does not know: a newer one wrote it."""


def row_functions(model: str, columns: Sequence[Column]) -> tuple[PackRow, UnpackRow]:
    """`pack_row` and `unpack_row`: a MessagePack array of the format and a map from column names to values.

    UNLOADED columns are left out. Times come back in UTC.
    """
    names = tuple(column.field.name for column in columns)
    places = {name: place for place, name in enumerate(names)}
    shadow = shadow_of(
        "Row",
        {column.field.name: column.form.packed | None | msgspec.UnsetType for column in columns},
        default=UNSET,
        forbid_unknown_fields=True,
    )
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(tuple[Literal[ROW_FORMAT], shadow]).decode  # type: ignore[valid-type]
    whole = _whole(len(columns))

    def pack_row(values: Sequence[Any], only: Sequence[str] | None = None) -> bytes:
        if only is None:
            try:
                return encode((ROW_FORMAT, shadow(*values)))
            except TypeError:
                pass  # msgspec does not know UNLOADED
            only = names
        spread = [UNSET] * len(names)
        for name, value in zip(only, values, strict=True):
            if value is not UNLOADED:
                spread[places[name]] = value
        return encode((ROW_FORMAT, shadow(*spread)))

    def unpack_row(data: bytes) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        try:
            row = decode(data)[1]
        except UNREADABLE as error:
            raise _explained(error, data, model, places) from None
        values = msgspec.structs.astuple(row)
        if whole(row):
            return names, values
        present = [(name, value) for name, value in zip(names, values, strict=True) if value is not UNSET]
        return tuple(name for name, _ in present), tuple(value for _, value in present)

    return pack_row, unpack_row


def _whole(columns: int) -> Callable[[Any], bool]:
    source = Source("whole", "row")
    unset = source.bind(UNSET)
    source.line(f"return {' and '.join(f'row.f{place} is not {unset}' for place in range(columns))}")
    return source.function()


def _explained(error: Exception, data: bytes, model: str, places: dict[str, int]) -> DecodeError:
    # The typed decoder says "no"; why is told by the plain one, which reads whatever is MessagePack.
    try:
        number, row = msgspec.msgpack.decode(data, type=tuple[int, dict[str, Any]])
    except UNREADABLE:
        return DecodeError(f"a packed row of {model} is damaged; it must be what pack_row made")
    if number != ROW_FORMAT:
        return UnknownColumnError(f"a packed row of {model} has format {number}; this version reads {ROW_FORMAT}")
    unknown = sorted(set(row) - set(places))
    if unknown:
        return UnknownColumnError(f"a packed row of {model} has a column {unknown[0][:63]!r}, which the model lacks")
    return DecodeError(f"a packed row of {model} does not fit its columns{said(error)}")
