"""`Seal`: the codec of entries, which signs what goes to Redis and takes back nothing that it has not signed.

Values are pickles, and whoever can write a pickle runs code where it is read. So it is unpickled only where an HMAC
(RFC 2104, SHA-256) shows that it was written by who has the secret. The key is signed with the value, so that an entry
is no other's, and the name of the cache is in the signing key, so that it is no other cache's.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, TypeVar

from strata.errors import DecodeError

T = TypeVar("T")

SIGNED, PLAIN = b"H1", b"P1"
SIZE = sha256().digest_size


class Seal:
    """Signs by the first secret, and takes what any of them has signed; without one nothing is signed. Immutable.

    What L2 holds is `H1`, the signature, the length of the key as text, `:`, the key and the value; or, unsigned, `P1`
    and the rest. Either is foreign where the other is expected.
    """

    def __init__(self, name: str, secrets: Sequence[bytes]) -> None:
        self._keys = [hmac.digest(secret, b"strata.drop_in:" + name.encode(), "sha256") for secret in secrets]

    def __eq__(self, other: object) -> bool:
        return type(other) is Seal and other._keys == self._keys

    def __hash__(self) -> int:
        return hash(tuple(self._keys))

    def encode(self, record: Any, model: type[Any]) -> bytes:
        """An entry as bytes."""
        key = record.id.encode()
        body = b"%d:%b%b" % (len(key), key, record.value)
        return SIGNED + hmac.digest(self._keys[0], body, "sha256") + body if self._keys else PLAIN + body

    def decode(self, data: bytes, model: type[T]) -> T:
        """The entry of the bytes. Raises `DecodeError` for what none of the secrets has signed."""
        body = self._checked(data)
        length, _, rest = body.partition(b":")
        size = int(length) if length.isdigit() else -1
        if not 0 <= size <= len(rest):
            raise DecodeError("an entry does not say how long its key is")
        return model(rest[:size].decode(), rest[size:])  # type: ignore[call-arg]

    def _checked(self, data: bytes) -> bytes:
        if not self._keys:
            if data[: len(PLAIN)] != PLAIN:
                raise DecodeError("an entry is signed, and there is no secret key to check it by")
            return data[len(PLAIN) :]
        begin = len(SIGNED) + SIZE
        signature, body = data[len(SIGNED) : begin], data[begin:]
        if data[: len(SIGNED)] == SIGNED:
            for key in self._keys:
                if hmac.compare_digest(signature, hmac.digest(key, body, "sha256")):
                    return body
        raise DecodeError("an entry was not signed with this secret key")
