"""JSON and MessagePack through msgspec, by way of a shadow Struct a model.

The shadow has the columns that L2 keeps, so that `__post_init__` does not run, UNLOADED fields are left out, and a
missing column is an error unless the model omits it from L2. JSON has no infinities and no NaN: in `float` columns
they are the texts "inf", "-inf" and "nan".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

from strata.errors import DecodeError
from strata.model.compile import function
from strata.model.fields import Field, Kind
from strata.model.markers import UNLOADED
from strata.model.plan import ModelPlan, compile_model

T = TypeVar("T")
_NON_FINITE = Literal["inf", "-inf", "nan"]


class _Builtin:
    """What both codecs share. Thread-safe; a codec has no state but what is compiled once a model."""

    _encode: Callable[[Any], bytes]
    _decoder: Callable[[Any], Any]
    _text_floats: bool

    def encode(self, record: Any, model: type[Any]) -> bytes:
        """The record as bytes; UNLOADED fields are left out."""
        return self.encoder_for(compile_model(model))(record)

    def decode(self, data: bytes, model: type[T]) -> T:
        """The record of the bytes. Raises `DecodeError`, which shows no value."""
        return self.decoder_for(compile_model(model))(data)  # type: ignore[no-any-return]

    def encoder_for(self, plan: ModelPlan[Any]) -> Callable[[Any], bytes]:
        """`encode` bound to a model."""
        return _functions(type(self), plan)[0]

    def decoder_for(self, plan: ModelPlan[Any]) -> Callable[[bytes], Any]:
        """`decode` bound to a model."""
        return _functions(type(self), plan)[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


class JSON(_Builtin):
    """Readable with `redis-cli`: one JSON object, field names as keys."""

    _encode = staticmethod(msgspec.json.Encoder().encode)
    _decoder = msgspec.json.Decoder
    _text_floats = True


class MsgPack(_Builtin):
    """Smaller and faster than JSON: one MessagePack map, field names as keys."""

    _encode = staticmethod(msgspec.msgpack.Encoder().encode)
    _decoder = msgspec.msgpack.Decoder
    _text_floats = False


@functools.cache
def _functions(codec: Any, plan: ModelPlan[Any]) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    shadow = msgspec.defstruct(
        f"{plan.model.__name__}Shadow", [_shadowed(codec, field) for field in plan.columns], kw_only=True
    )
    to_shadow = _to_shadow(codec, plan, shadow)
    from_shadow = _from_shadow(codec, plan)
    dump, load = codec._encode, codec._decoder(shadow).decode
    name = plan.model.__name__

    def encode(record: Any) -> bytes:
        return dump(to_shadow(record))

    def decode(data: bytes) -> Any:
        try:
            return from_shadow(load(data))
        except (msgspec.MsgspecError, ValueError, KeyError):
            raise DecodeError(f"bytes cannot be read as a {name}; they are damaged, or of another format") from None

    return encode, decode


def _shadowed(codec: type[_Builtin], field: Field) -> tuple[str, Any] | tuple[str, Any, Any]:
    kind: Any = str if field.choices is not None else field.annotation
    if codec._text_floats and field.kind is Kind.DOUBLE:
        kind = float | _NON_FINITE
    if field.nullable or field.auto_now or field.auto_now_add:
        kind = kind | None
    # Left out when it is not loaded; missing when it is read only where L2 does not keep it.
    return (
        (field.name, kind | msgspec.UnsetType, msgspec.UNSET)
        if field.omit_cache
        else (field.name, kind | msgspec.UnsetType)
    )


def _to_shadow(codec: type[_Builtin], plan: ModelPlan[Any], shadow: type) -> Callable[[Any], Any]:
    space: dict[str, Any] = {"_shadow": shadow, "U": UNLOADED, "UNSET": msgspec.UNSET}
    parts = []
    for place, field in enumerate(plan.columns):
        value = f"r.{field.name}"
        convert = plan.conversion(field.name).to_row if field.choices is not None else None
        if codec._text_floats and field.kind is Kind.DOUBLE:
            convert = _finite
        if convert is not None:
            space[f"c{place}"] = convert
            value = f"c{place}({value})"
        if not field.primary_key:
            value = f"(UNSET if (v := {value}) is U else v)"
        parts.append(f"{field.name}={value}")
    return function("to_shadow", "r", [f"return _shadow({', '.join(parts)})"], space)


def _from_shadow(codec: type[_Builtin], plan: ModelPlan[Any]) -> Callable[[Any], Any]:
    space: dict[str, Any] = {"U": UNLOADED, "UNSET": msgspec.UNSET}
    expressions = {}
    for place, field in enumerate(plan.columns):
        value = f"s.{field.name}"
        convert = plan.conversion(field.name).from_row if field.choices is not None else None
        if codec._text_floats and field.kind is Kind.DOUBLE:
            convert = _number
        if convert is not None:
            space[f"c{place}"] = convert
            value = f"c{place}({value})"
        expressions[field.name] = f"(U if (v := {value}) is UNSET else v)" if field.omit_cache else value
    return function("from_shadow", "s", plan.build_lines(expressions, space), space)


def _finite(value: Any) -> Any:
    return str(value) if type(value) is float and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value) if type(value) is str else value
