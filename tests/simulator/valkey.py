"""A Redis on a virtual clock: the commands that Strata uses, and real Lua (5.1, as Redis has it) for its scripts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from lupa import lua51

NO_SCRIPT = "NOSCRIPT No matching script. Please use EVAL."


class RefusedError(Exception):
    """The server's error answer; its text is what the client gets."""


class Status(bytes):
    """A simple string, such as OK: a table with the field `ok` to Lua."""


class Hash(dict[bytes, bytes]):
    """Fields and values."""


class Sorted(dict[bytes, float]):
    """Members and scores."""

    def ranked(self) -> list[tuple[float, bytes]]:
        return sorted((score, member) for member, score in self.items())


class Listed(list[bytes]):
    """Values in order."""


def _json(value: Any) -> bytes:
    return json.dumps(
        value.decode() if isinstance(value, bytes) else [text.decode() for text in value.values()]
    ).encode()


OK = Status(b"OK")
WRITES = frozenset(
    "del expire hdel hincrby hset ltrim pexpire pexpireat rename rpush set setrange zadd zrem zremrangebyrank"
    " zremrangebyscore".split()
)
READ_ONLY = "READONLY You can't write against a read only replica."
NO_PUBLISH = "User default has no permissions to run the 'publish' command"
KINDS: dict[type, bytes] = {bytes: b"string", Hash: b"hash", Sorted: b"zset", Listed: b"list"}


class Valkey:
    """The data of one server. `publish` passes a message on to those who subscribed."""

    def __init__(self, now_ms: Callable[[], float], publish: Callable[[bytes, bytes], int]) -> None:
        self._now_ms = now_ms
        self._publish = publish
        self.data: dict[bytes, Any] = {}
        self.expires: dict[bytes, float] = {}
        self._lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=False)
        self._table = self._lua.table_from
        fail = self._lua.eval(b"function(text) return { err = text } end")
        protect = self._lua.eval(
            b"function(call) return function(...) local r = call(...)"
            b" if type(r) == 'table' and r.err then error(r, 0) end return r end end"
        )
        self._lua.globals()[b"redis"] = self._table(
            {b"call": protect(self._from_script), b"pcall": self._from_script, b"error_reply": fail}
        )
        self._lua.globals()[b"cjson"] = self._table({b"encode": _json})
        self._compile = self._lua.eval(
            b"function(text) local run = assert(loadstring('local KEYS, ARGV = ... ' .. text))"
            b" return function(keys, args) local ok, r = pcall(run, keys, args)"
            b" if ok or type(r) == 'table' then return r end return { err = 'ERR ' .. tostring(r) } end end"
        )
        self._scripts: dict[bytes, Any] = {}
        self._learnt: list[bytes] = []  # of these, those that somebody has sent
        self.mute = False  # whether who asks now may not publish
        self.read_only = False
        self.stored: Callable[[bytes, bytes], None] | None = None  # told of each text that is stored

    def begin(self) -> None:
        """Empty, as after a start; the scripts that it was to know from the start are known still."""
        for sha in self._learnt:
            del self._scripts[sha]
        self._learnt.clear()
        self.data.clear()
        self.expires.clear()

    def copied(self) -> tuple[dict[bytes, Any], dict[bytes, float]]:
        """What is here now, for `restore`."""
        held = {key: value if type(value) is bytes else type(value)(value) for key, value in self.data.items()}
        return held, dict(self.expires)

    def restore(self, copy: tuple[dict[bytes, Any], dict[bytes, float]]) -> None:
        """What was here when the copy was made, and nothing else."""
        self.data, self.expires = copy

    def command(self, parts: Sequence[bytes], *, script: bool = False) -> Any:
        """The answer; an error is returned as `RefusedError`. `script`: it is a script that asks."""
        name = parts[0].decode().lower()
        if self.mute and name == "publish":
            return RefusedError(f"NOPERM ACL failure in script: {NO_PUBLISH}" if script else f"NOPERM {NO_PUBLISH}")
        if self.read_only and name in WRITES:
            return RefusedError(READ_ONLY)
        try:
            return getattr(self, "do_" + name)(*parts[1:])
        except RefusedError as error:
            return error
        except AttributeError:
            raise NotImplementedError(parts) from None

    # -- scripts ------------------------------------------------------------------------------------------------

    def do_eval(self, text: bytes, count: bytes, *rest: bytes) -> Any:
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        if sha not in self._scripts:
            self._scripts[sha] = self._compile(text)
            self._learnt.append(sha)
        return self.do_evalsha(sha, count, *rest)

    def do_evalsha(self, sha: bytes, count: bytes, *rest: bytes) -> Any:
        script = self._scripts.get(sha)
        if script is None:
            raise RefusedError(NO_SCRIPT)
        keys = int(count)
        return self._answer(script(self._table(rest[:keys]), self._table(rest[keys:])))

    def load(self, text: str, sha: str) -> None:
        """Know a script from the start, by the sum of another text perhaps, of which it is a mutant."""
        self._scripts[sha.encode()] = self._compile(text.encode())

    def _from_script(self, name: bytes, *args: Any) -> Any:
        answer = self.command([name, *[part if type(part) is bytes else _number(part) for part in args]], script=True)
        if isinstance(answer, RefusedError):
            return self._table({b"err": str(answer).encode()})
        return self._to_lua(answer)

    def _to_lua(self, answer: Any) -> Any:
        if isinstance(answer, Status):
            return self._table({b"ok": bytes(answer)})
        if isinstance(answer, list):
            return self._table([self._to_lua(item) for item in answer])
        return False if answer is None else answer

    def _answer(self, value: Any) -> Any:
        kind = type(value)
        if kind is bytes or kind is int:
            return value
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if kind is float:
            return int(value)
        if value[b"err"] is not None:
            raise RefusedError(value[b"err"].decode())
        if value[b"ok"] is not None:
            return Status(value[b"ok"])
        return [self._answer(value[place]) for place in range(1, len(value) + 1)]

    # -- keys ---------------------------------------------------------------------------------------------------

    def _held(self, key: bytes, kind: type) -> Any:
        if key in self.expires and self.expires[key] <= self._now_ms():
            self._drop(key)
        found = self.data.get(key)
        if found is not None and type(found) is not kind:
            raise RefusedError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return found

    def _any(self, key: bytes) -> Any:
        if key in self.expires and self.expires[key] <= self._now_ms():
            self._drop(key)
        return self.data.get(key)

    def _made(self, key: bytes, kind: type) -> Any:
        found = self._held(key, kind)
        if found is None:
            found = self.data[key] = kind()
        return found

    def _drop(self, key: bytes) -> bool:
        self.expires.pop(key, None)
        return self.data.pop(key, None) is not None

    def _swept(self, key: bytes, answer: Any) -> Any:
        if key in self.data and not self.data[key]:
            self._drop(key)
        return answer

    def do_ping(self) -> Status:
        return Status(b"PONG")

    def do_time(self) -> list[bytes]:
        now = self._now_ms()
        return [b"%d" % (now // 1000), b"%d" % (now % 1000 * 1000)]

    def do_publish(self, channel: bytes, message: bytes) -> int:
        return self._publish(channel, message)

    def do_type(self, key: bytes) -> Status:
        found = self._any(key)
        return Status(b"none" if found is None else KINDS[type(found)])

    def do_exists(self, *keys: bytes) -> int:
        return sum(self._any(key) is not None for key in keys)

    def do_del(self, *keys: bytes) -> int:
        return sum(self._any(key) is not None and self._drop(key) for key in keys)

    def do_rename(self, key: bytes, other: bytes) -> Status:
        found = self._any(key)
        if found is None:
            raise RefusedError("ERR no such key")
        expires = self.expires.get(key)
        self._drop(key)
        self._drop(other)
        self.data[other] = found
        if expires is not None:
            self.expires[other] = expires
        return OK

    def do_pttl(self, key: bytes) -> int:
        if self._any(key) is None:
            return -2
        expires = self.expires.get(key)
        return -1 if expires is None else int(expires - self._now_ms())

    def do_pexpire(self, key: bytes, ms: bytes) -> int:
        return self._expire(key, self._now_ms() + int(ms))

    def do_expire(self, key: bytes, seconds: bytes) -> int:
        return self._expire(key, self._now_ms() + 1000 * int(seconds))

    def do_pexpireat(self, key: bytes, at: bytes) -> int:
        return self._expire(key, int(at))

    def _expire(self, key: bytes, at: float) -> int:
        if self._any(key) is None:
            return 0
        self.expires[key] = at
        return 1

    def do_scan(self, cursor: bytes, *options: bytes) -> list[Any]:
        import fnmatch

        pattern = next((options[n + 1] for n in range(0, len(options), 2) if options[n].upper() == b"MATCH"), b"*")
        keys = [key for key in list(self.data) if self._any(key) is not None and fnmatch.fnmatchcase(key, pattern)]
        return [b"0", sorted(keys) if cursor == b"0" else []]

    # -- text ---------------------------------------------------------------------------------------------------

    def do_get(self, key: bytes) -> Any:
        return self._held(key, bytes)

    do_getex = do_get

    def do_mget(self, *keys: bytes) -> list[Any]:
        found = [self._any(key) for key in keys]
        return [value if type(value) is bytes else None for value in found]

    def do_set(self, key: bytes, value: bytes, *options: bytes) -> Status | None:
        left, expires = [option.upper() for option in options], None
        held = self._any(key) is not None
        while left:
            option = left.pop(0)
            if option == b"PX":
                expires = self._now_ms() + int(left.pop(0))
            elif option == b"EX":
                expires = self._now_ms() + 1000 * int(left.pop(0))
            elif option == b"KEEPTTL":
                expires = self.expires.get(key)
            elif (option == b"NX" and held) or (option == b"XX" and not held):
                return None
        self._drop(key)
        self.data[key] = bytes(value)
        if self.stored is not None:
            self.stored(key, bytes(value))
        if expires is not None:
            self.expires[key] = expires
        return OK

    def do_setrange(self, key: bytes, offset: bytes, value: bytes) -> int:
        held, at = self._held(key, bytes) or b"", int(offset)
        if value:
            self.data[key] = held.ljust(at, b"\0")[:at] + value + held[at + len(value) :]
        return len(self.data.get(key, b""))

    # -- hashes -------------------------------------------------------------------------------------------------

    def do_hset(self, key: bytes, *pairs: bytes) -> int:
        held = self._made(key, Hash)
        before = len(held)
        held.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(held) - before

    def do_hget(self, key: bytes, field: bytes) -> Any:
        return (self._held(key, Hash) or {}).get(field)

    def do_hmget(self, key: bytes, *fields: bytes) -> list[Any]:
        held = self._held(key, Hash) or {}
        return [held.get(field) for field in fields]

    def do_hgetall(self, key: bytes) -> list[bytes]:
        return [part for pair in (self._held(key, Hash) or {}).items() for part in pair]

    def do_hkeys(self, key: bytes) -> list[bytes]:
        return list(self._held(key, Hash) or ())

    def do_hlen(self, key: bytes) -> int:
        return len(self._held(key, Hash) or ())

    def do_hdel(self, key: bytes, *fields: bytes) -> int:
        held = self._held(key, Hash) or {}
        return int(self._swept(key, sum(held.pop(field, None) is not None for field in fields)))

    def do_hincrby(self, key: bytes, field: bytes, by: bytes) -> int:
        held = self._made(key, Hash)
        held[field] = b"%d" % (int(held.get(field, b"0")) + int(by))
        return int(held[field])

    # -- sorted sets --------------------------------------------------------------------------------------------

    def _members(self, key: bytes) -> Sorted:
        return self._held(key, Sorted) or Sorted()

    def do_zadd(self, key: bytes, *args: bytes) -> int:
        held, left, flags = self._made(key, Sorted), list(args), set[bytes]()
        while left[0].upper() in (b"NX", b"XX", b"CH"):
            flags.add(left.pop(0).upper())
        added = changed = 0
        for text, member in zip(left[::2], left[1::2], strict=True):
            score, there = float(text), member in held
            if (b"NX" in flags and there) or (b"XX" in flags and not there):
                continue
            changed += not there or held[member] != score
            added += not there
            held[member] = score
        return int(self._swept(key, changed if b"CH" in flags else added))

    def do_zrem(self, key: bytes, *members: bytes) -> int:
        held = self._members(key)
        return int(self._swept(key, sum(held.pop(member, None) is not None for member in members)))

    def do_zscore(self, key: bytes, member: bytes) -> bytes | None:
        score = self._members(key).get(member)
        return None if score is None else _number(score)

    def do_zcard(self, key: bytes) -> int:
        return len(self._members(key))

    def do_zrange(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> list[bytes]:
        return self._range(self._members(key).ranked(), first, last, options)

    def do_zrevrange(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> list[bytes]:
        return self._range(self._members(key).ranked()[::-1], first, last, options)

    def _range(
        self, ranked: list[tuple[float, bytes]], first: bytes, last: bytes, options: Sequence[bytes]
    ) -> list[bytes]:
        some = ranked[_slice(len(ranked), first, last)]
        if options:
            return [part for score, member in some for part in (member, _number(score))]
        return [member for _, member in some]

    def do_zrangebyscore(self, key: bytes, least: bytes, most: bytes, *options: bytes) -> list[bytes]:
        flags = [option.upper() for option in options]
        some = [item for item in self._members(key).ranked() if _above(item[0], least) and _below(item[0], most)]
        if b"LIMIT" in flags:
            at, count = (int(options[flags.index(b"LIMIT") + place]) for place in (1, 2))
            some = some[at : at + count]
        if b"WITHSCORES" in flags:
            return [part for score, member in some for part in (member, _number(score))]
        return [member for _, member in some]

    def do_zremrangebyscore(self, key: bytes, least: bytes, most: bytes) -> int:
        held = self._members(key)
        return self.do_zrem(
            key, *[m for m, score in list(held.items()) if _above(score, least) and _below(score, most)]
        )

    def do_zremrangebyrank(self, key: bytes, first: bytes, last: bytes) -> int:
        ranked = self._members(key).ranked()
        return self.do_zrem(key, *[member for _, member in ranked[_slice(len(ranked), first, last)]])

    # -- lists --------------------------------------------------------------------------------------------------

    def do_rpush(self, key: bytes, *values: bytes) -> int:
        held = self._made(key, Listed)
        held.extend(values)
        return len(held)

    def do_llen(self, key: bytes) -> int:
        return len(self._held(key, Listed) or ())

    def do_lrange(self, key: bytes, first: bytes, last: bytes) -> list[bytes]:
        held = self._held(key, Listed) or []
        return list(held[_slice(len(held), first, last)])

    def do_ltrim(self, key: bytes, first: bytes, last: bytes) -> Status:
        held = self._held(key, Listed)
        if held is not None:
            held[:] = held[_slice(len(held), first, last)]
        return Status(self._swept(key, OK))


def _slice(length: int, first: bytes, last: bytes) -> slice:
    begin, end = int(first), int(last)
    begin = max(begin + length, 0) if begin < 0 else begin
    end = end + length if end < 0 else end
    return slice(begin, end + 1)


def _number(value: float) -> bytes:
    return b"%d" % value if float(value).is_integer() else repr(float(value)).encode()


def _above(score: float, least: bytes) -> bool:
    return score > float(least[1:]) if least[:1] == b"(" else score >= float(least)


def _below(score: float, most: bytes) -> bool:
    return score < float(most[1:]) if most[:1] == b"(" else score <= float(most)
