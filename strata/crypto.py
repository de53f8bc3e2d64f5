"""AES-256-GCM for single fields, bound to table, column and key (NIST SP 800-38D).

A ciphertext is `s1:<key id>:<base64 of nonce and sealed text>`. Its associated data are format, key id, table, column
and key, each with its length in front, so that a ciphertext that was moved elsewhere does not decrypt.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strata.errors import DecodeError, InvalidConfigError

KEY_BYTES = 32
NONCE_BYTES = 12
FORMAT = "s1"
DEFAULT_ID = "k1"


@dataclass(frozen=True)
class EncryptionKeys:
    """Several keys by id: `current` encrypts, all of them decrypt. Each key is exactly 32 bytes."""

    current: str
    keys: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        for name, key in self.keys.items():
            if not isinstance(name, str) or not name.isalnum() or not name.isascii() or len(name) > 32:
                raise InvalidConfigError("an encryption key's id must be at most 32 letters and digits")
            _check_key(key, f"encryption key {name!r}")
        if self.current not in self.keys:
            raise InvalidConfigError(f"the current encryption key {self.current!r} is not among the keys")
        object.__setattr__(self, "keys", MappingProxyType(dict(self.keys)))


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


class TableCipher:
    """Encrypts and decrypts the fields of one table. Thread-safe."""

    def __init__(self, keys: EncryptionKeys, table: str) -> None:
        self._current = keys.current
        self._table = table
        self._ciphers = {name: AESGCM(key) for name, key in keys.keys.items()}

    def encrypt(self, column: str, key: str, plaintext: str) -> str:
        """The ciphertext as text, with a nonce of its own each time."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(
            nonce, plaintext.encode(), self._bound(self._current, column, key)
        )
        return f"{FORMAT}:{self._current}:{base64.b64encode(nonce + sealed).decode()}"

    def decrypt(self, column: str, key: str, text: str) -> str:
        """The plaintext. Raises `DecodeError` naming table and column, never a value."""
        where = f"{self._table}.{column}"
        parts = text.split(":")
        if len(parts) != 3 or parts[0] != FORMAT:
            raise DecodeError(f"{where} does not hold a ciphertext of this library; was it written as plain text?")
        cipher = self._ciphers.get(parts[1])
        if cipher is None:
            raise DecodeError(
                f"{where} was encrypted with key {parts[1][:32]!r}, which Config.encryption_key does not have"
            )
        try:
            sealed = base64.b64decode(parts[2], validate=True)
            return cipher.decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._bound(parts[1], column, key)
            ).decode()
        except (InvalidTag, binascii.Error, ValueError):
            raise DecodeError(f"{where} cannot be decrypted: damaged, moved from elsewhere, or another key") from None

    def _bound(self, key_id: str, column: str, key: str) -> bytes:
        parts = [part.encode() for part in (FORMAT, key_id, self._table, column, key)]
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _check_key(key: object, what: str) -> None:
    if not isinstance(key, bytes | bytearray) or len(key) != KEY_BYTES:
        size = f"{len(key)} bytes" if isinstance(key, bytes | bytearray) else f"a {type(key).__name__}"
        raise InvalidConfigError(f"{what} is {size}; it must be exactly {KEY_BYTES} bytes")
