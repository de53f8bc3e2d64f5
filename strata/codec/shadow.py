"""A model's bytes by way of a shadow Struct, whose fields are the columns that L2 keeps.

So `__post_init__` does not run, UNLOADED fields are left out, and of the fields only those that L2 never keeps come
back as UNLOADED: where another is missing, the bytes are another version's, and the entry is a miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from strata.errors import DecodeError, EncodeError
from strata.model.columns import Column
from strata.model.compile import Function, Source, Step
from strata.model.fields import Kind
from strata.model.jsonb import UNREADABLE, said
from strata.model.markers import UNLOADED
from strata.model.plan import ModelPlan
from strata.model.shapes import shadow_of

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]

_NON_FINITE = Literal["NaN", "Infinity", "-Infinity"]


def _spelled(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


_SPELL = Step("({v} if {v} - {v} == 0 else {f}({v}))", _spelled)
_UNSPELL = Step("({v} if type({v}) is float else {f}({v}))", float)


@dataclass(frozen=True, slots=True)
class Format:
    """One of msgspec's formats. `finite`: its floats have no infinities and no NaN, which are spelled as texts."""

    name: str
    dump: Callable[[Any], bytes]
    decoder: Callable[[Any], Any]
    finite: bool


def codec_functions(plan: ModelPlan[Any], form: Format) -> tuple[Encode, Decode]:
    """`encode` and `decode` of one model. They raise `EncodeError` and `DecodeError`, which hold no value."""
    kept = [column for column in plan.forms if not column.field.omit_cache]
    shadow = shadow_of(plan.model.__name__, {column.field.name: _wire(column, form) for column in kept})
    down, up = _down(kept, form, shadow), _up(plan, kept, form)
    dump, load = form.dump, form.decoder(shadow).decode
    name = plan.model.__name__

    def encode(record: Any) -> bytes:
        try:
            plain = down(record)
            try:
                return dump(plain)
            except TypeError:  # msgspec does not know UNLOADED
                values = (msgspec.UNSET if v is UNLOADED else v for v in msgspec.structs.astuple(plain))
                return dump(shadow(*values))
        except UNREADABLE as error:
            raise EncodeError(
                f"a {name} cannot be encoded as {form.name} ({type(error).__name__}); its values must fit its fields"
            ) from None

    def decode(data: bytes) -> Any:
        try:
            return up(load(data))
        except UNREADABLE as error:
            raise DecodeError(f"bytes cannot be read as {form.name} of a {name}{said(error)}") from None

    return encode, decode


def _steps(column: Column, form: Format) -> tuple[Step | None, Step | None]:
    if form.finite and column.field.kind is Kind.DOUBLE:
        return _SPELL, _UNSPELL
    return column.form.down, column.form.up


def _wire(column: Column, form: Format) -> Any:
    wire = column.form.wire
    if form.finite and column.field.kind is Kind.DOUBLE:
        wire = wire | _NON_FINITE
    return wire | None if column.field.nullable or column.field.stamped else wire


def _down(columns: Sequence[Column], form: Format, shadow: Any) -> Function:
    source = Source("to_shadow", "record")
    values = []
    for column in columns:
        name = column.field.name
        source.line(f"v_{name} = record.{name}")
        values.append(source.apply(_steps(column, form)[0], f"v_{name}"))
    source.line(f"return {source.bind(shadow)}({', '.join(values)})")
    return source.function()


def _up(plan: ModelPlan[Any], columns: Sequence[Column], form: Format) -> Function:
    source = Source("from_shadow", "shadow")
    values = dict.fromkeys(plan.column_names, "U")
    for place, column in enumerate(columns):
        step = _steps(column, form)[1]
        values[column.field.name] = f"shadow.f{place}"
        if step is not None:
            source.line(f"v{place} = shadow.f{place}")
            values[column.field.name] = source.apply(step, f"v{place}")
    return plan.compiler.make(source, values)
