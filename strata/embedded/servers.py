"""PostgreSQL and Valkey together: all that Strata needs."""

from __future__ import annotations

import contextlib
from typing import Self

from strata.embedded.given import made_of
from strata.embedded.lifetime import Lifetime
from strata.embedded.postgres import EmbeddedPostgres
from strata.embedded.valkey import EmbeddedValkey


class EmbeddedServers(Lifetime):
    """Both servers as one context manager: `postgres.dsn` and `valkey.url` are what a `Config` takes. Not
    thread-safe."""

    def __init__(self, postgres: EmbeddedPostgres | None = None, valkey: EmbeddedValkey | None = None) -> None:
        self.postgres = EmbeddedPostgres() if postgres is None else made_of(postgres, EmbeddedPostgres, "postgres")
        self.valkey = EmbeddedValkey() if valkey is None else made_of(valkey, EmbeddedValkey, "valkey")

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
