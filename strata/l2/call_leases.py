"""The leases of calls that make records, beside the keys of these: they keep others from making the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from strata import waits
from strata.errors import StrataError

if TYPE_CHECKING:
    from strata.l2.client import RedisServer


class CallLeases:
    """Those of one schema, whose `name` stands in their keys; it keeps no state of its own. `token` gives one that
    nobody else has, `run` a script's answer."""

    def __init__(
        self,
        server: RedisServer,
        name: str,
        token: Callable[[], str],
        run: Callable[[str, Sequence[str], Sequence[Any]], Any],
    ) -> None:
        self._server = server
        self._name = name
        self._token = token
        self._run = run

    def begin(self, key_text: str, lasting: float) -> str:
        """Leave a lease for the call that makes a record, beside its key, for so many seconds; returns its token, which
        is empty where another's lease stands."""
        token = self._token()
        try:
            [standing] = self._run("read", [self._key(key_text)], [token, round(lasting * 1000), ""])
        except BaseException as error:
            if not isinstance(error, StrataError):
                self.end(key_text, token)
            raise
        return token if standing is None else ""

    def stands(self, key_text: str) -> bool:
        """Whether a lease of a call stands."""
        return self._server.value(self._key(key_text)) is not None

    def end(self, key_text: str, token: str) -> None:
        """End the lease of a call, where it still stands; else it ends by itself."""
        with contextlib.suppress(StrataError), waits.shield():
            self._run("fill", [self._key(key_text)], [token, "", 0])

    def _key(self, key_text: str) -> str:
        return self._server.keys.calls(self._name, key_text)
