"""AES-256-GCM for single fields, bound to table, column and key (NIST SP 800-38D).

A ciphertext is `s1:<key id>:<base64 of nonce and sealed text>`. Its associated data are format, key id, table, column
and key, each with its length in front, so that a ciphertext that was moved elsewhere does not decrypt.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strata.errors import DecodeError, InvalidConfigError

KEY_BYTES = 32
NONCE_BYTES = 12
FORMAT = "s1"
DEFAULT_ID = "k1"  # of a key that is given without one
_ID = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")
_CIPHERTEXT = re.compile(r"s1:([A-Za-z0-9_-]{1,32}):([A-Za-z0-9+/]{38,}={0,2})\Z")


@dataclass(frozen=True)
class EncryptionKeys:
    """Several keys by id: `current` encrypts, all of them decrypt. Each key is exactly 32 bytes.

    A key that was in use before it had an id goes by `k1`.

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
        if self.current not in self.keys:
            raise InvalidConfigError("EncryptionKeys.current is not the id of one of its keys; it must be one of them")
        object.__setattr__(self, "keys", MappingProxyType({name: bytes(key) for name, key in self.keys.items()}))


def keys_from(value: bytes | EncryptionKeys | None) -> EncryptionKeys | None:
    """What `Config.encryption_key` means. Raises `InvalidConfigError`."""
    if value is None or isinstance(value, EncryptionKeys):
        return value
    _check_key(value, "encryption_key")
    return EncryptionKeys(DEFAULT_ID, {DEFAULT_ID: bytes(value)})


def parse_base64_key(text: str) -> bytes:
    """A key from the environment. Raises `InvalidConfigError`, which does not show it."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidConfigError("an encryption key in the environment must be base64") from None
    _check_key(key, "encryption key")
    return key


def key_id_of(text: str) -> str | None:
    """The id of the key that a ciphertext was made with; None for what is no ciphertext."""
    found = _CIPHERTEXT.match(text)
    return None if found is None else found[1]


class TableCipher:
    """Encrypts and decrypts the fields of one table. Thread-safe."""

    def __init__(self, keys: EncryptionKeys, table: str) -> None:
        self._current = keys.current
        self._table = table
        self.prefix = f"{FORMAT}:{keys.current}:"  # of every ciphertext that it makes
        self._ciphers = {name: AESGCM(key) for name, key in keys.keys.items()}

    def encrypt(self, column: str, key: str, plaintext: str) -> str:
        """The ciphertext as text, with a nonce of its own each time."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(
            nonce, plaintext.encode(), self._bound(self._current, column, key)
        )
        return f"{self.prefix}{base64.b64encode(nonce + sealed).decode()}"

    def decrypt(self, column: str, key: str, text: str) -> str:
        """The plaintext. Raises `DecodeError` naming table and column, never a value."""
        where = f"{self._table}.{column}"
        found = _CIPHERTEXT.match(text)
        if found is None:
            raise DecodeError(f"{where} does not hold a ciphertext of Strata's; was it written as plain text?")
        key_id, encoded = found.groups()
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise DecodeError(f"{where} was encrypted with key {key_id!r}, which Config.encryption_key does not have")
        try:
            sealed = base64.b64decode(encoded, validate=True)
            bound = self._bound(key_id, column, key)
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound).decode()
        except (InvalidTag, ValueError):
            raise DecodeError(f"{where} cannot be decrypted: damaged, moved from elsewhere, or another key") from None

    def _bound(self, key_id: str, column: str, key: str) -> bytes:
        parts = [part.encode() for part in (FORMAT, key_id, self._table, column, key)]
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _check_key(key: object, what: str) -> None:
    if not isinstance(key, bytes | bytearray) or len(key) != KEY_BYTES:
        size = f"{len(key)} bytes" if isinstance(key, bytes | bytearray) else f"a {type(key).__name__}"
        raise InvalidConfigError(f"{what} is {size}; it must be exactly {KEY_BYTES} bytes")
