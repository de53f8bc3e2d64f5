"""The leases of calls that make records, beside the keys of these: they keep others from making the same."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from strata import waits
from strata.errors import StrataError

if TYPE_CHECKING:
    from strata.l2.client import RedisServer


class CallLeases:
    """Those of one schema, whose `_name` stands in their keys; it keeps no state of its own."""

    server: RedisServer
    _name: str

    def token(self) -> str:
        """A token that nobody else has."""
        raise NotImplementedError

    def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        raise NotImplementedError

    def begin_call(self, key_text: str, lasting: float) -> str:
        """Leave a lease for the call that makes a record, beside its key, for so many seconds; returns its token, which
        is empty where another's lease stands."""
        token = self.token()
        try:
            [standing] = self._run("read", [self._call(key_text)], [token, round(lasting * 1000), ""])
        except BaseException as error:
            if not isinstance(error, StrataError):
                self.end_call(key_text, token)
            raise
        return token if standing is None else ""

    def is_called(self, key_text: str) -> bool:
        """Whether a lease of a call stands."""
        return self.server.value(self._call(key_text)) is not None

    def end_call(self, key_text: str, token: str) -> None:
        """End the lease of a call, where it still stands; else it ends by itself."""
        with contextlib.suppress(StrataError), waits.shield():
            self._run("fill", [self._call(key_text)], [token, "", 0])

    def _call(self, key_text: str) -> str:
        return self.server.keys.calls(self._name, key_text)
