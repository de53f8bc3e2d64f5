"""Keys as canonical text, which is what L2 keys, messages and the ledger hold.

The text of a key of several fields is that of each, between slashes, as a JSON Pointer has its steps (RFC 6901): a
slash in a text is written `~1`, and a tilde `~0`. So no two keys have one text, and ordinary ones stay readable.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from strata.errors import DecodeError, EncodeError, MissingPrimaryKeyError
from strata.model.atoms import ATOMS, BIGINT_MAX, BIGINT_MIN, Unfit, check_text
from strata.model.fields import Field

# Bytes of a key's text. A key stands in B-tree indexes, beside a schema's name and a version, and of an entry of those
# PostgreSQL takes 2,704 bytes; in notifications, which may have 8,000; and in the names of Redis keys, which every
# command repeats.
MAX_KEY_BYTES = 2_048

KEYS = (str, int, uuid.UUID)  # the types that a key's fields may have

KeyText = Callable[[Any], str]
ParseKey = Callable[[str], Any]


class ModelKey:
    """The fields that are a model's key. Immutable.

    A key, or id, is the value of the one field, or the tuple of those of several, in the order of the fields: what has
    `parts` here is a sequence, whatever the number.
    """

    __slots__ = ("fields", "generated", "kinds", "names", "spelled")

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self.names = tuple(field.name for field in fields)
        self.kinds = tuple(field.annotation for field in fields)
        self.generated = any(field.generated for field in fields)
        self.spelled = repr(self.names[0] if len(fields) == 1 else self.names)  # for messages

    def parts(self, id: Any) -> tuple[Any, ...]:
        """The values of its fields."""
        return (id,) if len(self.names) == 1 else tuple(id)

    def of_parts(self, parts: Sequence[Any]) -> Any:
        """The key of these values of its fields."""
        return parts[0] if len(self.names) == 1 else tuple(parts)

    def given(self, id: Any) -> dict[str, Any]:
        """The values of its fields, by name."""
        return dict(zip(self.names, self.parts(id), strict=True))

    def within(self, values: Mapping[str, Any]) -> Any:
        """The key that is among values by column; None where some of it is not."""
        if not all(name in values for name in self.names):
            return None
        return self.of_parts([values[name] for name in self.names])

    def exact(self, id: Any) -> Any:
        """A key as caches and L3 know it: texts of a class of its own, such as members of a `StrEnum`, are the texts
        that they are."""
        if type(id) is self.kinds[0]:
            return id
        if len(self.kinds) == 1:
            return str.__str__(id)
        if type(id) is tuple and tuple(map(type, id)) == self.kinds:
            return id
        return tuple([str.__str__(part) if isinstance(part, str) else part for part in id])


def key_functions(key: ModelKey, model: str) -> tuple[KeyText, ParseKey]:
    """`key_text` and `parse_key` for the keys of a model.

    The first raises `EncodeError` for what is no key of the model, `MissingPrimaryKeyError` for the empty one; a text
    of a class of its own, such as a member of a `StrEnum`, it takes as the text that it is. The second raises
    `DecodeError` for what is not canonical.
    """
    if len(key.fields) > 1:
        return _tuple_keys(key, model)
    return _MAKERS[key.kinds[0]](f"a key of {model}")


def _text_keys(what: str) -> tuple[KeyText, ParseKey]:
    def key_text(id: Any) -> str:
        if type(id) is str and id and id.isascii() and "\0" not in id and len(id) <= MAX_KEY_BYTES:
            return id
        if not isinstance(id, str):
            raise _foreign(str, what, id)
        text: str = str.__str__(id)  # its characters, whatever a class of the user's makes of them
        if not text:
            raise MissingPrimaryKeyError(f"{what} is empty; it must not be")
        try:
            check_text(text)
        except Unfit as problem:
            raise EncodeError(f"{what} {problem}") from None
        return _short(text, what)

    def parse_key(text: str) -> str:
        if not text:
            raise _unreadable(what)
        return text

    return key_text, parse_key


def _int_keys(what: str) -> tuple[KeyText, ParseKey]:
    def key_text(id: Any) -> str:
        if type(id) is not int:
            raise _foreign(int, what, id)
        if not BIGINT_MIN <= id <= BIGINT_MAX:
            raise EncodeError(f"{what} is outside BIGINT; it must be within 64 bits")
        return str(id)

    def parse_key(text: str) -> int:
        try:
            key = int(text)
        except ValueError:
            raise _unreadable(what) from None
        if str(key) != text or not BIGINT_MIN <= key <= BIGINT_MAX:
            raise _unreadable(what)
        return key

    return key_text, parse_key


def _uuid_keys(what: str) -> tuple[KeyText, ParseKey]:
    def key_text(id: Any) -> str:
        if type(id) is not uuid.UUID:
            raise _foreign(uuid.UUID, what, id)
        return str(id)

    def parse_key(text: str) -> uuid.UUID:
        try:
            key = uuid.UUID(text)
        except ValueError:
            raise _unreadable(what) from None
        if str(key) != text:
            raise _unreadable(what)
        return key

    return key_text, parse_key


_MAKERS: dict[Any, Callable[[str], tuple[KeyText, ParseKey]]] = {
    str: _text_keys,
    int: _int_keys,
    uuid.UUID: _uuid_keys,
}


def _tuple_keys(key: ModelKey, model: str) -> tuple[KeyText, ParseKey]:
    what, count = f"a key of {model}", len(key.fields)
    wanted = f"it must be a tuple of {count}, ({', '.join(key.names)})"
    made = [_MAKERS[field.annotation](f"{field.name} in {what}") for field in key.fields]
    texts, parsers = [text for text, _ in made], [parse for _, parse in made]

    def key_text(id: Any) -> str:
        if not isinstance(id, tuple):
            raise EncodeError(f"{what} is of type {type(id).__name__}; {wanted}")
        if len(id) != count:
            raise EncodeError(f"{what} has {len(id)} parts; {wanted}")
        return _short("/".join([_escaped(text(part)) for text, part in zip(texts, id, strict=True)]), what)

    def parse_key(text: str) -> tuple[Any, ...]:
        steps = text.split("/")
        if len(steps) != count or not all(_escaped(_unescaped(step)) == step for step in steps):
            raise _unreadable(what)
        return tuple([parse(_unescaped(step)) for parse, step in zip(parsers, steps, strict=True)])

    return key_text, parse_key


def shown_key(id: Any) -> str:
    """A key's text for people, of whatever model it is: the canonical one."""
    return "/".join([_escaped(str(part)) for part in id]) if isinstance(id, tuple) else str(id)


def _escaped(text: str) -> str:
    """A text as a step of a JSON Pointer."""
    return text.replace("~", "~0").replace("/", "~1")


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def _short(text: str, what: str) -> str:
    if len(text) > MAX_KEY_BYTES // 4 and (size := len(text.encode())) > MAX_KEY_BYTES:  # a character has four at most
        raise EncodeError(f"{what} has {size:,} bytes; it may have {MAX_KEY_BYTES:,}: take a shorter one, or its hash")
    return text


def _foreign(kind: type, what: str, id: Any) -> EncodeError:
    return EncodeError(f"{what} is of type {type(id).__name__}; it must be {ATOMS[kind].noun}")


def _unreadable(what: str) -> DecodeError:
    return DecodeError(f"a text cannot be read as {what}; it must be what key_text made")
