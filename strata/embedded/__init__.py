"""PostgreSQL and a Redis-compatible server from pip wheels, for development, demo and tests."""

from strata.embedded.postgres import EmbeddedPostgres
from strata.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey"]
