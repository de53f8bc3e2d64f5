"""Values of caches as bytes: pickles where they will be signed, else JSON, which nobody can run."""

from __future__ import annotations

import json
import pickle
from typing import Any, Protocol

from strata.errors import EncodeError

JSON_TYPES = (type(None), bool, int, float, str)


class Serializer(Protocol):
    """Makes bytes of a value, and the value of the bytes."""

    def dumps(self, value: Any, /) -> bytes: ...
    def loads(self, data: bytes, /) -> Any: ...


class Pickles:
    """Any value that can be pickled. What `dumps` and `loads` raise is pickle's."""

    @staticmethod
    def dumps(value: Any, /) -> bytes:
        """The pickle of a value."""
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    loads = staticmethod(pickle.loads)


class JsonTypes:
    """None, bool, int, float, str, lists of these, and dicts of them by text."""

    @staticmethod
    def dumps(value: Any, /) -> bytes:
        """JSON of a value. Raises `EncodeError` for one that would not come back as it is."""
        try:
            _check(value)
            return json.dumps(value, separators=(",", ":")).encode()
        except RecursionError:
            raise EncodeError("a value that holds itself cannot be cached without a secret key") from None
        except ValueError as error:  # a whole number of thousands of digits, which Python itself would not read back
            raise EncodeError(f"a value cannot be cached without a secret key: {error}") from None

    loads = staticmethod(json.loads)


def serializer_of(secrets: object) -> Serializer:
    """Pickles are for who has a secret to sign them with."""
    return Pickles() if secrets else JsonTypes()


def _check(value: Any) -> None:
    kind = type(value)
    if kind is list:
        for item in value:
            _check(item)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise _other(key)
            _check(item)
    elif kind not in JSON_TYPES:
        raise _other(value)


def _other(value: Any) -> EncodeError:
    return EncodeError(
        f"a value of, or with, a {type(value).__name__} cannot be cached without a secret key, only what JSON has "
        "(None, bool, int, float, str, list, and dict with keys of str); give one: secret_key, or STRATA_SECRET_KEY"
    )
