"""Keys as canonical text, which is what L2 keys, messages and the ledger hold."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from strata.errors import DecodeError, EncodeError, MissingPrimaryKeyError
from strata.model.atoms import ATOMS, BIGINT_MAX, BIGINT_MIN, Unfit, check_text

# Bytes of a key's text. A key stands in B-tree indexes, beside a schema's name and a version, and of an entry of those
# PostgreSQL takes 2,704 bytes; in notifications, which may have 8,000; and in the names of Redis keys, which every
# command repeats.
MAX_KEY_BYTES = 2_048

KEYS = (str, int, uuid.UUID)  # the types that a key may have

KeyText = Callable[[Any], str]
ParseKey = Callable[[str], Any]


def key_functions(kind: Any, model: str) -> tuple[KeyText, ParseKey]:
    """`key_text` and `parse_key` for keys of a type.

    The first raises `EncodeError` for what is no key of the model, `MissingPrimaryKeyError` for the empty one; a text
    of a class of its own, such as a member of a `StrEnum`, it takes as the text that it is. The second raises
    `DecodeError` for what is not canonical.
    """
    make = {str: _text_keys, int: _int_keys, uuid.UUID: _uuid_keys}[kind]
    return make(model)


def _text_keys(model: str) -> tuple[KeyText, ParseKey]:
    def key_text(id: Any) -> str:
        if type(id) is str and id and id.isascii() and "\0" not in id and len(id) <= MAX_KEY_BYTES:
            return id
        if not isinstance(id, str):
            raise _foreign(str, model, id)
        text: str = str.__str__(id)  # its characters, whatever a class of the user's makes of them
        if not text:
            raise MissingPrimaryKeyError(f"the key of a {model} is empty; a key must not be")
        try:
            check_text(text)
        except Unfit as problem:
            raise EncodeError(f"a key of {model} {problem}") from None
        if (size := len(text.encode())) > MAX_KEY_BYTES:
            raise EncodeError(
                f"a key of {model} has {size:,} bytes; it may have {MAX_KEY_BYTES:,}: take a shorter one, or its hash"
            )
        return text

    def parse_key(text: str) -> str:
        if not text:
            raise _unreadable(model)
        return text

    return key_text, parse_key


def _int_keys(model: str) -> tuple[KeyText, ParseKey]:
    def key_text(id: Any) -> str:
        if type(id) is not int:
            raise _foreign(int, model, id)
        if not BIGINT_MIN <= id <= BIGINT_MAX:
            raise EncodeError(f"a key of {model} is outside BIGINT; it must be within 64 bits")
        return str(id)

    def parse_key(text: str) -> int:
        try:
            key = int(text)
        except ValueError:
            raise _unreadable(model) from None
        if str(key) != text or not BIGINT_MIN <= key <= BIGINT_MAX:
            raise _unreadable(model)
        return key

    return key_text, parse_key


def _uuid_keys(model: str) -> tuple[KeyText, ParseKey]:
    def key_text(id: Any) -> str:
        if type(id) is not uuid.UUID:
            raise _foreign(uuid.UUID, model, id)
        return str(id)

    def parse_key(text: str) -> uuid.UUID:
        try:
            key = uuid.UUID(text)
        except ValueError:
            raise _unreadable(model) from None
        if str(key) != text:
            raise _unreadable(model)
        return key

    return key_text, parse_key


def _foreign(kind: type, model: str, id: Any) -> EncodeError:
    return EncodeError(f"a key of {model} is of type {type(id).__name__}; it must be {ATOMS[kind].noun}")


def _unreadable(model: str) -> DecodeError:
    return DecodeError(f"a text cannot be read as a key of {model}; it must be what key_text made")
