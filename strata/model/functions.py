"""The functions over whole records, generated once a model: check, prepare, copy, freeze, thaw, merge, rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from strata.errors import DecodeError, EncodeError, StrataError
from strata.model.atoms import BIGINT_MAX, BIGINT_MIN
from strata.model.columns import Column
from strata.model.compile import CALL, Function, Source, Step, same
from strata.model.fields import Field
from strata.model.instances import Maker
from strata.model.jsonb import UNREADABLE
from strata.model.keys import KeyText, ModelKey
from strata.model.numbers import raised
from strata.model.rows import UnknownColumnError
from strata.model.unloaded import UNLOADED
from strata.model.validation import validation_of


class FieldCipher(Protocol):
    """Encrypts the texts of one table, each bound to its column and to its record's key."""

    def encrypt(self, column: str, key: str, plaintext: str) -> str: ...

    def decrypt(self, column: str, key: str, text: str) -> str: ...


class Compiler:
    """Writes the functions of one model."""

    def __init__(
        self, model: Any, fields: Sequence[Field], columns: Sequence[Column], key: ModelKey, key_text: KeyText
    ) -> None:
        self._model = model
        self._fields = fields
        self._columns = columns
        self._key = key
        self._key_text = key_text
        ignored = {field.name for field in fields if field.ignore}
        self._maker = Maker(model, [field.name for field in fields], partial=True, unset=ignored)

    def make(self, source: Source, values: Mapping[str, str], parts: Sequence[str] = (), whole: str = "") -> Function:
        """The function that ends with making a record; ignored fields get their defaults."""
        ignored = {field.name: f"{source.bind(field.factory)}()" for field in self._fields if field.ignore}
        self._maker.emit(source, {**values, **ignored}, parts, whole)
        return source.function()

    def check(self, *, new: bool = False) -> Callable[[Any], Any]:
        """A function that raises `EncodeError` for a record that cannot be stored, and gives it as the validators of
        pydantic models have it. One that is `new` may be without the key that the database is to assign."""
        validate = validation_of(self._model, self._columns, self.part(), self.make)
        source = Source("check", "record")
        foreign, unread = source.bind(_foreign(self._model)), source.bind(_unread(self._model, self._columns))
        source.line(f"if type(record) is not {source.bind(self._model)}: {foreign}(record)")
        source.line("try:")
        if validate is not None:
            source.line(f"record = {source.bind(validate)}(record)", 2)
        for column in self._columns:
            variable = self._read(source, column, depth=2)
            if column.field.stamped:
                continue  # overwritten anyhow
            sound = source.plain(column.form.sound, variable)
            if column.field.nullable or (new and column.field.generated):
                sound = f"({sound}) or {variable} is None"
            elif column.field.primary_key:
                sound = f"({sound}) and {variable} != ''"
            source.line(f"if not ({sound}): {source.bind(column.settle)}({variable})", 2)
        source.line(f"except {source.bind(StrataError)}: raise")
        source.line("except Exception as error:")
        source.line(f"{unread}(record, error)", 2)
        source.line("raise", 2)
        source.line("return record")
        return source.function()

    def take(self) -> Callable[[Any, Any, Any], tuple[Any, ...] | None] | None:
        """A function that gives, in one step, what `freeze` makes of what `check` and `prepare` make of a record with
        this key; None for one that is not plainly sound, or not whole. There is no such function where others have a
        say, or L1 does not keep every column."""
        validated = validation_of(self._model, self._columns, self.part(), self.make) is not None
        if validated or not all(in_l1(column) for column in self._columns):
            return None
        source = Source("take", "record, id, now")
        source.line(f"if type(record) is not {source.bind(self._model)}: return None")
        source.line("try:")
        kept, several = [], len(self._key.names) > 1
        for column in self._columns:
            field, form = column.field, column.form
            variable = self._read(source, column, depth=2)
            if field.stamped:
                source.line(f"v_{field.name} = now", 2)
            elif form.taken is not None:
                source.line(f"if {variable} is U: return None", 2)
                given = f"if {variable} is not None: " if field.nullable else ""
                source.line(f"{given}{variable} = {source.bind(form.taken)}({variable})", 2)
            else:
                sound = f"({source.plain(form.sound, variable)}) and ({source.plain(form.exact, variable)})"
                if field.nullable:
                    sound = f"({sound}) or {variable} is None"
                if field.primary_key:
                    part = f"id[{self._key.names.index(field.name)}]" if several else "id"
                    sound = f"({sound}) and {variable} == {part}"
                source.line(f"if not ({sound}): return None", 2)
            kept.append(variable if form.taken is not None else source.apply(form.freeze, variable))
        source.line("except Exception: return None")  # the usual way says what is wrong
        source.line(f"return ({''.join(f'{part}, ' for part in kept)})")
        return source.function()

    def prepare(self) -> Function:
        """A function that gives the private, stamped copy of a checked record."""
        source = Source("prepare", "record, now")
        values, read = {}, []
        for column in self._columns:
            if column.field.stamped:
                # A record that is not whole has a row already, which keeps the time of its insert.
                values[column.field.name] = "(U if part else now)" if column.field.auto_now_add else "now"
                continue
            variable = self._read(source, column)
            if not column.field.left_to_database:
                read.append(variable)
            exact = source.plain(column.form.exact, variable)
            settled = f"({variable} if {exact} else {source.bind(column.settle)}({variable}))"
            values[column.field.name] = source.apply(column.form.copy, variable) if column.form.copy else settled
        if any(column.field.auto_now_add for column in self._columns):
            source.line(f"part = {' or '.join(f'{variable} is U' for variable in read) or False}")
        return self.make(source, values)

    def part(self) -> Function:
        """A function that makes a record of some of its fields, by name, with UNLOADED in the others."""
        source = Source("part", "values")
        return self.make(source, {c.field.name: f"values.get({c.field.name!r}, U)" for c in self._columns})

    def copy(self) -> Function:
        """A function that gives a private copy of a record as it is."""
        source = Source("copy", "record")
        values = {c.field.name: source.apply(_private(c), self._read(source, c)) for c in self._columns}
        return self.make(source, values)

    def merge(self) -> Function:
        """A function that gives a private copy of `over`, with `base`'s values where it is UNLOADED."""
        source = Source("merge", "base, over")
        values = {}
        for column in self._columns:
            name = column.field.name
            source.line(f"v_{name} = over.{name}")
            source.line(f"if v_{name} is U: v_{name} = base.{name}")
            values[name] = source.apply(_private(column), f"v_{name}")
        return self.make(source, values)

    def counted(self) -> Function:
        """A function that gives a private copy of a record with what is added to columns, by name, and with the other
        columns that `part` has; None where a column cannot hold its sum."""
        source = Source("counted", "record, deltas, part=None")
        values = {column.field.name: self._read(source, column) for column in self._columns}
        others = [column for column in self._columns if not column.field.primary_key]
        if others:
            source.line("if part is not None:")
        for name in [column.field.name for column in others]:
            source.line(f"if part.{name} is not U and {name!r} not in deltas: v_{name} = part.{name}", 2)
        for name in [column.field.name for column in others if column.field.number is not None]:
            source.line(f"delta = deltas.get({name!r})")
            source.line(f"if delta is not None and v_{name} is not U:")
            source.line(f"v_{name} = {source.bind(raised)}(v_{name}, delta)", 2)
            source.line(f"if type(v_{name}) is int and not {BIGINT_MIN} <= v_{name} <= {BIGINT_MAX}: return None", 2)
        return self.make(source, {c.field.name: source.apply(_private(c), values[c.field.name]) for c in self._columns})

    def freeze(self) -> Function:
        """A function that gives the form in which L1 keeps a record: a tuple of atoms."""
        columns = [column for column in self._columns if in_l1(column)]
        source, slowly = Source("freeze", "record"), Source("freeze", "record")
        kept = [source.apply(c.form.quick or c.form.freeze, self._read(source, c)) for c in columns]
        careful = [slowly.apply(c.form.freeze, self._read(slowly, c)) for c in columns]
        slowly.line(f"return ({''.join(f'{part}, ' for part in careful)})")
        source.line(f"try: return ({''.join(f'{part}, ' for part in kept)})")
        source.line(f"except {source.bind(UNREADABLE)}: return {source.bind(slowly.function())}(record)")
        return source.function()

    def thaw(self) -> Function:
        """The inverse of `freeze`, with UNLOADED in what L1 does not keep."""
        source = Source("thaw", "frozen")
        values = {
            c.field.name: source.apply(c.form.thaw, f"v_{c.field.name}") if in_l1(c) else "U" for c in self._columns
        }
        return self.make(source, values, [c.field.name for c in self._columns if in_l1(c)], "frozen")

    def cached(self) -> Function:
        """A function that gives a record without what L2 does not keep; it shares its values with the first."""
        if not any(column.field.omit_cache for column in self._columns):
            return same
        source = Source("cached", "record")
        return self.make(
            source, {c.field.name: "U" if c.field.omit_cache else f"record.{c.field.name}" for c in self._columns}
        )

    def unloaded(self) -> Function:
        """A function that names the columns that are UNLOADED."""
        names = tuple(column.field.name for column in self._columns if not column.field.primary_key)
        source = Source("unloaded", "record")
        some = " or ".join(f"record.{name} is U" for name in names)
        if some:
            source.line(f"if {some}: return tuple([n for n in {names!r} if getattr(record, n) is U])")
        source.line("return ()")
        return source.function()

    def loaded(self) -> Function:
        """A function that names the columns that are not UNLOADED, but for the key."""
        names = tuple(column.field.name for column in self._columns if not column.field.primary_key)
        source = Source("loaded", "record")
        values = "".join(f"record.{name}, " for name in names)
        source.line(f"return tuple([n for n, v in zip({names!r}, ({values})) if v is not U])")
        return source.function()

    def texts_of(self) -> Callable[[Iterable[Any]], list[str]]:
        """A function that gives the texts of records' keys, which are what keys of their type are known by."""
        source = Source("texts_of", "records")
        key, kinds = self._key_of("record."), self._key.kinds
        if len(kinds) > 1:
            key = f"{source.bind(self._key_text)}({key})"
        elif kinds != (str,):
            key = f"str({key})"
        source.line(f"return [{key} for record in records]")
        return source.function()

    def to_row(self) -> Function:
        """A function that gives a record as a row."""
        source = Source("to_row", "record, cipher")
        if any(column.field.encrypted for column in self._columns):
            source.line(f"if cipher is None: {source.bind(_keyless(self._model, self._columns))}()")
            source.line(f"key = {source.bind(self._key_text)}({self._key_of('record.')})")
        row = []
        for column in self._columns:
            step = None if column.form.to_row is None else Step(CALL, column.form.to_row)
            if column.field.encrypted:
                step = Step(f"cipher.encrypt({column.field.name!r}, key, {{v}})")
            row.append(source.apply(step, self._read(source, column)))
        source.line(f"return ({''.join(f'{part}, ' for part in row)})")
        return source.function()

    def from_row(self) -> Function:
        """The inverse of `to_row`; `names` are the columns of the row where it is not whole."""
        source = Source("from_row", "values, cipher, names=None")
        self._take_apart(source)
        values = {}
        for column in self._columns:
            variable = f"v_{column.field.name}"
            if column.field.encrypted:
                reader = source.bind(_decrypter(column, self._key_text))
                values[column.field.name] = f"{reader}({variable}, {self._key_of('v_')}, cipher)"
            else:
                plain = source.plain(column.form.plain, variable)
                values[column.field.name] = f"({variable} if {plain} else {source.bind(column.restore)}({variable}))"
        return self.make(source, values)

    def _take_apart(self, source: Source) -> None:
        """The lines that give each column's value a variable, whether the row is whole or not."""
        names = [column.field.name for column in self._columns]
        spread = source.bind(_spread(self._model, names))
        source.line(f"if names is not None or len(values) != {len(names)}: values = {spread}(values, names)")
        source.line(f"{', '.join(f'v_{name}' for name in names)}, = values")

    def vet(self) -> Function:
        """A function that looks at the values of a row without making a record of them; `sealed` tells a ciphertext."""
        source = Source("vet", "values, sealed, names=None")
        self._take_apart(source)
        for column in self._columns:
            variable = f"v_{column.field.name}"
            if column.field.encrypted:
                source.line(f"{source.bind(_unsealed(column))}({variable}, sealed)")
            else:
                sound = source.plain(column.form.sound, variable)
                source.line(f"if not ({sound}): {source.bind(column.restore)}({variable})")
        return source.function()

    def _key_of(self, prefix: str) -> str:
        """The expression of a key whose fields are in variables, or attributes, of these names."""
        parts = [f"{prefix}{name}" for name in self._key.names]
        return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"

    def _read(self, source: Source, column: Column, depth: int = 1) -> str:
        name = column.field.name
        source.line(f"v_{name} = record.{name}", depth)
        return f"v_{name}"


def in_l1(column: Column) -> bool:
    """Whether L1 keeps the column."""
    return not (column.field.omit_l1 or column.field.omit_cache)


def _private(column: Column) -> Step | None:
    return None if column.form.immutable else column.form.copy


def _foreign(model: Any) -> Callable[[Any], NoReturn]:
    def foreign(record: Any) -> NoReturn:
        raise EncodeError(f"a {type(record).__name__} was given; it must be a {model.__name__}")

    return foreign


def _unread(model: Any, columns: Sequence[Column]) -> Callable[[Any, Exception], None]:
    def unread(record: Any, error: Exception) -> None:
        """Raise what tells of a field that cannot be read; where all can, the error came from outside."""
        for column in columns:
            where = f"{model.__name__}.{column.field.name}"
            try:
                getattr(record, column.field.name)
            except AttributeError:
                raise EncodeError(f"{where} was never set; it must have a value") from None
            except Exception as again:  # noqa: BLE001 whatever a property of the user's raises
                if type(again) is type(error):
                    raise EncodeError(f"{where} cannot be read: that raises {type(error).__name__}") from error

    return unread


def _keyless(model: Any, columns: Sequence[Column]) -> Callable[[], NoReturn]:
    names = ", ".join(column.field.name for column in columns if column.field.encrypted)

    def keyless() -> NoReturn:
        raise EncodeError(f"{model.__name__} has Encrypted fields ({names}) and no key; set Config.encryption_key")

    return keyless


def _spread(model: Any, columns: Sequence[str]) -> Callable[[Sequence[Any], Sequence[str] | None], list[Any]]:
    places = {name: place for place, name in enumerate(columns)}

    def spread(values: Sequence[Any], names: Sequence[str] | None) -> list[Any]:
        if names is None or len(names) != len(values):
            raise DecodeError(f"a row of {model.__name__} has {len(values)} values; it must have one for each column")
        row = [UNLOADED] * len(columns)
        for name, value in zip(names, values, strict=True):
            if name not in places:
                raise UnknownColumnError(f"a row of {model.__name__} has the column {name!r}, which the model has not")
            row[places[name]] = value
        return row

    return spread


def _unsealed(column: Column) -> Callable[[Any, Callable[[str], bool]], None]:
    def unsealed(value: Any, sealed: Callable[[str], bool]) -> None:
        if value is None or value is UNLOADED:
            column.restore(value)
        elif not sealed(value):
            raise DecodeError(f"{column.where} is Encrypted and holds no ciphertext", column=column.field.name)

    return unsealed


def _decrypter(column: Column, key_text: KeyText) -> Callable[[Any, Any, FieldCipher | None], Any]:
    name = column.field.name

    def decrypter(value: Any, key: Any, cipher: FieldCipher | None) -> Any:
        if value is None or value is UNLOADED or type(value) is not str:
            return column.restore(value)
        if cipher is None:
            raise DecodeError(f"{column.where} is encrypted and there is no key; set Config.encryption_key")
        try:
            key_of_row = key_text(key)
        except EncodeError:
            raise DecodeError(f"{column.where} can be decrypted only with its record's key; ask for both") from None
        try:
            return cipher.decrypt(name, key_of_row, value)
        except DecodeError as error:
            error.column = name
            raise

    return decrypter
