"""A DSN of PostgreSQL, as libpq reads it."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from strata.addresses import SCHEME, UNKNOWN_TO_LIBPQ
from strata.endpoints.urls import ENCODED, PORT, is_port, unknown
from strata.errors import InvalidConfigError

_POSTGRES = "write postgres://user:password@host:5432/database, or host=... dbname=... user=... password=..."


def read_dsn(dsn: str, what: str) -> dict[str, Any]:
    """The parameters of a DSN of PostgreSQL. Raises `InvalidConfigError`; `what` names the setting."""
    if not dsn.strip():
        raise InvalidConfigError(f"{what} is blank; {_POSTGRES}")
    scheme = SCHEME.match(dsn)
    if scheme is not None and scheme[0] not in ("postgres://", "postgresql://"):
        raise InvalidConfigError(f"{what} begins with {scheme[0]}; {_POSTGRES}")
    given, refusal = _by_libpq(dsn)
    if (option := UNKNOWN_TO_LIBPQ.search(refusal)) is not None:
        raise unknown(what, option[1], dsn, [known.keyword.decode() for known in pq.Conninfo.get_defaults()])
    if refusal:
        raise InvalidConfigError(f"{what} cannot be read; {_POSTGRES}, {ENCODED}")
    # What libpq takes for them where a password was not percent-encoded: its login ends at the first @, or /.
    if any("@" in str(given.get(name, "")) for name in ("host", "dbname")):
        raise InvalidConfigError(f"{what} has an @ in its host or database; {_POSTGRES}, {ENCODED}")
    if not all(is_port(port) for port in str(given.get("port", "")).split(",") if port):
        raise InvalidConfigError(
            f"{what} has a port that cannot be one; {PORT}, and a password has its special characters percent-encoded"
        )
    return given


def _by_libpq(dsn: str) -> tuple[dict[str, Any], str]:
    """The parameters of a DSN, and why libpq cannot read it: which may hold a part of a password, so that nothing is
    raised where it would be the context."""
    try:
        return conninfo_to_dict(dsn), ""
    except (psycopg.Error, ValueError) as error:
        return {}, str(error) or "unreadable"
