"""What the errors that Redis answers mean, each in one table: is it there at all, and what would be right.

Known by what servers say (Redis 6.2 to 8, Valkey). Their texts are never passed on: "unknown command" repeats the
arguments, which are keys and records.
"""

from __future__ import annotations

import enum
import re
import ssl
from typing import NamedTuple

from redis import exceptions as errors
from redis.exceptions import RedisError

from strata.protocol.keyspace import Keyspace


def rights(keys: Keyspace, channel: str, *, broker: bool = False) -> str:
    """What a user of Redis's ACL needs, as ACL SETUSER takes it; `broker`: where Celery uses the same Redis."""
    # Celery subscribes to patterns, which Redis grants to who may use all channels, or those very patterns.
    channels, more = ("allchannels", " +@transaction") if broker else (f"&{keys.channel(channel)}*", "")
    return f"~{keys.pattern} {channels} +@read +@write +@pubsub +@scripting +@connection{more} +time -@dangerous +info"


class Effect(enum.Enum):
    """What an answer says of the server that gave it. OUTAGE: it can serve nobody now, or not this client. FULL: it
    takes no write now, and answers reads. REFUSED: it will not have this command of this user, nor the next one like
    it. ALONE: it refused one call, for the key that it is about; others go on."""

    OUTAGE = "outage"
    FULL = "full"
    REFUSED = "refused"
    ALONE = "alone"


class Refusal(NamedTuple):
    """What was refused, and what would be right."""

    found: str
    advice: str
    effect: Effect = Effect.REFUSED

    @property
    def answered(self) -> bool:
        """Whether a server is there that may allow others what it refused here."""
        return self.effect is not Effect.OUTAGE


def _away(found: str, advice: str) -> Refusal:
    return Refusal(found, advice, Effect.OUTAGE)


_LOGIN = "set the user and password of redis_addr (or redis_password) to those of the server"
_GRANT = "grant the user what Strata needs: ACL SETUSER {user} {rights}"
_TLS = "use rediss:// where the server demands TLS and redis:// where it does not, with a certificate that is trusted"
_MASTER = "let redis_addr lead to the master"
_CLUSTER = "give redis_addr all nodes of the Cluster: redis+cluster://a:1,b:2"
_WAIT = "it is tried again by itself"
_RENAMED = "rename no command that Strata needs"
_NO_PASSWORD = _away("it has no password, and one was given", _LOGIN)
_WANTS_PASSWORD = _away("NOAUTH: it wants a password", _LOGIN)
_WRONG_PASSWORD = _away("WRONGPASS: the user or the password is wrong", _LOGIN)
_NO_KEYS = Refusal("NOPERM: the user may not use Strata's keys", _GRANT)
_NO_CHANNEL = Refusal("NOPERM: the user may not use the invalidation channel", _GRANT)
_LACKING = Refusal("it lacks a command that Strata needs", _RENAMED)
_DEAF = _away("it closes connections before it answers anything", _TLS)
_NO_CLIENTS = _away(
    "it takes no more connections", "raise maxclients, or use fewer processes or a lower L2PoolConfig.pool_size"
)

# The word with which an error begins, that of every error in Redis's own documentation that a command of ours can meet.
CODES: dict[str, Refusal] = {
    "NOAUTH": _WANTS_PASSWORD,
    "WRONGPASS": _WRONG_PASSWORD,
    "NOPERM": Refusal("NOPERM: the user may not run a command that Strata needs", _GRANT),
    "DENIED": _away("DENIED: it is in protected mode", "give it a password or a bind"),
    "NOPROTO": _away("NOPROTO: it does not speak this version of the protocol", "use Redis 6.2 or later, or Valkey"),
    "READONLY": _away("READONLY: it is a replica", _MASTER),
    "LOADING": _away("LOADING: it still reads its data", _WAIT),
    "BUSY": _away("BUSY: a script of somebody's runs too long", "end it with SCRIPT KILL; Strata's take milliseconds"),
    "MASTERDOWN": _away("MASTERDOWN: it is a replica without its master", _MASTER),
    "CLUSTERDOWN": _away("CLUSTERDOWN: parts of the Cluster are away", "see to its nodes"),
    "TRYAGAIN": _away("TRYAGAIN: the Cluster is moving this key", _WAIT),
    "NOREPLICAS": _away("NOREPLICAS: it takes no write without replicas", "bring the replicas back"),
    "MISCONF": _away("MISCONF: it cannot write to its disk, and takes no write", "make room on its disk"),
    "OOM": Refusal(
        "OOM: it is out of memory, and takes no write", "give it more maxmemory, or let it forget (maxmemory-policy)",
        Effect.FULL),
    "MOVED": Refusal("MOVED: it is one node of a Cluster", _CLUSTER),
    "ASK": Refusal("ASK: it is one node of a Cluster", _CLUSTER),
    "CROSSSLOT": Refusal("CROSSSLOT: it is a Cluster, or stands before one", _CLUSTER),
    "WRONGTYPE": Refusal(
        "WRONGTYPE: something else than Strata's data stands under one of its keys", "delete it", Effect.ALONE),
    "EXECABORT": Refusal("EXECABORT: it ran no transaction, for one of its commands was refused", _RENAMED),
    "NOSCRIPT": Refusal("NOSCRIPT: it does not know a script", _WAIT, Effect.ALONE),  # which is sent then
}  # fmt: skip

# What redis-py makes of them, which cuts the code off what is said while it connects, and by a Cluster.
_CLASSES: tuple[tuple[type[Exception], str], ...] = (
    (errors.NoPermissionError, "NOPERM"), (errors.ReadOnlyError, "READONLY"), (errors.BusyLoadingError, "LOADING"),
    (errors.MasterDownError, "MASTERDOWN"), (errors.ClusterDownError, "CLUSTERDOWN"),
    (errors.TryAgainError, "TRYAGAIN"), (errors.OutOfMemoryError, "OOM"), (errors.MovedError, "MOVED"),
    (errors.AskError, "ASK"), (errors.ClusterCrossSlotError, "CROSSSLOT"), (errors.ExecAbortError, "EXECABORT"),
    (errors.NoScriptError, "NOSCRIPT"),
)  # fmt: skip

# Pieces of what they say, the first that fits, where that tells more than the code, or there is no code.
SAYINGS: tuple[tuple[str, Refusal], ...] = (
    ("client already authenticated", _WANTS_PASSWORD),
    ("Authentication required", _WANTS_PASSWORD),
    ("invalid username-password", _WRONG_PASSWORD),
    ("invalid password", _WRONG_PASSWORD),
    ("without any password configured", _NO_PASSWORD),
    ("no password is set", _NO_PASSWORD),
    ("access one of the channels", _NO_CHANNEL),
    ("access a channel", _NO_CHANNEL),
    ("can't publish to the channel",
        Refusal("NOPERM: the user may not publish to the invalidation channel", _GRANT)),
    ("access one of the keys", _NO_KEYS),
    ("access a key", _NO_KEYS),
    ("access at least one of the keys", _NO_KEYS),
    ("can't run this command", Refusal("NOPERM: the user may not run a command that Strata's scripts run", _GRANT)),
    ("no permissions to run", CODES["NOPERM"]),
    ("unknown command", _LACKING),
    ("Unknown Redis command", _LACKING),
    ("running in protected mode", CODES["DENIED"]),
    ("max number of clients", _NO_CLIENTS),
    ("DB index is out of range", _away("it has no such database", "lower redis_db, or raise databases")),
    # redis-py's words for what happens while it connects; our own for what happens later are others.
    ("Error while reading from", _DEAF),
    ("Connection closed by server", _DEAF),
    ("Protocol error", _away("what answers does not speak Redis's protocol", _TLS)),
)  # fmt: skip

_CODE = re.compile(r"-?([A-Z]{2,16}) ")
_IN_SCRIPT = re.compile(r" -?(OOM|READONLY|WRONGTYPE|MISCONF|NOREPLICAS|BUSY|CROSSSLOT) ")  # as Redis 6 says it


def refusal_of(error: BaseException) -> Refusal | None:
    """What was answered; None where nothing was, which is an outage."""
    if _by_tls(error):
        return _away("TLS cannot be agreed on, or is not answered", _TLS)
    if not isinstance(error, RedisError):
        return None
    said = str(error)
    for piece, found in SAYINGS:
        if piece in said:
            return found
    code = code_of(error)
    if code in CODES:
        return CODES[code]
    if isinstance(error, errors.DataError):
        said = "a value that Redis cannot take was not sent"
        return Refusal(said, "this is a mistake of Strata's; report it", Effect.ALONE)
    if isinstance(error, errors.ResponseError):
        return Refusal(f"{code or 'ERR'}: it refused a command of Strata's", "its own log may say why", Effect.ALONE)
    return None


def refusal_within(error: BaseException | None) -> Refusal | None:
    """That of the first error of a chain that is one: others put their own around what Redis answered."""
    while error is not None:
        found = refusal_of(error)
        if found is not None:
            return found
        error = error.__cause__ or error.__context__
    return None


def code_of(error: RedisError) -> str:
    """The word by which a server says what is wrong, of an error that it answered; empty where there is none."""
    if isinstance(error, errors.ResponseError):
        for kind, code in _CLASSES:
            if isinstance(error, kind):
                return code
    elif isinstance(error, errors.BusyLoadingError):
        return "LOADING"
    elif isinstance(error, errors.ConnectionError) and not isinstance(error, errors.AuthenticationError):
        return ""  # nothing was answered: what it says is redis-py's, or ours
    found = _CODE.match(str(error))
    code = found[1] if found else ""
    inside = _IN_SCRIPT.search(str(error)) if code in ("", "ERR") else None
    return inside[1] if inside else code


def _by_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError) or "_ssl.c" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
