"""`EncryptionKeys`, and what a ciphertext shows of them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from strata.errors import InvalidConfigError

KEY_BYTES = 32
DEFAULT_ID = "k1"  # of a key that is given without one
_ID = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")
CIPHERTEXT = re.compile(r"s1:([A-Za-z0-9_-]{1,32}):([A-Za-z0-9+/]{38,}={0,2})\Z")


@dataclass(frozen=True)
class EncryptionKeys:
    """Several keys of encryption by id. Raises `InvalidConfigError` for what is none, without showing it.

    A key that was in use before it had an id goes by `k1`.

    Attributes:
        current: The id of the key that encrypts.
        keys: The keys that decrypt, each exactly 32 bytes, by id: 1 to 32 of a-z, A-Z, 0-9, `-` and `_`.

    >>> EncryptionKeys(current="k2", keys={"k1": bytes(32), "k2": bytes(range(32))})
    EncryptionKeys(current='k2')
    """

    current: str
    keys: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.keys, Mapping):
            raise InvalidConfigError(f"EncryptionKeys.keys is a {type(self.keys).__name__}; it must map ids to keys")
        for name, key in self.keys.items():
            if not isinstance(name, str) or not _ID.match(name):
                raise InvalidConfigError("the id of an encryption key must be 1 to 32 of a-z, A-Z, 0-9, - and _")
            _check_key(key, f"encryption key {name!r}")
        if not isinstance(self.current, str) or self.current not in self.keys:
            raise InvalidConfigError("EncryptionKeys.current is not the id of one of its keys; it must be one of them")
        object.__setattr__(self, "keys", MappingProxyType({name: bytes(key) for name, key in self.keys.items()}))


def keys_from(value: bytes | EncryptionKeys | None) -> EncryptionKeys | None:
    """What `Config.encryption_key` means. Raises `InvalidConfigError`."""
    if value is None or isinstance(value, EncryptionKeys):
        return value
    _check_key(value, "encryption_key")
    return EncryptionKeys(DEFAULT_ID, {DEFAULT_ID: bytes(value)})


def parse_base64_key(text: str, what: str) -> bytes:
    """A key from the environment. Raises `InvalidConfigError`, which calls it `what` and does not show it."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidConfigError(f"{what} is not base64; it must be {KEY_BYTES} bytes in base64") from None
    _check_key(key, what)
    return key


def key_id_of(text: str) -> str | None:
    """The id of the key that a ciphertext was made with; None for what is no ciphertext."""
    found = CIPHERTEXT.match(text)
    return None if found is None else found[1]


def _check_key(key: object, what: str) -> None:
    if not isinstance(key, bytes | bytearray) or len(key) != KEY_BYTES:
        size = f"{len(key)} bytes" if isinstance(key, bytes | bytearray) else f"a {type(key).__name__}"
        raise InvalidConfigError(f"{what} is {size}; it must be exactly {KEY_BYTES} bytes")
