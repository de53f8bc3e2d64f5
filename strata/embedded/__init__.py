"""PostgreSQL and a Redis-compatible server from pip wheels, for development, demo and tests."""

from strata.embedded.postgres import THROWAWAY, EmbeddedPostgres
from strata.embedded.servers import EmbeddedServers
from strata.embedded.valkey import EmbeddedValkey

__all__ = ["THROWAWAY", "EmbeddedPostgres", "EmbeddedServers", "EmbeddedValkey"]
