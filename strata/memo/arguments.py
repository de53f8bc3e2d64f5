"""The key of a call, as text: the same in every process and release of Python, and another for every other call.

`limit=10,user="ann"`: each parameter's name and its argument, in the order of the signature, defaults included. An
argument is written with its type, so that 1, True, 1.0 and "1" differ:

| | |
|---|---|
| `None` `True` `42` `1.0` | themselves; an int of more than 2,048 bits as `0x...` |
| `"text"` | a str, as in JSON |
| `bytes(6869)` `UUID(...)` `Decimal(1.50)` | by hexadecimal digits, or as they are written |
| `date(...)` `time(...)` `datetime(...)` `timedelta(...)` | ISO 8601, of a zone the offset alone; days, s, µs |
| `(1,2)` `[1,2]` `set(1,2)` `frozenset(1,2)` `{"a":1}` | what is in them; of set and dict in the order of the texts |
| `shop.Size.LARGE` | a member of an Enum; of a Flag its value, `shop.Access(3)` |
| `shop.Point(x=1,y=2)` | a dataclass or a Struct, by its fields |
| `type(shop.Point)` | a class, such as the `cls` of a class method |

A text of more than 160 characters is cut, and ends in its SHA-256: `query="...#<64 digits>`, which is longer than any
that is whole.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from json.encoder import encode_basestring
from typing import Any
from uuid import UUID

import msgspec

from strata.errors import EncodeError

WHOLE, HEAD = 160, 128  # characters of a text that is whole, and of what is left of one that is not
BITS = 2_048  # of an int in decimal: whatever `sys.set_int_max_str_digits` says, Python writes so many
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class _Unwritten(Exception):
    """There is no text of a value; the message goes on from the argument's name."""


NONE = type(None)


class _Writers(dict[type, Callable[[Any], str]]):
    """Those of few types, and for any other one what finds its own."""

    def __missing__(self, kind: type) -> Callable[[Any], str]:
        return _text


QUICK = _Writers({str: encode_basestring, int: int.__repr__, float: float.__repr__, bool: bool.__repr__, NONE: repr})
FAILED = (_Unwritten, RecursionError, ValueError)


class Arguments:
    """What makes the key of a function's calls: of their arguments, or of what `own`, a function of the same arguments,
    returns. Immutable."""

    def __init__(self, function: Callable[..., Any], where: str, own: Callable[..., Any] | None = None) -> None:
        """`where` is the function, for messages."""
        self._where = where
        self._own = own
        self.signature = inspect.signature(function)

    def text(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The key. Raises `EncodeError` for an argument that has no text, and `TypeError` for a call that the function
        does not take."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        where = self._where
        if self._own is not None:
            text = written(self._own(*bound.args, **bound.kwargs), where, "key")
        else:
            text = ",".join(f"{name}={written(value, where, name)}" for name, value in bound.arguments.items()) or "()"
        if len(text) <= WHOLE:
            return text
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            raise EncodeError(f"an argument of {where} holds a lone surrogate, which is no text; remove it") from None
        return f"{text[:HEAD]}#{hashlib.sha256(raw).hexdigest()}"

    def expression(self, bind: Callable[[Any], str]) -> str:
        """The text as an expression over the parameters, which may also raise one of `FAILED`, or be longer than
        `WHOLE`: then it is not the key."""
        write, kind = bind(QUICK), bind(type)
        if self._own is not None:
            value = bind(partial(written, where=self._where, name="key"))
            return f"{value}({bind(self._own)}({self.passed}))"
        names = self.signature.parameters
        return f"f'{','.join(f'{name}={{{write}[{kind}({name})]({name})}}' for name in names) or '()'}'"

    def declared(self, bind: Callable[[Any], str]) -> str:
        """The parameters as a function declares them, with the defaults that there are."""
        parts = []
        for item in self.signature.parameters.values():
            default = item.empty if item.default is item.empty else _Shown(bind(item.default))
            parts.append(item.replace(annotation=item.empty, default=default))
        return str(inspect.Signature(parts))[1:-1]

    @property
    def passed(self) -> str:
        """The parameters as arguments of a call."""
        return ", ".join(map(_passed, self.signature.parameters.values()))


def _passed(item: inspect.Parameter) -> str:
    if item.kind is item.KEYWORD_ONLY:
        return f"{item.name}={item.name}"
    stars = "*" if item.kind is item.VAR_POSITIONAL else "**" if item.kind is item.VAR_KEYWORD else ""
    return stars + item.name


class _Shown:
    """What a signature shows as this text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def written(value: Any, where: str, name: str) -> str:
    """The text of one value. Raises `EncodeError` for what has none."""
    try:
        return _text(value)
    except _Unwritten as problem:
        raise EncodeError(f"argument {name!r} of {where} {problem}; give cached a key= that leaves it out") from None
    except RecursionError:
        raise EncodeError(
            f"argument {name!r} of {where} is nested too deeply, or holds itself; give cached a key= that leaves it out"
        ) from None


def _text(value: Any) -> str:
    kind = type(value)
    write = _WRITERS.get(kind)
    if write is not None:
        return write(value)
    if isinstance(value, enum.Enum):
        if isinstance(value, enum.Flag):
            return f"{_class(kind)}({_text(value.value)})"
        return f"{_class(kind)}.{_plain(value.name)}"
    if "__dataclass_fields__" in vars(kind):
        return _record(value, [field.name for field in dataclasses.fields(value)])
    if isinstance(value, msgspec.Struct):
        return _record(value, value.__struct_fields__)
    if isinstance(value, type):
        return f"type({_class(value)})"
    raise _Unwritten(f"is of type {kind.__name__}, of which no text can be made that is the same in every process")


def _class(kind: type) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not _NAME.fullmatch(name):
        raise _Unwritten(
            f"is of the class {kind.__qualname__}, which is not of a module, so that others may be called so"
        )
    return name


def _record(value: Any, names: Iterable[str]) -> str:
    try:
        parts = [f"{_plain(name)}={_text(getattr(value, name))}" for name in names]
    except AttributeError:
        raise _Unwritten(f"is a {type(value).__name__} without some of its fields") from None
    return f"{_class(type(value))}({','.join(parts)})"


def _plain(name: str) -> str:
    return name if name.isidentifier() else encode_basestring(name)


def _integer(value: int) -> str:
    return int.__repr__(value) if value.bit_length() <= BITS else hex(value)


def _decimal(value: Any) -> str:
    return f"Decimal({str(value).upper()})"  # the context of the thread may have it write a small e


def _zoned(value: Any) -> str:
    # An ISO text does not say which of two times it is, where clocks are put back.
    return f"{value.isoformat()}{',fold' if value.fold else ''}"


def _time(value: Any) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise _Unwritten("is a time in a zone that has no offset of its own")
    return f"time({_zoned(value)})"


def _many(begin: str, end: str) -> Callable[[Iterable[Any]], str]:
    return lambda values: f"{begin}{','.join(map(_text, values))}{end}"


def _unordered(begin: str) -> Callable[[Iterable[Any]], str]:
    return lambda values: f"{begin}({','.join(sorted(map(_text, values)))})"


def _mapping(values: Any) -> str:
    return "{" + ",".join(sorted(f"{_text(key)}:{_text(value)}" for key, value in values.items())) + "}"


_WRITERS: dict[type, Callable[[Any], str]] = QUICK | {
    int: _integer,
    bytes: lambda value: f"bytes({value.hex()})",
    UUID: lambda value: f"UUID({value})",
    Decimal: _decimal,
    datetime.date: lambda value: f"date({value.isoformat()})",
    datetime.datetime: lambda value: f"datetime({_zoned(value)})",
    datetime.time: _time,
    datetime.timedelta: lambda value: f"timedelta({value.days},{value.seconds},{value.microseconds})",
    list: _many("[", "]"),
    tuple: _many("(", ")"),
    set: _unordered("set"),
    frozenset: _unordered("frozenset"),
    dict: _mapping,
}
