"""The dirty ledger in Redis: what was written behind and L3 does not have yet, by schema and shard.

`scripts/ledger.lua` names the keys and formats. Every change is one script on one shard. Thread-safe: it keeps no
state but the tokens' counter. Methods raise `L2UnavailableError`, and `L2RefusedError` for what is wrong with one
shard: those that ask several have it among their answers instead. Where a key is of another type than ours, it is put
aside, and the shard asked once more.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from strata import waits
from strata.errors import L2RefusedError, StrataError
from strata.l2 import strays
from strata.l2.script import Script, load
from strata.protocol.versions import text
from strata.writebehind.ledger.answers import (
    Claimed,
    KeyStatus,
    LedgerBatch,
    Release,
    ShardAnswer,
    ShardTimes,
    claimed_fields,
    key_text_of,
    raw_of,
    statuses,
    taken,
    times_of,
)
from strata.writebehind.ledger.shard import Shard, shards_of
from strata.writebehind.ledger.timing import Timing

if TYPE_CHECKING:
    from strata.l2.client import Call, RedisServer

T = TypeVar("T")
_KINDS = {
    "dirty": "hash", "due": "zset", "claims": "hash", "floor0": "hash", "floor1": "hash", "epoch": "string",
    "bell": "string", "dead": "hash", "deaths": "zset", "graves": "hash", "untold": "hash",
    "told": "zset", "spans": "list",
}  # fmt: skip
TOLD_SECONDS, TOLD_MOST = 7 * 86_400, 10_000  # for which, and how many in a shard, failures count as told
_AT_ONCE = 500  # dead letters that one script takes out
_LOOKED_AT = 200  # entries of a shard among which the oldest is looked for
_BURIAL = ("dirty", "due", "claims", "floor0", "floor1", "dead", "deaths", "graves", "untold")


class Ledger:
    """The scripts of the ledger on one Redis. `now_ms` is Redis's clock, where it is known; `on_stray` is told of each
    key that was put aside, and its type. Thread-safe: all that changes are the tokens' numbers, each taken in one call,
    and `_ahead`, which is replaced as a whole. After fork: `reset_tokens`."""

    def __init__(
        self,
        server: RedisServer,
        timing: Timing,
        now_ms: Callable[[], int | None] = lambda: None,
        on_stray: Callable[[str, str], None] = lambda key, kind: None,
    ) -> None:
        self.server = server
        self.timing = timing
        self._now_ms = now_ms
        self._on_stray = on_stray
        self._ahead = 0  # ms by which the ledger's clock is ahead of `now_ms`, where that is another Redis's
        self.reset_tokens()

    def reset_tokens(self) -> None:
        """Start a new series of tokens, which no other process or thread can repeat."""
        # So long that a claim, with its version, has more than 64 bytes: see WIDE in the scripts.
        self._series = f"{os.getpid():08x}.{waits.token(16)}."
        self._numbers = itertools.count()  # next() is atomic under the GIL and on free-threaded builds

    def token(self) -> str:
        """A token that nobody else has."""
        return f"{self._series}{next(self._numbers):x}"

    def key(self, shard: Shard, name: str) -> str:
        """The Redis key of one part of a shard."""
        return self.server.keys.own(shard.tag, name)

    def keys(self, shard: Shard, *names: str) -> list[str]:
        """The Redis keys of some parts of a shard."""
        head = self.key(shard, "")
        return [head + name for name in names]

    def hand_off(self, handed: Sequence[LedgerBatch], channel: str) -> list[ShardAnswer | L2RefusedError]:
        """Hand records over, no key of a shard twice, in one round trip; answers in the same order."""
        now = self._now_ms()
        answers = self._hand_off(handed, channel, now)
        late = [place for place, answer in enumerate(answers) if isinstance(answer, int)]
        if late and now is not None:
            # Whoever waits for the answer is not late: the ledger's clock is another one than was thought.
            self._ahead = max(answers[place] for place in late) - now
            again = self._hand_off([handed[place] for place in late], channel, now)
            for place, answer in zip(late, again, strict=True):
                answers[place] = L2RefusedError("a hand-off came too late") if isinstance(answer, int) else answer
        return [
            answer if isinstance(answer, L2RefusedError) else taken(answer, given.size)
            for given, answer in zip(handed, answers, strict=True)
        ]

    def _hand_off(self, handed: Sequence[LedgerBatch], channel: str, now: int | None) -> list[Any]:
        calls = []
        deadline = 0 if now is None else now + self._ahead + round(self.server.timeout * 1000)
        bell = round(self.timing.bell * 1000)
        for shard, records, l2_keys, expected, head in handed:
            keys = self.keys(shard, "dirty", "due", "claims", "floor0", "floor1", "epoch", "bell")
            how = (self.token(), bell, self.timing.most, int(bool(l2_keys)), channel, deadline, head, expected)
            calls.append(([*keys, *l2_keys], [*how, *records]))
        return self._run_each("handoff", [given.shard for given in handed], calls)

    def claim(self, shard: Shard, token: str, keys: Sequence[str] = ()) -> list[Claimed]:
        """Lease what is due; or those of `keys` that are pending, whoever holds them.

        Whoever is given what is due comes back for more: until nothing is, what is handed off need not ring.
        """
        timing = self.timing
        args = [token, timing.claim, timing.claim_bytes, round(timing.lease * 1000), round(timing.at_it * 1000), *keys]
        flat = self._run("claim", shard, ("dirty", "due", "claims", "bell"), args)
        return [
            Claimed(key_text_of(key), entry, *map(int, counts.split(b":")))
            if counts
            else Claimed(key_text_of(key), entry)
            for key, entry, counts in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]

    def renew(self, shard: Shard, token: str, keys: Sequence[str]) -> int:
        """Hold claims for another lease; returns how many of them are still this token's."""
        args = [token, round(self.timing.lease * 1000), *map(raw_of, keys)]
        return int(self._run("renew", shard, ("due", "claims"), args))

    def done(
        self, parts: Sequence[tuple[Shard, Sequence[tuple[str, int]]]], partial: Collection[str] = (), token: str = ""
    ) -> int:
        """L3 has these versions of these keys; returns how many entries left the ledger.

        `partial`: keys of which the version may stand for some columns only, so that what is older still matters.
        `token`: that of the claims, where they were claimed.
        """
        calls: list[tuple[list[str], list[Any]]] = []
        shards: list[Shard] = []
        for shard, versions in parts:
            keys = self.keys(shard, *_BURIAL)
            for at in range(0, len(versions), self.timing.handoff):
                chunk = versions[at : at + self.timing.handoff]
                args: list[Any] = [token]
                for key_text, version in chunk:
                    args += (key_text, text(version), int(key_text not in partial))
                calls.append((keys, args))
                shards.append(shard)
        return self._sum(self._run_each("done", shards, calls))

    def finish(
        self, shard: Shard, versions: Sequence[tuple[str, int]], l2_key: Callable[[str], str], channel: str, head: bytes
    ) -> int:
        """As `done`, of whole writes that L3 has as they were handed off, where L2 is on the same server: what is
        pending in it is settled before. `head`: that of the message about those whose hand-off L2 does not show.

        Returns how many entries left the ledger.
        """
        own, calls = self.keys(shard, *_BURIAL), list[tuple[list[str], list[Any]]]()
        for at in range(0, len(versions), self.timing.handoff):
            chunk = versions[at : at + self.timing.handoff]
            args: list[Any] = [channel, head]
            for key_text, version in chunk:
                args += (key_text, text(version))
            calls.append(([*own, *(l2_key(key_text) for key_text, _ in chunk)], args))
        return self._sum(self._run_each("finish", [shard] * len(calls), calls))

    def release(self, shard: Shard, token: str, releases: Sequence[Release]) -> None:
        """Give claims back after a failure."""
        args: list[Any] = [token]
        for item in releases:
            pause = max(0, round(item.pause * 1000))
            args += (raw_of(item.key_text), text(item.version), pause, item.crashes, item.attempts, item.outages)
        if releases:
            self._run("release", shard, ("due", "claims", "dirty"), args)

    def bury(self, shard: Shard, key_text: str, version: int, letter: bytes) -> bool:
        """Move an entry to the dead letters; false where something newer has made it void."""
        return bool(self._run("bury", shard, _BURIAL, [key_text, text(version), letter]))

    def set_aside(self, shard: Shard, key_text: str, entry: bytes, version: int, letter: bytes) -> bool:
        """Move what nobody can read to the dead letters, by a version that is free; false where it is gone."""
        args = [raw_of(key_text), entry, text(version), letter]
        return bool(self._run("set_aside", shard, ("dirty", "due", "claims", "dead", "deaths"), args))

    def exhume(self, shard: Shard, key_text: str, name: bytes) -> bool:
        """Take a dead letter out, by its version as the ledger has it; whether it was there."""
        return bool(self._run("exhume", shard, ("dead", "deaths", "graves", "untold"), [key_text, name]))

    def wither(self, shards: Sequence[Shard], kept: float, most: int) -> int:
        """Take out dead letters that are older than `kept` seconds (0: none is), and the oldest of more than `most` (0:
        any number) in a shard; returns how many."""
        args = [round(kept * 1000), most, _AT_ONCE]
        count = 0
        while shards:
            calls = [(self.keys(shard, "dead", "deaths", "graves", "untold"), args) for shard in shards]
            answers = self._run_each("wither", shards, calls)
            gone = [0 if isinstance(answer, L2RefusedError) else int(answer) for answer in answers]
            count += sum(gone)
            shards = [shard for shard, number in zip(shards, gone, strict=True) if number == _AT_ONCE]
        return count

    def tell(self, claims: Sequence[tuple[Shard, int]]) -> list[bool]:
        """Claim the telling of failures of these versions; whether each is this process's to tell.

        Where that cannot be known it is: told twice is better than not at all.
        """
        args = [TOLD_SECONDS * 1000, TOLD_MOST]
        calls = [([self.key(shard, "told")], [text(version), *args]) for shard, version in claims]
        answers = self._run_each("tell", [shard for shard, _ in claims], calls)
        return [isinstance(answer, L2RefusedError) or bool(answer) for answer in answers]

    def untell(self, shard: Shard, name: bytes) -> None:
        """A dead letter is to be tried again: should it die again, that is to be told again."""
        self.ask([(shard, ("ZREM", "told", name))])

    def probe(self, asked: Sequence[tuple[Shard, Sequence[str]]]) -> list[list[KeyStatus] | L2RefusedError]:
        """What became of keys, a list for each shard asked about."""
        calls = [(self.keys(shard, "dirty", "floor0", "floor1", "graves"), list(keys)) for shard, keys in asked]
        answers = self._run_each("probe", [shard for shard, _ in asked], calls)
        return [answer if isinstance(answer, L2RefusedError) else statuses(answer) for answer in answers]

    def read(self, asked: Sequence[tuple[Shard, Sequence[str | bytes]]]) -> list[list[bytes | None]]:
        """The entries of keys, None where nothing is pending, a list for each shard asked about; one round trip."""
        answers = self.ask([(shard, ("HMGET", "dirty", *keys)) for shard, keys in asked])
        return [
            [None] * len(keys) if isinstance(answer, L2RefusedError) else answer
            for (_, keys), answer in zip(asked, answers, strict=True)
        ]

    def failing(self, schema: str) -> list[tuple[Shard, str, bytes]]:
        """Entries of all shards that were refused before, with their keys."""
        return self._claimed(schema, lambda token, attempts, outages: attempts > 0)

    def waiting(self, schema: str) -> list[tuple[Shard, str, bytes]]:
        """Entries of all shards that were given back, and that nobody holds, with their keys."""
        return self._claimed(schema, lambda token, attempts, outages: outages > 0 and token == b"-")

    def look(self, shards: Sequence[Shard]) -> list[ShardTimes | L2RefusedError]:
        """What is to be seen of each shard from outside, in one round trip."""
        first, last = (("ZRANGE", "due", at, at, "WITHSCORES") for at in (0, -1))
        parts = (first, last, ("GET", "epoch"), ("ZCARD", "due"), ("HLEN", "dirty"))
        answers = self.ask([(shard, part) for shard in shards for part in parts])
        return [times_of(answers[at : at + len(parts)]) for at in range(0, len(answers), len(parts))]

    def due(self, shards: Sequence[Shard]) -> dict[Shard, int]:
        """The shards in which something may be claimed, and how many entries of each."""
        now = round(self.now())
        answers = self.ask([(shard, ("ZCOUNT", "due", "-inf", now)) for shard in shards])
        return {
            shard: count
            for shard, count in zip(shards, answers, strict=True)
            if not isinstance(count, L2RefusedError) and count
        }

    def ask(self, asked: Sequence[tuple[Shard, Sequence[Any]]]) -> list[Any]:
        """Plain commands, each about the part of a shard that it names second, in one round trip."""
        commands = [(name, self.key(shard, part), *rest) for shard, (name, part, *rest) in asked]
        return self._each([shard for shard, _ in asked], commands, self.server.each)

    def retime(self, shard: Shard) -> int:
        """Have entries be due now that have no time, or one that is too far ahead; returns how many they were."""
        return int(self._run("retime", shard, ("dirty", "due"), [round(self.timing.ahead * 1000)]))

    def oldest(self, shards: Sequence[Shard]) -> list[int | None]:
        """When the oldest entry of each shard was first written, in ms since 1970, in one round trip; None where there
        is none, or it cannot be told. Of more than `_LOOKED_AT` entries so many are looked at."""
        calls = [(self.keys(shard, "dirty", "due"), [_LOOKED_AT]) for shard in shards]
        answers = self._run_each("oldest", shards, calls)
        return [None if isinstance(answer, L2RefusedError) or not answer else int(answer) for answer in answers]

    def now(self) -> float:
        """The ledger's time in ms."""
        asked, now = self._now_ms(), self.server.time_ms()
        if asked is not None:
            self._ahead = round(now) - asked
        return now

    def ring(self, shard: Shard) -> bool:
        """Whether the doorbell of the shard is to be rung, since no ring is under way."""
        return self.mark(self.key(shard, "bell"), "1", self.timing.bell, new=True)

    def leave(self, shards: Sequence[Shard]) -> None:
        """Whoever claimed does not come back for more: what is handed off from now on rings again."""
        self.ask([(shard, ("DEL", "bell")) for shard in shards])

    def mark(self, key: str, value: str, seconds: float, *, new: bool = False) -> bool:
        """Set a small key for some seconds, even on a Redis that is out of memory; `new`: only where there is none.
        Returns whether it was set."""
        return bool(self.server.run(_scripts["mark"], [key], [value, round(seconds * 1000), int(new)]))

    def put_aside(self, kinds: Mapping[str, str]) -> bool:
        """Put keys of one tag aside that are of another type than these; whether there were any, and that was done."""
        strange: dict[str, str] = {}
        with contextlib.suppress(StrataError):
            strange = strays.put_aside(self.server, kinds)
        for key, kind in strange.items():
            self._on_stray(key, kind)
        return bool(strange)

    def _sum(self, answers: Sequence[Any]) -> int:
        for answer in answers:
            if isinstance(answer, L2RefusedError):
                raise answer  # the others know by now
        return sum(answers)

    def _run(self, name: str, shard: Shard, parts: Sequence[str], args: Sequence[Any]) -> Any:
        [answer] = self._run_each(name, [shard], [(self.keys(shard, *parts), args)])
        if isinstance(answer, L2RefusedError):
            raise answer
        return answer

    def _run_each(self, name: str, shards: Sequence[Shard], calls: Sequence[Call]) -> list[Any]:
        return self._each(shards, calls, lambda some: self.server.run_each(_scripts[name], some))

    def _each(self, shards: Sequence[Shard], calls: Sequence[T], ask: Callable[[Sequence[T]], list[Any]]) -> list[Any]:
        answers = ask(calls)
        mended: dict[Shard, bool] = {}
        for place, answer in enumerate(answers):
            if isinstance(answer, L2RefusedError):
                shard = shards[place]
                if shard not in mended:
                    mended[shard] = self.put_aside({self.key(shard, part): kind for part, kind in _KINDS.items()})
                if mended[shard]:
                    [answers[place]] = ask(calls[place : place + 1])
        return answers

    def _claimed(self, schema: str, wanted: Callable[[bytes, int, int], bool]) -> list[tuple[Shard, str, bytes]]:
        shards = shards_of(schema)
        answers = self.ask([(shard, ("HGETALL", "claims")) for shard in shards])
        asked = []
        for shard, answer in zip(shards, answers, strict=True):
            if not isinstance(answer, L2RefusedError) and (keys := claimed_fields(answer, wanted)):
                asked.append((shard, keys))
        return [
            (shard, key_text_of(key), raw)
            for (shard, keys), raws in zip(asked, self.read(asked), strict=True)
            for key, raw in zip(keys, raws, strict=True)
            if raw is not None
        ]


_NAMES = (
    "handoff", "pend", "claim", "renew", "done", "finish", "release", "bury", "set_aside", "exhume", "wither", "probe",
    "outcome", "tell", "mark", "retime", "oldest",
)  # fmt: skip
_scripts = {name: load("strata.writebehind.ledger.scripts", name) for name in _NAMES}


def script(name: str) -> Script:
    """One of the ledger's scripts."""
    return _scripts[name]
