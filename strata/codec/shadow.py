"""A model's bytes by way of a shadow Struct, whose fields are the columns that L2 keeps.

So `__post_init__` does not run, UNLOADED fields are left out, and of the fields only those that L2 never keeps come
back as UNLOADED: where another is missing, the bytes are another version's, and the entry is a miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import msgspec

from strata.errors import DecodeError, EncodeError
from strata.model.columns import Column
from strata.model.compile import Source, Step
from strata.model.fields import Kind
from strata.model.jsonb import UNREADABLE, said
from strata.model.plan import ModelPlan
from strata.model.shapes import shadow_of
from strata.model.unloaded import UNLOADED
from strata.model.wide import widened

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
    return _encoder(plan.model, kept, form, shadow), _decoder(plan, kept, form, shadow)


def _steps(column: Column, form: Format) -> tuple[Step | None, Step | None]:
    if form.finite and column.field.kind is Kind.DOUBLE:
        return _SPELL, _UNSPELL
    return column.form.down, column.form.up


def _wire(column: Column, form: Format) -> Any:
    wire = column.form.wire
    if form.finite and column.field.kind is Kind.DOUBLE:
        wire = wire | _NON_FINITE
    return wire | None if column.field.nullable or column.field.stamped else wire


def _encoder(model: Any, columns: Sequence[Column], form: Format, shadow: Any) -> Encode:
    def retry(plain: Any, error: Exception) -> bytes:
        # msgspec refuses UNLOADED as it does everything that it does not know.
        if type(error) is TypeError and plain is not None:
            values = [msgspec.UNSET if value is UNLOADED else value for value in msgspec.structs.astuple(plain)]
            try:
                return form.dump(shadow(*values))
            except UNREADABLE as other:
                error = other
        if type(error) is OverflowError and plain is not None:
            try:
                return form.dump(widened(plain))
            except UNREADABLE as other:
                error = other
        why = f"cannot be encoded as {form.name} ({type(error).__name__})"
        raise EncodeError(f"a record of {model.__name__} {why}; its values must fit its fields") from None

    source = Source("encode", "record")
    source.line("plain = None")
    source.line("try:")
    values = []
    for column in columns:
        name = column.field.name
        source.line(f"v_{name} = record.{name}", 2)
        values.append(source.apply(_steps(column, form)[0], f"v_{name}"))
    source.line(f"plain = {source.bind(shadow)}({', '.join(values)})", 2)
    source.line(f"return {source.bind(form.dump)}(plain)", 2)
    source.line(f"except {source.bind(UNREADABLE)} as error: return {source.bind(retry)}(plain, error)")
    return source.function()


def _decoder(plan: ModelPlan[Any], columns: Sequence[Column], form: Format, shadow: Any) -> Decode:
    def refuse(error: Exception) -> NoReturn:
        raise DecodeError(f"bytes cannot be read as {form.name} of {plan.model.__name__}{said(error)}") from None

    source = Source("decode", "data")
    source.line(f"try: plain = {source.bind(form.decoder(shadow).decode)}(data)")
    source.line(f"except {source.bind(UNREADABLE)} as error: {source.bind(refuse)}(error)")
    values = dict.fromkeys(plan.column_names, "U")
    for place, column in enumerate(columns):
        step = _steps(column, form)[1]
        values[column.field.name] = f"plain.f{place}"
        if step is not None:
            source.line(f"v{place} = plain.f{place}")
            values[column.field.name] = source.apply(step, f"v{place}")
        if form.finite and column.field.kind is Kind.JSONB:
            # JSON has numbers of any length; where the type is int, L1 could not keep what has more than 64 bits.
            source.line(f"w{place} = {values[column.field.name]}")
            source.line(f"try: {source.apply(column.form.quick or column.form.freeze, f'w{place}')}")
            source.line(f"except {source.bind(UNREADABLE)}: {source.apply(column.form.freeze, f'w{place}')}")
            values[column.field.name] = f"w{place}"
    return plan.compiler.make(source, values)
