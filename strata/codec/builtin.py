"""JSON and MessagePack through msgspec."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from strata.codec.shadow import Decode, Encode, Format, codec_functions
from strata.model.plan import ModelPlan, compile_model
from strata.model.wide import decoder

T = TypeVar("T")


def _functions(plan: ModelPlan[Any], form: Format) -> tuple[Encode, Decode]:
    """Those of a model, compiled once."""
    found: tuple[Encode, Decode] | None = plan.compiled.get(form)
    return plan.compiled.setdefault(form, codec_functions(plan, form)) if found is None else found


class _Builtin:
    """What both codecs share. Thread-safe; all state is what is compiled once a model."""

    _format: Format

    def encode(self, record: Any, model: type[Any]) -> bytes:
        """The record as bytes. Raises `EncodeError`, which holds no value."""
        return _functions(compile_model(model), self._format)[0](record)

    def decode(self, data: bytes, model: type[T]) -> T:
        """The record of the bytes. Raises `DecodeError`, which holds no value."""
        record: T = _functions(compile_model(model), self._format)[1](data)
        return record

    def bind_model(self, plan: ModelPlan[Any]) -> tuple[Encode, Decode] | None:
        """`encode` and `decode` for one model; None where a subclass has put its own in their place."""
        own = type(self).encode is _Builtin.encode and type(self).decode is _Builtin.decode
        return _functions(plan, self._format) if own else None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


class JSON(_Builtin):
    """One JSON object a record, its field names as keys: readable with `redis-cli`.

    Infinities and NaN, which JSON does not have, are the texts "Infinity", "-Infinity" and "NaN" in `float` fields.
    """

    _format = Format("JSON", msgspec.json.Encoder().encode, msgspec.json.Decoder, finite=True)


class MsgPack(_Builtin):
    """One MessagePack map a record, its field names as keys: smaller and faster than JSON."""

    _format = Format("MessagePack", msgspec.msgpack.Encoder().encode, decoder, finite=False)
