"""UNLOADED, the value of a field that was not loaded, and what leaves the application with it: nothing, unsaid."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, islice
from typing import Any, Final, NoReturn, TypeVar

from strata.errors import EncodeError

T = TypeVar("T")

_LOOKED_AT = 100  # items of a list, or of a dict, in which the field is sought that a message names
_ADVICE = "ask for whole records, as by get(..., whole=True), or leave the field out"


class _Unloaded:
    """The one value of a field that is not in the tier that answered.

    It is made neither text nor items, and none of its attributes is looked at: an encoder that tries (`json.dumps` with
    `default=str`, `enc_hook=str`, FastAPI's `jsonable_encoder`, pydantic's `from_attributes`, templates) raises
    `EncodeError` instead. Those that know nothing of it name its class.
    """

    __slots__ = ()
    __module__ = "strata"  # by which a pickle of UNLOADED finds it

    def __repr__(self) -> str:
        return "UNLOADED"

    def __bool__(self) -> bool:
        return False

    def __copy__(self) -> _Unloaded:
        return self

    def __deepcopy__(self, memo: Any) -> _Unloaded:
        return self

    def __reduce__(self) -> str:
        return "UNLOADED"  # pickled by name, so that it stays one object

    def __str__(self) -> str:
        raise _refusal()

    def __iter__(self) -> Iterator[Any]:
        raise _refusal()

    def __getattr__(self, name: str) -> NoReturn:
        """Where there is no attribute, `from_attributes` would take the default of its field, and templates nothing."""
        if name.startswith("_"):
            raise AttributeError(f"UNLOADED has no attribute {name!r}")
        raise _refusal()

    @property
    def __pydantic_serializer__(self) -> Any:
        """By which pydantic makes JSON of a value that its schema does not foresee."""
        core = sys.modules.get("pydantic_core")
        if core is None:
            raise AttributeError("__pydantic_serializer__")
        return _serializer(core)


_Unloaded.__name__ = _Unloaded.__qualname__ = "UNLOADED"  # as messages of encoders have it
UNLOADED: Final[Any] = _Unloaded()


def loaded(record: object, /) -> bool:
    """Whether a record is whole: none of its fields holds UNLOADED.

    Raises `EncodeError` for what is no record.

    >>> loaded(Player("p1", "andrew")), loaded(Player("p1", UNLOADED))
    (True, False)
    """
    return not _names(record)


def whole(record: T, /) -> T:
    """The record itself, if it is whole: for the edge of an application, before it is made JSON.

    Raises `EncodeError`, which names the fields, where some hold UNLOADED, and for what is no record.

    >>> whole(Player("p1", "andrew"))
    Player(id='p1', name='andrew')
    """
    if names := _names(record):
        raise EncodeError(_said(f"{type(record).__name__}.{name}" for name in names))
    return record


def _names(record: object) -> tuple[str, ...]:
    """The fields of a record that hold UNLOADED. Raises `EncodeError` for what is no record."""
    fields = _fields(type(record))
    if fields is None:
        raise EncodeError(f"a {type(record).__name__} was given; it must be a record: a dataclass, Struct or BaseModel")
    return tuple(name for name in fields if getattr(record, name, None) is UNLOADED)


def _fields(kind: type) -> Iterable[str] | None:
    """The names of the fields of a class of records; None for any other class."""
    for told in ("__dataclass_fields__", "__struct_fields__", "__pydantic_fields__"):
        fields = getattr(kind, told, None)
        if isinstance(fields, Mapping | tuple):
            return fields
    return None


def _said(fields: Iterable[str]) -> str:
    return f"{', '.join(fields) or 'a field'}: UNLOADED, which is not given out as a value; {_ADVICE}"


def _refusal() -> EncodeError:
    """What is raised in the place of a text. UNLOADED knows no field that holds it; the variables of those who call
    do, the nearest first."""
    fields: list[str] = []
    frame = sys._getframe(1)
    while frame.f_back is not None and not fields:
        frame = frame.f_back
        if frame.f_locals is frame.f_globals:
            continue  # a module's, which have nothing to do with the call
        try:
            fields = [name for value in list(frame.f_locals.values()) for name in _held_in(value)]
        except Exception:  # noqa: BLE001 whatever a caller's own objects raise; a message can do without
            continue
    return EncodeError(_said(dict.fromkeys(fields)))


def _held_in(value: Any, depth: int = 2) -> Iterator[str]:
    """The names of the fields, in a record, a dict of its values, or a list of these, that hold UNLOADED."""
    if type(value) is dict:
        pairs = islice(value.items(), _LOOKED_AT)
        yield from (name for name, item in pairs if item is UNLOADED and type(name) is str and name.isidentifier())
        inner: Iterable[Any] = value.values()
    elif type(value) in (list, tuple):
        inner = value
    else:
        if _fields(type(value)) is not None:
            yield from (f"{type(value).__name__}.{name}" for name in _names(value))
        return
    if depth:
        yield from chain.from_iterable(_held_in(item, depth - 1) for item in islice(inner, _LOOKED_AT))


@cache
def _serializer(core: Any) -> Any:
    """In JSON only: `model_dump()` gives UNLOADED as it is, since what comes of it may be written back."""
    refusing = core.core_schema.plain_serializer_function_ser_schema(_without_json, when_used="json")
    return core.SchemaSerializer(core.core_schema.any_schema(serialization=refusing))


def _without_json(unloaded: Any) -> NoReturn:
    raise _refusal()
