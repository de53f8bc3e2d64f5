"""AES-256-GCM for single fields, bound to table, column and key (NIST SP 800-38D).

A ciphertext is `s1:<key id>:<base64 of nonce and sealed text>`. Its associated data are format, key id, table, column
and key, each with its length in front, so that a ciphertext that was moved elsewhere does not decrypt.
"""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strata import waits
from strata.encryption_keys import CIPHERTEXT, EncryptionKeys
from strata.errors import DecodeError

NONCE_BYTES = 12
FORMAT = "s1"


class TableCipher:
    """Encrypts and decrypts the fields of one table. Thread-safe."""

    def __init__(self, keys: EncryptionKeys, table: str) -> None:
        self._current = keys.current
        self._table = table
        self.prefix = f"{FORMAT}:{keys.current}:"  # of every ciphertext that it makes
        self._ciphers = {name: AESGCM(key) for name, key in keys.keys.items()}

    def encrypt(self, column: str, key: str, plaintext: str) -> str:
        """The ciphertext as text, with a nonce of its own each time."""
        nonce = waits.chance().randbytes(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(
            nonce, plaintext.encode(), self._bound(self._current, column, key)
        )
        return f"{self.prefix}{base64.b64encode(nonce + sealed).decode()}"

    def decrypt(self, column: str, key: str, text: str) -> str:
        """The plaintext. Raises `DecodeError` naming table and column, never a value."""
        where = f"{self._table}.{column}"
        found = CIPHERTEXT.match(text)
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
