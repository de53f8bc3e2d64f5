"""The key of a table, of one column or of several, as SQL, and as parameters and values of statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from strata.l3.statement import ARRAYS
from strata.model.fields import Field, Kind
from strata.model.keys import ModelKey


class KeyColumns:
    """Immutable. `quoted` are the columns, `listed` these as a list; `width` is how many they are, and how many
    parameters a key takes, whose types are `oids`, or `arrays` for many keys.

    An alias stands for whatever has the columns under their names: the table, the stage, or the keys of `unnested`.
    """

    def __init__(self, key: ModelKey, quoted: Sequence[str], oids: Sequence[int]) -> None:
        self._key = key
        self.quoted = tuple(quoted)
        self.listed = ", ".join(quoted)
        self.width = len(self.quoted)
        self.oids = tuple(oids)
        self.arrays = tuple(ARRAYS[oid] for oid in oids)
        self.parts = key.parts

    def of(self, alias: str = "") -> str:
        """The key as one value, to be compared with another: of several columns it is a row, of which `=` and `<` are
        looked up in an index over them."""
        return _row([_named(alias, name) for name in self.quoted])

    def same(self, one: str, other: str) -> str:
        """The condition that two aliases have one key."""
        return f"{self.of(one)} = {self.of(other)}"

    def given(self, first: int = 1) -> str:
        """A key that is given by the parameters from `first` on, as `of` has it."""
        return _row([f"${number}" for number in range(first, first + self.width)])

    def among(self, alias: str = "", first: int = 1, *, typed: bool = False) -> str:
        """The condition that the key is one of many, which are given by the parameters from `first` on; these are
        `typed` where the statement is not told their types."""
        arrays = self._given_arrays(first, typed=typed)
        if self.width == 1:
            return f"{self.of(alias)} = ANY({arrays})"
        return f"{self.of(alias)} IN (SELECT * FROM unnest({arrays}))"

    def unnested(self, alias: str, first: int = 1, *more: str) -> str:
        """Many keys as an item of FROM: those of `columns`, by the parameters from `first` on. `more`: further columns,
        whose parameters follow."""
        arrays = ", ".join(f"${number}" for number in range(first, first + self.width + len(more)))
        return f"unnest({arrays}) AS {alias}({', '.join([self.listed, *more])})"

    def ordered(self, alias: str = "", way: str = "") -> str:
        """The columns in ORDER BY: without the table's name a plain one would mean what is selected under it, and
        cast."""
        return ", ".join(f"{_named(alias, name)}{way and ' '}{way}" for name in self.quoted)

    def as_python(self) -> str:
        """As `ordered`, in the order in which Python has keys, and all who lock several rows lock them."""
        return ", ".join(
            f'{name}::text COLLATE "C"' if field.kind is Kind.TEXT else name
            for name, field in zip(self.quoted, self._key.fields, strict=True)
        )

    def text(self, alias: str) -> str:
        """The key's canonical text, as `strata.model.keys` makes it."""
        return key_text_of(self._key, alias, self.quoted)

    def columns(self, ids: Iterable[Any]) -> list[list[Any]]:
        """Many keys as parameters."""
        if self.width == 1:
            return [list(ids)]
        return [list(parts) for parts in zip(*ids, strict=True)] or [[] for _ in self.quoted]

    def split(self, row: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
        """A row that begins with a key: that, and the rest."""
        return self._key.of_parts(row[: self.width]), tuple(row[self.width :])

    def _given_arrays(self, first: int, *, typed: bool) -> str:
        return ", ".join(
            f"${number}::{field.sql_type}[]" if typed else f"${number}"
            for number, field in enumerate(self._key.fields, first)
        )


def key_text_of(key: ModelKey, alias: str, quoted: Sequence[str]) -> str:
    """The SQL of a key's canonical text; NULL where a part of it is."""
    if len(quoted) == 1:
        return f"{_named(alias, quoted[0])}::text"
    steps = map(_step, key.fields, [_named(alias, name) for name in quoted])
    return "(" + " || '/' || ".join(steps) + ")"


def _step(field: Field, column: str) -> str:
    if field.kind is not Kind.TEXT:
        return f"{column}::text"
    return f"replace(replace({column}::text, '~', '~0'), '/', '~1')"


def _named(alias: str, name: str) -> str:
    return f"{alias}.{name}" if alias else name


def _row(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
