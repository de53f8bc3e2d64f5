"""The types that a JSONB column may be made of, and how values of each become what msgspec reads and writes.

msgspec would run `__post_init__` of nested records, so that each record class has a *shadow*: a Struct of the same
fields that is decoded in its place. `down` goes from a value to its shadow form, `up` back; a type without records
and datetimes is its own shadow. `down` also refuses what no comparison would find later, with `Unfit`.
"""

from __future__ import annotations

import datetime
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ForwardRef

import msgspec

from strata.errors import InvalidModelError, shown
from strata.model.atoms import ATOMS, AwareDatetime, Unfit, moment, wrong
from strata.model.choices import choices_of, is_choice, noun_of
from strata.model.compile import CALL, Function, Source, Step
from strata.model.hints import declared, is_frozen, is_record, spelled, strip
from strata.model.instances import Maker
from strata.model.markers import AutoNow, AutoNowAdd, Encrypted, Ignore, OmitCache, OmitL1

KEYS = (str, int, *(atom for atom in ATOMS if atom not in (str, int, float, bool, bytes)))
JSON_TYPES = (
    "str, int, float, bool, datetime, bytes, UUID, Decimal, date, time, timedelta, Enum, Literal, a dataclass, dict, "
    "list, tuple, set, Any, and each of them | None"
)
_UNTYPED: dict[Any, Any] = {
    Any: Any,
    object: Any,
    dict: dict[str, Any],
    list: list[Any],
    set: set[Any],
    frozenset: frozenset[Any],
    tuple: tuple[Any, ...],
}
_COLUMN_ONLY = (AutoNow, AutoNowAdd, Encrypted, Ignore, OmitCache, OmitL1)


@dataclass(frozen=True, slots=True)
class Shape:
    """A type inside JSONB. `wire` is what msgspec decodes; `loose` tells that a float in it may be read as an int."""

    wire: Any
    noun: str
    immutable: bool = False
    down: Step | None = None
    up: Step | None = None
    loose: bool = False


class Shapes:
    """The shapes of one column, with the shadows of the records in it."""

    def __init__(self) -> None:
        self._records: dict[Any, _Record] = {}

    @property
    def records(self) -> Collection[Any]:
        """The record classes that were met."""
        return self._records.keys()

    def of(self, hint: Any, where: str) -> Shape:
        """The shape of a type. Raises `InvalidModelError` for one that JSONB cannot hold."""
        stripped = strip(hint)
        for mark in stripped.markers:
            if mark in _COLUMN_ONLY or isinstance(mark, _COLUMN_ONLY):
                raise InvalidModelError(
                    f"{where} is {shown(mark)} inside a nested value; mark a field of the model itself"
                )
        shape = self._bare(stripped.bare, where)
        return _optional(shape) if stripped.nullable else shape

    def _bare(self, hint: Any, where: str) -> Shape:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        untyped = origin if origin in _UNTYPED and not args and hint != tuple[()] else hint
        if hint is datetime.datetime:
            return Shape(AwareDatetime, "an aware datetime", True, Step(CALL, moment))
        if untyped is Any or (isinstance(untyped, type) and untyped in _UNTYPED):
            return Shape(_UNTYPED[untyped], "plain JSON values", loose=True)
        if isinstance(hint, type) and hint in ATOMS:
            return Shape(ATOMS[hint].wire, ATOMS[hint].noun, True)
        if is_choice(hint):
            choices_of(hint, where)
            return Shape(hint, noun_of(hint), True)
        if is_record(hint):
            return self._record(hint, where)
        if origin in (list, set, frozenset) or (origin is tuple and args[1:] == (...,)):
            return _many(origin, self.of(args[0], where))
        if origin is tuple:
            return _fixed([self.of(arg, where) for arg in args])
        if origin is dict:
            return _mapping(self._key(args[0], where), self.of(args[1], where))
        if origin in (typing.Union, types.UnionType):
            return self._union(hint, [self.of(arm, where) for arm in args], where)
        raise _unsupported(hint, where)

    def _key(self, hint: Any, where: str) -> Shape:
        bare = strip(hint).bare
        if bare is Any:
            return self.of(str, where)
        if strip(hint).nullable or not (bare in KEYS or is_choice(bare)):
            raise InvalidModelError(f"{where} has a dict with keys of type {spelled(hint)}; they must be str")
        return self.of(bare, where)

    def _union(self, hint: Any, arms: Sequence[Shape], where: str) -> Shape:
        if any(arm.down or arm.up for arm in arms):
            raise _unsupported(hint, where)
        wire: Any = typing.Union[tuple(arm.wire for arm in arms)]  # noqa: UP007 the arms are known at run time only
        return Shape(wire, spelled(hint), all(arm.immutable for arm in arms), loose=True)

    def _record(self, model: Any, where: str) -> Shape:
        known = self._records.get(model)
        if known is None:
            known = self._records[model] = _Record(model, len(self._records))
            known.fill(self, where)
            for record in self._records.values():
                setattr(known.shadow, record.reference, record.shadow)
                if record.shadow is not None:
                    setattr(record.shadow, known.reference, known.shadow)
        return known.shape()


class _Record:
    """A nested record class: its shadow, and the functions to and from it."""

    def __init__(self, model: Any, number: int) -> None:
        self.model = model
        self.reference = f"Record{number}"
        self.shadow: Any = None
        self._down: Function | None = None
        self._up: Function | None = None
        self._immutable = is_frozen(model)
        self._loose = True

    def shape(self) -> Shape:
        """The record as a part of others. While it is being filled, which happens where it holds itself, by name."""
        noun = f"a {spelled(self.model)}"
        if self._down is None or self._up is None:
            return Shape(
                ForwardRef(self.reference),
                noun,
                self._immutable,
                Step(CALL, lambda value: self._down(value)),  # type: ignore[misc]
                Step(CALL, lambda shadow: self._up(shadow)),  # type: ignore[misc]
                True,
            )
        return Shape(self.shadow, noun, self._immutable, Step(CALL, self._down), Step(CALL, self._up), self._loose)

    def fill(self, shapes: Shapes, where: str) -> None:
        """Make the shadow and the functions."""
        # Rows outlive the class: a field that it has now, and had not then, gets its default. Those that have none go
        # first, as msgspec wants it.
        fields = sorted(declared(self.model), key=lambda item: item.factory is not None)
        defaults = {item.name: item.factory for item in fields if item.factory is not None}
        parts = {item.name: shapes.of(item.hint, f"{where} ({self.model.__name__}.{item.name})") for item in fields}
        wires = {name: shape.wire for name, shape in parts.items()}
        self.shadow = shadow_of(self.model.__name__, wires, optional=defaults)
        self._immutable = self._immutable and all(shape.immutable for shape in parts.values())
        self._loose = any(shape.loose for shape in parts.values())
        down, up = self._compile_down(parts), self._compile_up(parts, defaults)
        self._down, self._up = down, up

    def _compile_down(self, parts: dict[str, Shape]) -> Function:
        source = Source("down", "record")
        source.line(f"if type(record) is not {source.bind(self.model)}:")
        source.line(f"raise {source.bind(wrong)}(record, {f'a {spelled(self.model)}'!r})", 2)
        values = []
        for name, shape in parts.items():
            source.line(f"v_{name} = record.{name}")
            values.append(f"v_{name}" if shape.down is None else source.plain(shape.down, f"v_{name}"))
        source.line(f"return {source.bind(self.shadow)}({', '.join(values)})")
        return source.function()

    def _compile_up(self, parts: dict[str, Shape], defaults: Mapping[str, Callable[[], Any]]) -> Function:
        source = Source("up", "shadow")
        values = {}
        for place, (name, shape) in enumerate(parts.items()):
            source.line(f"v_{name} = shadow.f{place}")
            values[name] = f"v_{name}" if shape.up is None else source.plain(shape.up, f"v_{name}")
            if name in defaults:
                source.line(f"if v_{name} is {source.bind(msgspec.UNSET)}: v_{name} = {source.bind(defaults[name])}()")
                if shape.up is not None:
                    source.line(f"else: v_{name} = {values[name]}")
                    values[name] = f"v_{name}"
        Maker(self.model, list(parts)).emit(source, values)
        return source.function()


def shadow_of(
    name: str,
    wires: Mapping[str, Any],
    *,
    default: Any = msgspec.NODEFAULT,
    optional: Collection[str] = (),
    **options: Any,
) -> Any:
    """A Struct that reads and writes these names as keys; its own fields are `f0`, `f1`, ...

    It is frozen, so that it can be an element of a set. Those that are `optional`, the last ones, may be missing:
    they are UNSET then.
    """
    fields = [
        (f"f{place}", wire, msgspec.field(default=msgspec.UNSET if key in optional else default))
        for place, (key, wire) in enumerate(wires.items())
    ]
    rename = {f"f{place}": key for place, key in enumerate(wires)}
    return msgspec.defstruct(name, fields, rename=rename, frozen=True, **options)


def _unsupported(hint: Any, where: str) -> InvalidModelError:
    return InvalidModelError(f"{where} holds {spelled(hint)}, which JSONB cannot; it must be one of {JSON_TYPES}")


def _optional(shape: Shape) -> Shape:
    def passing(step: Step | None) -> Step | None:
        return None if step is None else Step(f"(None if {{v}} is None else {step.code})", step.helper)

    wire: Any = typing.Optional[shape.wire]  # noqa: UP045 a ForwardRef has no `|` in Python 3.11
    return replace(shape, wire=wire, down=passing(shape.down), up=passing(shape.up))


def _many(container: Any, item: Shape) -> Shape:
    wire = container[(item.wire, ...) if container is tuple else item.wire]
    code = {
        list: "[{item} for i in {v}]",
        set: "{{{item} for i in {v}}}",
        frozenset: "frozenset([{item} for i in {v}])",
        tuple: "tuple([{item} for i in {v}])",
    }[container]

    def made(step: Step | None, checked: bool) -> Step | None:
        if step is None:
            return None
        return _container(container, checked, lambda source: code.format(item=source.plain(step, "i"), v="values"))

    immutable = container in (tuple, frozenset) and item.immutable
    noun = f"a {container.__name__} of {_bare(item.noun)}"
    return Shape(wire, noun, immutable, made(item.down, True), made(item.up, False), item.loose)


def _bare(noun: str) -> str:
    return noun.partition(" ")[2] if noun.startswith(("a ", "an ")) else noun


def _fixed(items: Sequence[Shape]) -> Shape:
    def made(steps: Sequence[Step | None], checked: bool) -> Step | None:
        if not any(steps):
            return None
        return _container(tuple, checked, lambda source: f"({''.join(parts(source, steps))})", len(items))

    def parts(source: Source, steps: Sequence[Step | None]) -> list[str]:
        variables = [f"values[{place}]" for place in range(len(steps))]
        return [f"{v if s is None else source.plain(s, v)}, " for s, v in zip(steps, variables, strict=True)]

    wire: Any = tuple.__class_getitem__(tuple(item.wire for item in items))
    noun = f"a tuple of {len(items)} items"
    down, up = made([item.down for item in items], True), made([item.up for item in items], False)
    return Shape(wire, noun, all(item.immutable for item in items), down, up, any(item.loose for item in items))


def _mapping(key: Shape, value: Shape) -> Shape:
    def made(keys: Step | None, values: Step | None, checked: bool) -> Step | None:
        if keys is None and values is None:
            return None
        return _container(dict, checked, lambda source: pairs(source, keys, values))

    def pairs(source: Source, keys: Step | None, values: Step | None) -> str:
        name = "k" if keys is None else source.plain(keys, "k")
        item = "i" if values is None else source.plain(values, "i")
        return f"{{{name}: {item} for k, i in values.items()}}"

    noun = f"a dict of {_bare(value.noun)}"
    down, up = made(key.down, value.down, True), made(key.up, value.up, False)
    return Shape(dict[key.wire, value.wire], noun, False, down, up, value.loose)  # type: ignore[name-defined]


def _container(kind: type, checked: bool, code: Callable[[Source], str], size: int | None = None) -> Step:
    """A function over the items of a container, which first refuses what is none of that kind."""
    source = Source("items", "values")
    if checked:
        of_size, sized = ("", "") if size is None else (f" or len(values) != {size}", f" of {size} items")
        refuse = f"raise {source.bind(wrong)}(values, {f'a {kind.__name__}{sized}'!r})"
        source.line(f"if not isinstance(values, {kind.__name__}){of_size}: {refuse}")
    source.line(f"made = {code(source)}")
    if checked and size is None:
        # Of two keys or elements that become one, one would be lost.
        source.line(f"if len(made) != len(values): raise {source.bind(Unfit)}('has items that are stored alike')")
    source.line("return made")
    return Step(CALL, source.function())
