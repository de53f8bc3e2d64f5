"""Per column: how a value looks in L1, in a row of L3, and on the wire, and how it comes back."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from strata.errors import DecodeError, EncodeError, InvalidModelError, MissingPrimaryKeyError
from strata.model.atoms import ATOMS, BIGINT_MAX, BIGINT_MIN, BigInt, Unfit
from strata.model.choices import choices_of, is_choice, is_enum, normal_choice, noun_of, plain_of, value_of
from strata.model.compile import CALL, Step
from strata.model.fields import Field, Kind
from strata.model.hints import is_record, spelled
from strata.model.jsonb import UNREADABLE, Jsonb, said, to_msgpack
from strata.model.shapes import Shapes
from strata.model.unloaded import UNLOADED
from strata.model.validators import inside

UNHELD: Any = type("Unheld", (), {"__repr__": lambda self: "UNHELD", "__slots__": ()})()
"""What stands in a row for a value that PostgreSQL has and Python has not: a date beyond the year 9999, say."""

CONTAINERS = (dict, list, tuple, set, frozenset)
SUPPORTED = (
    "str, int, float, bool, datetime, bytes, UUID, Decimal, date, time, timedelta, Enum, Literal, a dataclass, dict, "
    "list, tuple or set, and each of them | None"
)


@dataclass(frozen=True, slots=True)
class Form:
    """What one type of column does with values that are neither None nor UNLOADED.

    `sound` is true of values that can be stored and need no closer look, `exact` of checked values that are in their
    final form. `normal` brings any other into it, or raises `Unfit`; `read` does so with a value of a row, of which
    `plain` is true where nothing is to be done. `copy` makes mutable values private, `freeze` gives L1's form and
    `thaw` takes it back; `quick` is as `freeze`, of most values: where it raises what is in `UNREADABLE`, `freeze` says
    what is wrong, if anything is. `to_row` gives a row's; `down` and `up` go to and from `wire`, the type that msgspec
    decodes for the codecs. `packed` is the same for packed rows. No step is the identity. `inside` validates pydantic
    models that are nested in a value, and gives it as their validators have it.
    """

    kind: Kind
    noun: str
    sound: Step
    exact: Step
    normal: Callable[[Any], Any]
    read: Callable[[Any], Any]
    plain: Step
    wire: Any
    packed: Any
    immutable: bool = True
    copy: Step | None = None
    freeze: Step | None = None
    quick: Step | None = None
    thaw: Step | None = None
    taken: Callable[[Any], Any] | None = None
    to_row: Callable[[Any], Any] | None = None
    down: Step | None = None
    up: Step | None = None
    inside: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a model: its facts and its form. `where` is the class and the field, for messages."""

    where: str
    field: Field
    form: Form

    def settle(self, value: Any) -> Any:
        """The value as it is stored. Raises `EncodeError`, which never holds the value."""
        if value is UNLOADED:
            return value
        if value is None and self.field.nullable:
            return None
        if value is None and self.field.generated:
            raise MissingPrimaryKeyError(
                f"{self.where} is None; use insert, by which the database assigns the key, or give the record its key"
            )
        if value is None:
            optional = "" if self.field.primary_key else f", or annotated `{spelled(self.field.annotation)} | None`"
            raise EncodeError(f"{self.where} is None; it must be {self.form.noun}{optional}")
        try:
            settled = self.form.normal(value)
        except Unfit as problem:
            raise EncodeError(f"{self.where} {problem}") from None
        if settled == "" and self.field.primary_key:
            raise MissingPrimaryKeyError(f"{self.where} is empty; a key must not be")
        return settled

    def to_row(self, value: Any) -> Any:
        """The value as a row has it, before encryption; None and UNLOADED as they are."""
        convert = self.form.to_row
        return value if convert is None or value is None or value is UNLOADED else convert(value)

    def restore(self, value: Any) -> Any:
        """The value that a row holds. Raises `DecodeError`, which never holds the value."""
        if value is UNLOADED:
            return value
        if value is None:
            if self.field.nullable:
                return None
            wanted = f"it must be {self.form.noun}, or annotated `| None`"
            raise DecodeError(f"{self.where} is NULL in its row; {wanted}", column=self.field.name)
        if value is UNHELD:
            unheld = "holds a value that Python cannot hold, such as a date beyond the year 9999"
            raise DecodeError(f"{self.where} {unheld}; it must be {self.form.noun}", column=self.field.name)
        try:
            return self.form.read(value)
        except (Unfit, KeyError, *UNREADABLE) as error:
            message = f"{self.where} cannot be read back from its row{said(error)}; it must be {self.form.noun}"
            raise DecodeError(message, column=self.field.name) from None


def form_of(annotation: Any, where: str) -> Form:
    """The form of a bare type. Raises `InvalidModelError` for one that no column can hold."""
    if isinstance(annotation, type) and annotation in ATOMS:
        return _atom(annotation)
    if is_choice(annotation):
        return _choice(annotation, where)
    bare = typing.get_origin(annotation) or annotation
    if is_record(annotation) or any(bare is kind for kind in CONTAINERS):
        return _json(annotation, where)
    raise InvalidModelError(f"{where} has the type {spelled(annotation)}; it must be one of {SUPPORTED}")


def _atom(annotation: Any) -> Form:
    atom = ATOMS[annotation]
    exact = Step(atom.exact)
    return Form(
        kind=atom.kind,
        noun=atom.noun,
        sound=Step(atom.sound),
        exact=exact,
        normal=atom.normal,
        read=atom.normal,
        plain=Step(atom.plain) if atom.plain else exact,
        wire=BigInt if annotation is int else atom.wire,
        packed=annotation,
        freeze=atom.freeze,
        thaw=atom.thaw,
    )


def _choice(annotation: Any, where: str) -> Form:
    choices = choices_of(annotation, where)
    members = list(choices.values())
    texts = isinstance(value_of(members[0]), str)
    if not texts and not all(BIGINT_MIN <= value_of(member) <= BIGINT_MAX for member in members):
        raise InvalidModelError(f"{where} is {spelled(annotation)}, with a value outside BIGINT; use str values")
    freeze: Step | None = None
    thaw: Step | None = None
    if is_enum(annotation):
        test = Step("type({v}) is {f}", annotation)
        freeze, thaw = Step("{v}._value_"), Step("{f}[{v}]", {member.value: member for member in members})
    else:
        test = Step(f"type({{v}}) is {'str' if texts else 'int'} and {{v}} in {{f}}", frozenset(members))
    return Form(
        kind=Kind.TEXT if texts else Kind.BIGINT,
        noun=noun_of(annotation),
        sound=test,
        exact=test,
        normal=normal_choice(annotation, choices),
        read={plain_of(member): member for member in members}.__getitem__,
        plain=Step("False"),
        wire=annotation,
        packed=str if texts else int,
        freeze=freeze,
        thaw=thaw,
        to_row=plain_of if is_enum(annotation) else None,
    )


def _json(annotation: Any, where: str) -> Form:
    shapes = Shapes()
    shape = shapes.of(annotation, where)
    values = Jsonb(shape, where)
    return Form(
        kind=Kind.JSONB,
        noun=shape.noun,
        sound=Step("False"),
        exact=Step("False"),
        normal=values.normal,
        read=values.read,
        plain=Step("False"),
        wire=shape.wire,
        packed=Any,  # text as Strata writes it, bytes as psycopg may read it
        immutable=shape.immutable,
        copy=Step(CALL, values.copy),
        freeze=Step(CALL, values.pack),
        quick=None if shape.down is not None else Step(CALL, to_msgpack),
        thaw=Step(CALL, values.unpack),
        taken=values.taken,
        to_row=values.text,
        down=shape.down,
        up=shape.up,
        inside=inside(shapes.records),
    )
