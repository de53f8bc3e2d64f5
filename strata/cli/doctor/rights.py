"""What the user of a Redis may do: each command that Strata uses is tried, on a key of its own.

Redis looks at rights before it looks at anything else that could be wrong, so that the tries change nothing. A script
does not say which of its commands it may not run; these do.
"""

from __future__ import annotations

from collections.abc import Iterator

from redis.exceptions import NoScriptError, OutOfMemoryError

from strata.cli.doctor.finding import Finding, fail
from strata.errors import WITHOUT_L2
from strata.l2.client import RedisServer
from strata.l2.refusals import refusal_of

_MISSING = "no such key"  # says RENAME
TEXT, HASH, ZSET, LIST = KINDS = ("text", "hash", "zset", "list")  # names of keys

# No key is there, and what sets one lets it expire at once.
TRIES: tuple[tuple[str | int, ...], ...] = (
    ("TIME",), ("GET", TEXT), ("MGET", TEXT), ("GETEX", TEXT), ("EXISTS", TEXT), ("TYPE", TEXT), ("PTTL", TEXT),
    ("RENAME", TEXT, TEXT), ("DEL", TEXT), ("SET", TEXT, "", "PX", 1),
    ("SETRANGE", TEXT, 0, ""), ("EXPIRE", TEXT, 1), ("PEXPIRE", TEXT, 1),
    ("PEXPIREAT", TEXT, 1), ("SCAN", 0, "COUNT", 1),
    ("HGET", HASH, "a"), ("HMGET", HASH, "a"), ("HGETALL", HASH), ("HKEYS", HASH), ("HLEN", HASH), ("HDEL", HASH, "a"),
    ("HSET", HASH, "a", ""), ("HINCRBY", HASH, "b", 1), ("DEL", HASH),
    ("ZADD", ZSET, 1, "a"), ("ZCARD", ZSET), ("ZRANGE", ZSET, 0, 0), ("ZREVRANGE", ZSET, 0, 0), ("ZSCORE", ZSET, "a"),
    ("ZRANGEBYSCORE", ZSET, 0, 0), ("ZREMRANGEBYSCORE", ZSET, 0, 0),
    ("ZREMRANGEBYRANK", ZSET, 0, 0), ("ZREM", ZSET, "a"),
    ("RPUSH", LIST, ""), ("LRANGE", LIST, 0, 0), ("LLEN", LIST), ("LTRIM", LIST, 1, 0), ("DEL", LIST),
    ("EVAL", "return 1", 0), ("EVALSHA", "0" * 40, 0),
)  # fmt: skip


def lacking(what: str, server: RedisServer, channel: str) -> Iterator[Finding]:
    """The findings about rights that are missing; none where none is.

    Raises `L2UnavailableError` where it does not answer, or can serve nobody.
    """
    missing: dict[str, list[str]] = {}
    advice = ""
    tries = (*TRIES, ("PUBLISH", f"{channel}:doctor", ""), ("SUBSCRIBE", channel))
    for words in tries:
        command = tuple(server.keys.own("doctor", str(word)) if word in KINDS else word for word in words)
        try:
            answer = server.subscribe(channel) if command[0] == "SUBSCRIBE" else server.execute(*command)
            if command[0] == "SUBSCRIBE":
                answer.hear(server.timeout)
                refused = [said for said in answer.heard() if isinstance(said, Exception)]
                answer.close()
                if refused:
                    raise server.unavailable(refused[0]) from refused[0]
        except WITHOUT_L2 as error:
            if isinstance(error.__cause__, NoScriptError | OutOfMemoryError) or _MISSING in str(error.__cause__):
                continue  # it might have been run
            refusal = None if error.__cause__ is None else refusal_of(error.__cause__)
            if refusal is None or not refusal.answered:
                raise
            advice = str(error).partition("; ")[2]
            missing.setdefault(refusal.found, []).append(str(command[0]))
    for found, commands in missing.items():
        names = ", ".join(dict.fromkeys(commands))
        yield fail(f"rights of {what}", f"{found} ({names})", advice)
