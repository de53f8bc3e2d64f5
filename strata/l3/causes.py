"""Why PostgreSQL cannot be used, in a few words."""

from __future__ import annotations

import re

import psycopg

from strata.observe.causes import network_cause

_START = "start it, or correct host and port of its address"
_REACH = "see whether it hangs, or a firewall is in between; correct host and port of its address"
_NAME = "correct the host of its address, or see to the resolver"
_TLS = "set sslmode, and sslrootcert or sslcert, of its address to what it demands"
# Pieces of what libpq and psycopg say, the first that fits, each with what to do; nothing of a statement or a row is in
# these.
_SAYS = (
    ("Connection refused", "connection refused", _START),
    ("timeout", "timed out", _REACH),
    ("timed out", "timed out", _REACH),
    ("could not translate host name", "the name of the host cannot be resolved", _NAME),
    ("failed to resolve host", "the name of the host cannot be resolved", _NAME),
    ("certificate", "the certificate is not trusted, or one is wanted", _TLS),
    ("SSL", "TLS cannot be agreed on", _TLS),
    ("No such file", "there is no such socket", _START),
    ("server closed the connection", "it closed the connection", ""),
    ("the connection is lost", "the connection was cut", ""),
    ("Connection reset", "the connection was cut", ""),
)
# Pieces of why it admits nobody, or not this client, with what to do.
_ADMITS = (
    ("password authentication failed", "set the user and password of its address to those of the role"),
    ("no password supplied", "give its address the role's password"),
    ("no pg_hba.conf entry", "let its pg_hba.conf admit this role, database and host, or connect with TLS (sslmode)"),
    ("role ", "name another role in its address, or give this one the right to log in"),
    ("database ", "create the database, or name another one in its address"),
    ("too many", "raise max_connections, or use fewer processes or a lower L3PoolConfig.max_conns"),
    ("connection slots", "raise max_connections, or use fewer processes or a lower L3PoolConfig.max_conns"),
    ("the database system is", "it is tried again by itself"),
)
_BY_CODE = {
    "25006": "let the address lead to the primary",
    "53100": "make room on its disk",
    "53200": "give it more memory",
    "57P03": "it is tried again by itself",
}
_FATAL = re.compile(r"FATAL: +(.*)", re.DOTALL)


def cause_of(error: psycopg.Error | None) -> str:
    """What keeps it from being used; to be asked before `failures.diagnose`, or after it."""
    if error is None:
        return "the connection was cut"
    said = " ".join(str(error).split())
    if error.sqlstate:
        return f"{error.sqlstate} {type(error).__name__}"
    if fatal := _FATAL.search(said):  # of the start of a connection: names of roles and databases
        return fatal[1]
    for piece, cause, _ in _SAYS:
        if piece in said:
            return cause
    return network_cause(error) or type(error).__name__.lstrip("_")


def advice_of(error: psycopg.Error | None) -> str:
    """What to do about it; empty where nothing is to be said beyond `cause_of`."""
    if error is None:
        return ""
    said = " ".join(str(error).split())
    if error.sqlstate:
        return _BY_CODE.get(error.sqlstate, "")
    if fatal := _FATAL.search(said):
        return next((advice for piece, advice in _ADMITS if piece in fatal[1]), "")
    return next((advice for piece, _, advice in _SAYS if piece in said), "")
