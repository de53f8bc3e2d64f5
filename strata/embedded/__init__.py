"""PostgreSQL and a Redis-compatible server from pip wheels, for development, demo and tests."""

from strata.embedded.cluster import EmbeddedCluster
from strata.embedded.postgres import THROWAWAY, EmbeddedPostgres
from strata.embedded.sentinel import EmbeddedSentinel
from strata.embedded.servers import EmbeddedServers
from strata.embedded.standby import EmbeddedStandby
from strata.embedded.valkey import EmbeddedValkey
from strata.exports import export

__all__ = [
    "THROWAWAY",
    "EmbeddedCluster",
    "EmbeddedPostgres",
    "EmbeddedSentinel",
    "EmbeddedServers",
    "EmbeddedStandby",
    "EmbeddedValkey",
]

__dir__ = export(globals())
