"""PostgreSQL and Valkey together: all that Strata needs."""

from __future__ import annotations

import contextlib
from typing import Self

from strata.embedded.lifetime import Lifetime
from strata.embedded.postgres import EmbeddedPostgres
from strata.embedded.valkey import EmbeddedValkey


class EmbeddedServers(Lifetime):
    """Both servers as one context manager. Not thread-safe.

    >>> with EmbeddedServers() as servers:                         # doctest: +SKIP
    ...     Config(postgres_dsn=servers.postgres.dsn, redis_addr=servers.valkey.addr)
    """

    def __init__(self, postgres: EmbeddedPostgres | None = None, valkey: EmbeddedValkey | None = None) -> None:
        self.postgres = postgres or EmbeddedPostgres()
        self.valkey = valkey or EmbeddedValkey()

    def start(self) -> Self:
        """Start both, or none. Raises what their `start` raises."""
        with contextlib.ExitStack() as started:
            started.enter_context(self.postgres)
            started.enter_context(self.valkey)
            started.pop_all()
        return self

    def stop(self) -> None:
        """Stop both; their temporary directories are removed."""
        try:
            self.valkey.stop()
        finally:
            self.postgres.stop()

    def environment(self) -> dict[str, str]:
        """The variables that lead `Config.from_env` here."""
        return {"STRATA_POSTGRES_DSN": self.postgres.dsn, "STRATA_REDIS_ADDR": self.valkey.url}
