"""`ModelPlan`: a model, its fields, and the functions over them, compiled once."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from strata.contracts import Codec
from strata.errors import DecodeError, EncodeError, MissingPrimaryKeyError
from strata.model.compile import Function, builder, function, immutable
from strata.model.convert import Conversions, conversions
from strata.model.fields import Field, Kind
from strata.model.introspection import fields_of
from strata.model.markers import UNLOADED
from strata.model.values import BIGINT_MAX, BIGINT_MIN, checker, text_problem

T = TypeVar("T")
ROW_FORMAT = 1  # of packed rows; a reader that meets a higher one leaves the row to a newer process


class FieldCipher(Protocol):
    """Encrypts the texts of one table, bound to column and key."""

    def encrypt(self, column: str, key: str, plaintext: str) -> str: ...

    def decrypt(self, column: str, key: str, text: str) -> str: ...


class UnknownColumnError(DecodeError):
    """A packed row has a column, or a format, that this process does not know: a newer one wrote it."""


class ModelPlan(Generic[T]):
    """Everything about a model that the tiers need. Immutable and thread-safe.

    A row is a tuple of plain values in the order of `columns`, UNLOADED where a column was not loaded; JSONB is JSON
    text, encrypted columns are ciphertext. `freeze` gives the form in which L1 keeps a record, `thaw` makes a private
    record of it, with UNLOADED in what L1 does not hold.
    """

    def __init__(self, model: type[T]) -> None:
        self.model = model
        self.fields = fields_of(model)
        self.columns = tuple(field for field in self.fields if not field.ignore)
        self.column_names = tuple(field.name for field in self.columns)
        self.key: Field = next(field for field in self.columns if field.primary_key)
        self._encrypted = [place for place, field in enumerate(self.columns) if field.encrypted]
        self._places = {name: place for place, name in enumerate(self.column_names)}
        self._conversions = {field.name: conversions(field) for field in self.columns}
        omitted = any(field.omit_l1 or field.omit_cache for field in self.columns)
        mutable = any(item.copy is not None for item in self._conversions.values()) or any(
            f.ignore for f in self.fields
        )
        self.immutable = immutable(model) and not mutable and not omitted
        self.omits_l2 = any(field.omit_cache for field in self.columns)
        self._checks = [(field.name, checker(model.__name__, field)) for field in self.columns]
        self.check: Callable[[Any], None] = self._compile_check()
        self.copy: Callable[[Any], T] = self._compile_copy("copy", None)
        self._stamped: Callable[[Any, datetime], T] = self._compile_copy("prepare", "now")
        self.freeze, self.thaw = self._compile_frozen()
        self.cached: Callable[[Any], T] = self._compile_cached() if self.omits_l2 else _same
        self.unloaded: Callable[[Any], tuple[str, ...]] = self._compile_unloaded()
        self.key_of: Callable[[Any], Any] = function("key_of", "r", [f"return r.{self.key.name}"], {})
        self._plain_row = self._compile_to_row()
        self._whole = self._compile_from_row()
        self._wire = msgspec.defstruct(
            "Row",
            [(name, self._wire_type(name), msgspec.UNSET) for name in self.column_names],
            forbid_unknown_fields=True,
        )
        self._pack = msgspec.msgpack.Encoder().encode
        self._unpack = msgspec.msgpack.Decoder(self._wire).decode

    # -- keys ---------------------------------------------------------------------------------------------------

    def key_text(self, id: Any) -> str:
        """The canonical text of a key. Raises `EncodeError` for a wrong one, `MissingPrimaryKeyError` for an empty one."""
        kind = self.key.annotation
        if type(id) is not kind:
            raise EncodeError(
                f"a key of {self.model.__name__} is of type {type(id).__name__}; it must be {_article(kind)}"
            )
        if kind is str:
            if not id:
                raise MissingPrimaryKeyError(f"the key of {self.model.__name__} is empty; it must not be")
            if not id.isascii() or "\0" in id:
                problem = text_problem(id)
                if problem:
                    raise EncodeError(f"a key of {self.model.__name__} {problem}")
            return id  # type: ignore[no-any-return]
        if kind is int and not BIGINT_MIN <= id <= BIGINT_MAX:
            raise EncodeError(f"a key of {self.model.__name__} is outside BIGINT (64 bits); it must be smaller")
        return str(id)

    def parse_key(self, text: str) -> Any:
        """The key of a canonical text. Raises `ValueError` for anything else."""
        if self.key.annotation is str:
            if not text:
                raise ValueError("empty key")
            return text
        parsed = self.key.annotation(text)
        if str(parsed) != text:
            raise ValueError("not a canonical key")
        return parsed

    # -- records ------------------------------------------------------------------------------------------------

    def prepare(self, record: Any, now: datetime) -> T:
        """The private copy that is stored: stamped, normalised, Ignored fields at their defaults."""
        return self._stamped(record, now)

    def merge(self, base: Any, over: Any) -> T:
        """A new record with what `over` loaded, and `base`'s fields where it did not."""
        values = [
            getattr(base, field.name) if (value := getattr(over, field.name)) is UNLOADED else value
            for field in self.fields
        ]
        return self.copy(self._build(values))

    # -- rows ---------------------------------------------------------------------------------------------------

    def to_row(self, record: Any, cipher: FieldCipher | None) -> tuple[Any, ...]:
        """The record as a row of L3. Raises `EncodeError` where an Encrypted field has no key to it."""
        row: tuple[Any, ...] = self._plain_row(record)
        if not self._encrypted:
            return row
        values = list(row)
        key = self.key_text(self.key_of(record))
        for place in self._encrypted:
            value = values[place]
            if value is not None and value is not UNLOADED:
                values[place] = self._cipher(cipher).encrypt(self.column_names[place], key, value)
        return tuple(values)

    def from_row(self, values: Sequence[Any], cipher: FieldCipher | None, names: Sequence[str] | None = None) -> T:
        """The record of a row; `names` are its columns where it is not whole. `__post_init__` does not run.

        Raises `DecodeError` naming the column of a value that cannot be read back.
        """
        if names is not None:
            given = dict(zip(names, values, strict=True))
            values = [given.get(name, UNLOADED) for name in self.column_names]
        if self._encrypted:
            values = self._decrypted(values, cipher)
        try:
            return self._whole(*values)  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001 the value that failed is looked for, and not shown
            raise DecodeError(
                f"{self.model.__name__}.{self._broken(values)} cannot be read back from its column"
            ) from None

    def pack_row(self, values: Sequence[Any], names: Sequence[str] | None = None) -> bytes:
        """A row, or some columns of it, as bytes for the ledger; UNLOADED columns are left out."""
        pairs = zip(self.column_names if names is None else names, values, strict=True)
        row = self._wire(**{name: value for name, value in pairs if value is not UNLOADED})
        return bytes([ROW_FORMAT]) + self._pack(row)

    def unpack_row(self, data: bytes) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Names and values of a packed row. Raises `UnknownColumnError` where a newer process wrote it."""
        if not data or data[0] != ROW_FORMAT:
            raise UnknownColumnError(
                f"a packed row of {self.model.__name__} has another format; a newer process can read it"
            )
        try:
            row = self._unpack(memoryview(data)[1:])
        except msgspec.ValidationError as error:
            if "unknown field" in str(error):
                raise UnknownColumnError(
                    f"a packed row of {self.model.__name__} has a column not known here; a newer process can read it"
                ) from None
            raise DecodeError(f"a packed row of {self.model.__name__} does not fit its columns") from None
        except msgspec.MsgspecError:
            raise DecodeError(f"a packed row of {self.model.__name__} is damaged") from None
        pairs = [(name, value) for name in self.column_names if (value := getattr(row, name)) is not msgspec.UNSET]
        return tuple(name for name, _ in pairs), tuple(value for _, value in pairs)

    # -- codecs -------------------------------------------------------------------------------------------------

    def encoder(self, codec: Codec) -> Callable[[Any], bytes]:
        """`codec.encode` bound to this model."""
        bound: Callable[[Any], Callable[[Any], bytes]] | None = getattr(codec, "encoder_for", None)
        return bound(self) if bound is not None else lambda record: codec.encode(record, self.model)

    def decoder(self, codec: Codec) -> Callable[[bytes], T]:
        """`codec.decode` bound to this model."""
        bound: Callable[[Any], Callable[[bytes], T]] | None = getattr(codec, "decoder_for", None)
        return bound(self) if bound is not None else lambda data: codec.decode(data, self.model)

    # -- compiling ----------------------------------------------------------------------------------------------

    def conversion(self, name: str) -> Conversions:
        """The functions of a column."""
        return self._conversions[name]

    def build_lines(self, expressions: dict[str, str], space: dict[str, Any]) -> list[str]:
        """Lines that make a record `o` from an expression for each column; Ignored fields get their defaults."""
        lines = []
        for place, field in enumerate(self.fields):
            if field.ignore:
                space[f"d{place}"] = field.default_factory
            lines.append(f"a{place} = " + (f"d{place}()" if field.ignore else expressions[field.name]))
        made, more = builder(self.model, [field.name for field in self.fields])
        space |= more
        return [*lines, *made, "return o"]

    def _compile_check(self) -> Callable[[Any], None]:
        # A test that is quick and nearly always true comes first; what fails it is looked at closely.
        quick = {
            Kind.TEXT: "type(v) is not str or not v.isascii() or '\\0' in v",
            Kind.BIGINT: f"type(v) is not int or v > {BIGINT_MAX} or v < {BIGINT_MIN}",
            Kind.DOUBLE: "type(v) is not float",
            Kind.BOOLEAN: "type(v) is not bool",
        }
        space: dict[str, Any] = {"_model": self.model, "_foreign": self._foreign}
        lines = ["if type(r) is not _model: _foreign(r)"]
        for place, (field, (name, slow)) in enumerate(zip(self.columns, self._checks, strict=True)):
            space[f"c{place}"] = slow
            test = quick.get(field.kind) if field.kind is not None and field.choices is None else None
            lines += [f"v = r.{name}", f"if {test}: c{place}(v)" if test else f"c{place}(v)"]
        return function("check", "r", lines, space)

    def _foreign(self, record: Any) -> None:
        raise EncodeError(f"a {type(record).__name__} was given; it must be a {self.model.__name__}")

    def _compile_copy(self, name: str, now: str | None) -> Function:
        space: dict[str, Any] = {}
        expressions = {}
        for place, field in enumerate(self.columns):
            item = self._conversions[field.name]
            expression = f"r.{field.name}"
            if now and (field.auto_now or field.auto_now_add):
                expression = now
            else:
                for step in ("normalise", "copy") if now else ("copy",):
                    convert = getattr(item, step)
                    if convert is not None:
                        space[f"{step}{place}"] = convert
                        expression = f"{step}{place}({expression})"
            expressions[field.name] = expression
        return function(name, f"r, {now}" if now else "r", self.build_lines(expressions, space), space)

    def _compile_frozen(self) -> tuple[Function, Function]:
        if self.immutable:
            return _same, _same
        kept = [field for field in self.columns if not (field.omit_l1 or field.omit_cache)]
        space: dict[str, Any] = {"UNLOADED": UNLOADED}
        parts, expressions = [], {field.name: "UNLOADED" for field in self.columns}
        for place, field in enumerate(kept):
            item = self._conversions[field.name]
            part, back = f"r.{field.name}", f"t{place}"
            if item.freeze is not None:
                space[f"f{place}"] = item.freeze
                part = f"f{place}({part})"
            if item.thaw is not None:
                space[f"u{place}"] = item.thaw
                back = f"u{place}({back})"
            parts.append(part)
            expressions[field.name] = back
        unpack = "".join(f"t{place}, " for place in range(len(kept))) + "= t"
        freeze = function("freeze", "r", [f"return ({''.join(f'{part}, ' for part in parts)})"], space)
        return freeze, function("thaw", "t", [unpack, *self.build_lines(expressions, space)], space)

    def _compile_cached(self) -> Function:
        space: dict[str, Any] = {"UNLOADED": UNLOADED}
        expressions = {f.name: "UNLOADED" if f.omit_cache else f"r.{f.name}" for f in self.columns}
        return function("cached", "r", self.build_lines(expressions, space), space)

    def _compile_unloaded(self) -> Function:
        names = [field.name for field in self.columns if not field.primary_key]
        if not names:
            return lambda record: ()
        some = " or ".join(f"r.{name} is U" for name in names)
        space = {"U": UNLOADED, "_names": tuple(names)}
        lines = [f"if {some}: return tuple(n for n in _names if getattr(r, n) is U)", "return ()"]
        return function("unloaded", "r", lines, space)

    def _compile_to_row(self) -> Function:
        space: dict[str, Any] = {}
        parts = []
        for place, name in enumerate(self.column_names):
            convert = self._conversions[name].to_row
            if convert is not None:
                space[f"c{place}"] = convert
            parts.append(f"c{place}(r.{name}), " if convert is not None else f"r.{name}, ")
        return function("to_row", "r", [f"return ({''.join(parts)})"], space)

    def _compile_from_row(self) -> Function:
        space: dict[str, Any] = {}
        expressions = {}
        for place, name in enumerate(self.column_names):
            convert = self._conversions[name].from_row
            if convert is not None:
                space[f"c{place}"] = convert
            expressions[name] = f"c{place}(v{place})" if convert is not None else f"v{place}"
        arguments = ", ".join(f"v{place}" for place in range(len(self.columns)))
        return function("from_row", arguments, self.build_lines(expressions, space), space)

    def _build(self, values: Sequence[Any]) -> Any:
        if not hasattr(self, "_builder"):
            made, space = builder(self.model, [field.name for field in self.fields])
            arguments = ", ".join(f"a{place}" for place in range(len(self.fields)))
            self._builder = function("build", arguments, [*made, "return o"], space)
        return self._builder(*values)

    def _wire_type(self, name: str) -> Any:
        return self._conversions[name].wire | None | msgspec.UnsetType

    def _cipher(self, cipher: FieldCipher | None) -> FieldCipher:
        if cipher is None:
            fields = ", ".join(self.column_names[place] for place in self._encrypted)
            raise EncodeError(
                f"{self.model.__name__} has Encrypted fields ({fields}) and there is no key; set Config.encryption_key"
            )
        return cipher

    def _decrypted(self, values: Sequence[Any], cipher: FieldCipher | None) -> list[Any]:
        plain = list(values)
        key = plain[self._places[self.key.name]]
        for place in self._encrypted:
            value = plain[place]
            if value is None or value is UNLOADED:
                continue
            name = self.column_names[place]
            if cipher is None:
                raise DecodeError(
                    f"{self.model.__name__}.{name} is encrypted and there is no key; set Config.encryption_key"
                )
            if key is UNLOADED:
                raise DecodeError(
                    f"{self.model.__name__}.{name} cannot be decrypted without its key column; ask for both"
                )
            plain[place] = cipher.decrypt(name, self.key_text(key), value)
        return plain

    def _broken(self, values: Sequence[Any]) -> str:
        for name, value in zip(self.column_names, values, strict=False):
            convert = self._conversions[name].from_row
            try:
                if convert is not None:
                    convert(value)
            except Exception:  # noqa: BLE001 the column is all that is wanted
                return name
        return "<row>"


def compile_model(model: type[T]) -> ModelPlan[T]:
    """The plan of a model, made once. Raises `InvalidModelError` or `NoPrimaryKeyError`."""
    return _compiled(model)


@functools.cache
def _compiled(model: Any) -> ModelPlan[Any]:
    return ModelPlan(model)


def _same(value: Any) -> Any:
    return value


def _article(kind: Any) -> str:
    return {str: "a str", int: "an int", uuid.UUID: "a UUID"}[kind]
