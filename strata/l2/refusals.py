"""Answers of Redis that are no outage: a mistake in the set-up, or a state that somebody has to end.

Known by what servers say (Redis 6.2 to 8, Valkey). Their texts are never passed on: "unknown command" repeats the
arguments, which are keys and records.
"""

from __future__ import annotations

import ssl
from typing import NamedTuple

from redis.exceptions import RedisError

from strata.keyspace import Keyspace


def rights(keys: Keyspace, channel: str, *, broker: bool = False) -> str:
    """What a user of Redis's ACL needs, as ACL SETUSER takes it; `broker`: where Celery uses the same Redis."""
    # Celery subscribes to patterns, which Redis grants to who may use all channels, or those very patterns.
    channels, more = ("allchannels", " +@transaction") if broker else (f"&{keys.channel(channel)}*", "")
    return f"~{keys.pattern} {channels} +@read +@write +@pubsub +@scripting +@connection{more} +time -@dangerous +info"


class Refusal(NamedTuple):
    """What was refused, and what would be right. `answered`: a server that is there refused one command; others may be
    allowed."""

    found: str
    advice: str
    answered: bool = True


_LOGIN = "set the user and password of redis_addr (or redis_password) to those of the server"
_GRANT = "grant the user what Strata needs: ACL SETUSER {user} {rights}"
_TLS = "use rediss:// where the server demands TLS and redis:// where it does not, with a certificate that is trusted"
_MASTER = "let redis_addr lead to the master"

# Pieces of what servers say, the first that fits; redis-py cuts the code off what is said while it connects.
_SAYS: tuple[tuple[str, Refusal], ...] = (
    ("NOAUTH", Refusal("NOAUTH: it wants a password", _LOGIN, False)),
    ("client already authenticated", Refusal("NOAUTH: it wants a password", _LOGIN, False)),
    ("Authentication required", Refusal("NOAUTH: it wants a password", _LOGIN, False)),
    ("WRONGPASS", Refusal("WRONGPASS: the user or the password is wrong", _LOGIN, False)),
    ("invalid username-password", Refusal("WRONGPASS: the user or the password is wrong", _LOGIN, False)),
    ("invalid password", Refusal("WRONGPASS: the user or the password is wrong", _LOGIN, False)),
    ("without any password configured", Refusal("it has no password, and one was given", _LOGIN, False)),
    ("no password is set", Refusal("it has no password, and one was given", _LOGIN, False)),
    ("access one of the channels", Refusal("NOPERM: the user may not use the invalidation channel", _GRANT)),
    ("access a channel", Refusal("NOPERM: the user may not use the invalidation channel", _GRANT)),
    ("can't publish to the channel", Refusal("NOPERM: the user may not publish to the invalidation channel", _GRANT)),
    ("access one of the keys", Refusal("NOPERM: the user may not use Strata's keys", _GRANT)),
    ("access a key", Refusal("NOPERM: the user may not use Strata's keys", _GRANT)),
    ("access at least one of the keys", Refusal("NOPERM: the user may not use Strata's keys", _GRANT)),
    ("can't run this command", Refusal("NOPERM: the user may not run a command that Strata's scripts run", _GRANT)),
    ("NOPERM", Refusal("NOPERM: the user may not run a command that Strata needs", _GRANT)),
    ("no permissions to run", Refusal("NOPERM: the user may not run a command that Strata needs", _GRANT)),
    ("unknown command", Refusal("it lacks a command that Strata needs", "rename no command that Strata needs")),
    ("Unknown Redis command", Refusal("it lacks a command that Strata needs", "rename no command that Strata needs")),
    ("running in protected mode", Refusal("DENIED: it is in protected mode", "give it a password or a bind", False)),
    ("max number of clients", Refusal(
        "it takes no more connections", "raise maxclients, or use fewer processes or a lower L2PoolConfig.pool_size",
        False)),
    ("DB index is out of range", Refusal("it has no such database", "lower redis_db, or raise databases", False)),
    ("READONLY", Refusal("READONLY: it is a replica", _MASTER, False)),
    ("NOREPLICAS", Refusal("NOREPLICAS: it takes no write without replicas", "bring the replicas back", False)),
    ("MISCONF", Refusal("MISCONF: it cannot write to its disk, and takes no write", "make room on its disk", False)),
    # redis-py's words for what happens while it connects; our own for what happens later are others.
    ("Error while reading from", Refusal("it closes connections before it answers anything", _TLS, False)),
    ("Connection closed by server", Refusal("it closes connections before it answers anything", _TLS, False)),
    ("Protocol error", Refusal("what answers does not speak Redis's protocol", _TLS, False)),
)  # fmt: skip


def refusal_of(error: BaseException) -> Refusal | None:
    """What the error says is wrong with the set-up; None where it is an outage like another."""
    if _by_tls(error):
        return Refusal("TLS cannot be agreed on, or is not answered", _TLS, False)
    if isinstance(error, RedisError):
        said = str(error)
        for piece, found in _SAYS:
            if piece in said:
                return found
    return None


def _by_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError) or "_ssl.c" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
