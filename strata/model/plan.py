"""`ModelPlan`: a model, its fields, and the functions over its records, compiled once."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from strata.contracts import Codec
from strata.errors import DecodeError
from strata.model.atoms import BIGINT_MAX, BIGINT_MIN
from strata.model.columns import Column
from strata.model.compile import same
from strata.model.fields import Field
from strata.model.functions import Compiler, FieldCipher, in_l1
from strata.model.hints import is_frozen
from strata.model.introspection import inspect
from strata.model.keys import ModelKey, key_functions
from strata.model.outline import outline_of
from strata.model.rows import UnknownColumnError, row_functions
from strata.waits.locks import once_lock

__all__ = ["FieldCipher", "FromRow", "ModelPlan", "PackRow", "UnknownColumnError", "compile_model"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class FromRow(Protocol[T_co]):
    """`names` are the columns of `values` where they are not all of them; the others are UNLOADED.

    Raises `DecodeError` naming class and column, never a value. `__post_init__` does not run.
    """

    def __call__(
        self, values: Sequence[Any], cipher: FieldCipher | None, names: Sequence[str] | None = None, /
    ) -> T_co: ...


class Vet(Protocol):
    """`names` as in `FromRow`; `sealed` tells whether a text is a ciphertext."""

    def __call__(
        self, values: Sequence[Any], sealed: Callable[[str], bool], names: Sequence[str] | None = None, /
    ) -> None: ...


class PackRow(Protocol):
    """`only` are the columns of `values` where they are not all of them; UNLOADED ones are left out."""

    def __call__(self, values: Sequence[Any], only: Sequence[str] | None = None, /) -> bytes: ...


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ModelPlan(Generic[T]):
    """Everything about a model that the tiers need. Immutable and thread-safe.

    `fields` are all of the class, `columns` those that are stored, both in the order of declaration; `immutable` says
    that a record may be shared as it is, since neither it nor its values can change and L1 keeps all of it. `numbers`
    are the types of the columns that can be added to.

    - `check` raises `EncodeError` for what cannot be stored, and gives the record as the validators of pydantic models
      have it, any other as it is; `prepare` gives the private copy of what `check` gave that is stored: values in their
      exact types, times in UTC, ignored fields at their defaults, the time given in `stamped` fields.
    - `take` gives at once what `freeze` makes of what `check` and `prepare` make of a record, by its key and the time
      of its stamps; None for one that needs a closer look. There is none where records are immutable, are validated, or
      L1 does not keep all of them.
    - `check_new` is `check` for records whose key is yet to be assigned by the database, and may be None.
    - `key_of` gives the key of a record, `key_of_row` that of a row; `key_text` gives a key's canonical text, and
      `parse_key` takes it back. `texts_of` gives the texts of records' keys, to be compared: it refuses nothing.
    - `freeze` gives the form in which L1 keeps a record, compact and of no interest to the collector; `thaw` makes a
      private record of it, with UNLOADED in what L1 does not keep. `copy` makes a private record of a record.
    - `cached` gives a record as L2 keeps it, for encoding: it shares its values with the record given. `unloaded`
      names the columns that hold UNLOADED, `loaded` the others but for the key; `merge(base, over)` fills them in, as a
      private record. `part` makes a record of the values of some fields, by name, with UNLOADED in the others.
    - `counted(record, deltas, part)` is a private copy with what is added to columns, by name, None counting from 0,
      and with the other columns of `part`; None where a column cannot hold its sum.
    - A row is a tuple in the order of `columns` of what psycopg takes and gives: an Enum as its text, JSONB as JSON
      text, an encrypted column as ciphertext, UNLOADED as itself. `pack_row` and `unpack_row` make bytes of it, with
      `unpack_row` returning the names of the columns that are there and their values.
    - `vet` raises `DecodeError`, naming the column, for a row that nobody stored with this model: a value that its
      column cannot hold, that is none of its choices, or no ciphertext where one must be.
    - `forms` and `compiler` are for codecs, which compile functions of their own; `compiled` keeps these, so that they
      live as long as the plan. Each use of it is one call.
    - `outline` tells whether another release of the model reads a row as this one does.
    """

    model: type[T]
    fields: tuple[Field, ...]
    columns: tuple[Field, ...]
    column_names: tuple[str, ...]
    key: ModelKey
    immutable: bool
    has_omitted_l1: bool
    has_omitted_l2: bool
    has_encrypted: bool
    stamped: frozenset[str]
    numbers: Mapping[str, type]
    forms: tuple[Column, ...]
    outline: str
    compiler: Compiler
    check: Callable[[Any], T]
    check_new: Callable[[Any], T]
    key_of: Callable[[Any], Any]
    key_of_row: Callable[[Sequence[Any]], Any]
    key_text: Callable[[Any], str]
    texts_of: Callable[[Iterable[Any]], list[str]]
    parse_key: Callable[[str], Any]
    prepare: Callable[[Any, datetime | None], T]
    copy: Callable[[Any], T]
    freeze: Callable[[Any], Any]
    take: Callable[[Any, Any, datetime | None], Any] | None
    thaw: Callable[[Any], T]
    cached: Callable[[Any], T]
    unloaded: Callable[[Any], tuple[str, ...]]
    loaded: Callable[[Any], tuple[str, ...]]
    merge: Callable[[Any, Any], T]
    counted: Callable[..., T | None]
    part: Callable[[Mapping[str, Any]], T]
    to_row: Callable[[Any, FieldCipher | None], tuple[Any, ...]]
    from_row: FromRow[T]
    pack_row: PackRow
    unpack_row: Callable[[bytes], tuple[tuple[str, ...], tuple[Any, ...]]]
    vet: Vet
    compiled: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def conversion(self, name: str) -> Column:
        """One column with its conversions."""
        return self.forms[self.column_names.index(name)]

    def restored_keys(self, rows: Iterable[Sequence[Any]]) -> list[Any]:
        """The keys of rows' values of its fields. Raises `DecodeError`."""
        restores = [self.conversion(name).restore for name in self.key.names]
        return [
            self.key.of_parts([restore(value) for restore, value in zip(restores, values, strict=True)])
            for values in rows
        ]

    def encoder(self, codec: Codec) -> Callable[[Any], bytes]:
        """`codec.encode` bound to this model."""
        bound = _bound(codec, self)
        return bound[0] if bound else lambda record: codec.encode(record, self.model)

    def key_and_text(self, id: Any) -> tuple[Any, str]:
        """An id as the caches and L3 know it, of the key's very type, and its text. Raises as `key_text` does."""
        text = self.key_text(id)
        return id if type(id) is self.key.kinds[0] else self.key.exact(id), text

    def keys_and_texts(self, ids: Sequence[Any]) -> dict[Any, str]:
        """As `key_and_text`, of many."""
        kinds = self.key.kinds
        if kinds != (*set(map(type, ids)),):
            return dict(map(self.key_and_text, ids))
        plain_ints = kinds[0] is int and min(ids) >= BIGINT_MIN and max(ids) <= BIGINT_MAX
        return dict(zip(ids, map(str if plain_ints else self.key_text, ids), strict=True))

    def decoder(self, codec: Codec) -> Callable[[bytes], T]:
        """`codec.decode` bound to this model. Raises what the codec raises, and `DecodeError` for a foreign record."""
        bound = _bound(codec, self)
        if bound:
            return bound[1]

        def decode(data: bytes) -> T:
            record = codec.decode(data, self.model)
            if type(record) is not self.model:
                raise DecodeError(f"the codec gave a {type(record).__name__}; it must be a {self.model.__name__}")
            return record

        return decode


def compile_model(model: type[T]) -> ModelPlan[T]:
    """The plan of a model, made once. Raises `InvalidModelError` or `NoPrimaryKeyError`."""
    with _lock:
        plan: ModelPlan[T] | None = vars(model).get(_PLAN) if isinstance(model, type) else None
        if plan is None:
            plan = _compile(model)
            type.__setattr__(model, _PLAN, plan)
        return plan


# A plan refers to its class, and nothing else keeps either of them: so they live and end together, and a model that is
# made in a function does not stay for ever. It is the class's own attribute, since a subclass is another model.
_PLAN = "__strata_plan__"
_lock = once_lock()  # held while a plan is made, so that a model has one; the child of a fork has its own


def _after_fork() -> None:
    global _lock
    _lock = once_lock()


os.register_at_fork(after_in_child=_after_fork)


def _compile(model: type[T]) -> ModelPlan[T]:
    fields, columns = inspect(model)
    stored = tuple(column.field for column in columns)
    key = ModelKey([field for field in stored if field.primary_key])
    key_text, parse_key = key_functions(key, model.__name__)
    compiler = Compiler(model, fields, columns, key, key_text)
    check = compiler.check()
    immutable = (
        is_frozen(model)
        and len(stored) == len(fields)
        and all(column.form.immutable and in_l1(column) for column in columns)
    )
    pack_row, unpack_row = row_functions(model.__name__, columns)
    return ModelPlan(
        model=model,
        fields=fields,
        columns=stored,
        column_names=tuple(field.name for field in stored),
        key=key,
        immutable=immutable,
        has_omitted_l1=not all(map(in_l1, columns)),
        has_omitted_l2=any(field.omit_cache for field in stored),
        has_encrypted=any(field.encrypted for field in stored),
        stamped=frozenset(field.name for field in stored if field.stamped),
        numbers={field.name: field.number for field in stored if field.number is not None},
        forms=columns,
        outline=outline_of(columns),
        compiler=compiler,
        check=check,
        check_new=compiler.check(new=True) if key.generated else check,
        key_of=operator.attrgetter(*key.names),
        key_of_row=operator.itemgetter(*[place for place, field in enumerate(stored) if field.primary_key]),
        key_text=key_text,
        texts_of=compiler.texts_of(),
        parse_key=parse_key,
        prepare=compiler.prepare(),
        copy=same if immutable else compiler.copy(),
        freeze=same if immutable else compiler.freeze(),
        take=None if immutable else compiler.take(),
        thaw=same if immutable else compiler.thaw(),
        cached=compiler.cached(),
        unloaded=compiler.unloaded(),
        loaded=compiler.loaded(),
        merge=compiler.merge(),
        counted=compiler.counted(),
        part=compiler.part(),
        to_row=compiler.to_row(),
        from_row=compiler.from_row(),
        pack_row=pack_row,
        unpack_row=unpack_row,
        vet=compiler.vet(),
    )


def _bound(codec: Any, plan: ModelPlan[Any]) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]] | None:
    bind = getattr(codec, "bind_model", None)
    return None if bind is None else bind(plan)
