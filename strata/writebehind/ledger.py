"""The dirty ledger in Redis: what was written behind and L3 does not have yet, by schema and shard.

`scripts/ledger.lua` names the keys and formats. Every change is one script on one shard. Thread-safe: it keeps no
state but the tokens' counter. Methods raise `L2UnavailableError`.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import os
from collections.abc import Callable, Collection, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec

from strata.l2.client import RedisServer
from strata.l2.script import Script, load
from strata.writebehind.pace import Pace
from strata.writebehind.shard import Shard, shards_of

ANY = "*"
NEVER = "-"  # to be told what became of the key, without being taken
_BURIAL = ("dirty", "due", "claims", "floor0", "floor1", "dead", "deaths", "graves", "untold")


class Verdict(enum.Enum):
    """What became of one record at hand-off: taken, there already, in L3 (at that version or a newer one), a newer
    one is pending, another one than expected is pending, or there is no room."""

    TAKEN = "+"
    THERE = "="
    PERSISTED = "<"
    NEWER = ">"
    UNEXPECTED = "?"
    FULL = "!"


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A verdict with the version, or the entry, that it is about."""

    verdict: Verdict
    version: int = 0
    entry: bytes = b""


class Handing(msgspec.Struct, frozen=True, gc=False):
    """One record on its way into the ledger, and into L2 where `l2_key` is not empty.

    `expected` is the version that the ledger must hold for it to be taken: ANY, "" for none, NEVER.
    """

    key_text: str
    entry: bytes
    expected: str = ANY
    l2_key: str = ""
    content: bytes = b""
    px: int = 0
    message: bytes = b""


class Taken(NamedTuple):
    """What a shard said to a hand-off."""

    epoch: bytes
    ring: bool
    answers: list[Answer]


class Claimed(msgspec.Struct, frozen=True, gc=False):
    """An entry leased to this worker, with what its earlier claims ended in."""

    key_text: str
    entry: bytes
    crashes: int = 0
    attempts: int = 0
    outages: int = 0


class Release(NamedTuple):
    """A claim given back, due again after `pause` seconds."""

    key_text: str
    version: int
    pause: float
    crashes: int
    attempts: int
    outages: int


class Fate(NamedTuple):
    """What the ledger knows of a key: versions, 0 where there is none."""

    pending: int
    persisted: int
    dead: tuple[int, ...]


class Look(NamedTuple):
    """The oldest due time of a shard in ms (None: nothing is timed), its epoch, and whether there may be entries that
    have no time."""

    due: float | None
    epoch: bytes
    untimed: bool = False


class Ledger:
    """The scripts of the ledger on one Redis."""

    def __init__(self, server: RedisServer, pace: Pace, now_ms: Callable[[], int | None] = lambda: None) -> None:
        self.server = server
        self.pace = pace
        self._now_ms = now_ms  # Redis's clock, where it is known
        self.reset_tokens()

    def reset_tokens(self) -> None:
        """Start a new series of tokens, which no other process or thread can repeat."""
        # So long that a claim, with its version, has more than 64 bytes: see WIDE in the scripts.
        self._series = f"{os.getpid():08x}.{os.urandom(16).hex()}."
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

    def hand_off(self, parcels: Sequence[tuple[Shard, Sequence[Handing]]], channel: str) -> list[Taken]:
        """Hand records over, no key of a shard twice, in one round trip; answers in the same order."""
        calls = []
        now = self._now_ms()
        deadline = 0 if now is None else now + round(self.server.timeout * 1000)
        for shard, items in parcels:
            keys = self.keys(shard, "dirty", "due", "claims", "floor0", "floor1", "epoch", "bell")
            with_l2 = bool(items[0].l2_key)
            bell = round(self.pace.bell * 1000)
            args: list[Any] = [self.token(), bell, self.pace.most, int(with_l2), channel, deadline]
            for item in items:
                args += (item.key_text, item.entry, item.expected, item.content, item.px, item.message)
            if with_l2:
                keys += [item.l2_key for item in items]
            calls.append((keys, args))
        answers = self.server.run_many(_scripts["handoff"], calls)
        return [Taken(epoch, bool(ring), [_answer(raw) for raw in rest]) for epoch, ring, *rest in answers]

    def claim(self, shard: Shard, token: str, keys: Sequence[str] = ()) -> list[Claimed]:
        """Lease what is due; or those of `keys` that are pending, whoever holds them.

        Whoever is given what is due comes back for more: until nothing is, what is handed off need not ring.
        """
        pace = self.pace
        args = [token, pace.claim, pace.claim_bytes, round(pace.lease * 1000), round(pace.at_it * 1000), *keys]
        flat = self.server.run(_scripts["claim"], self.keys(shard, "dirty", "due", "claims", "bell"), args)
        return [
            Claimed(key.decode(), entry, *map(int, counts.split(b":"))) if counts else Claimed(key.decode(), entry)
            for key, entry, counts in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]

    def renew(self, shard: Shard, token: str, keys: Sequence[str]) -> int:
        """Hold claims for another lease; returns how many of them are still this token's."""
        args = [token, round(self.pace.lease * 1000), *keys]
        return int(self.server.run(_scripts["renew"], self.keys(shard, "due", "claims"), args))

    def done(self, parts: Sequence[tuple[Shard, Sequence[tuple[str, int]]]], partial: Collection[str] = ()) -> int:
        """L3 has these versions of these keys; returns how many entries left the ledger.

        `partial`: keys of which the version may stand for some columns only, so that what is older still matters.
        """
        calls: list[tuple[list[str], list[Any]]] = []
        for shard, versions in parts:
            keys = self.keys(shard, *_BURIAL)
            for at in range(0, len(versions), self.pace.handoff):
                chunk = versions[at : at + self.pace.handoff]
                args: list[Any] = []
                for key_text, version in chunk:
                    args += (key_text, f"{version:019d}", int(key_text not in partial))
                calls.append((keys, args))
        return sum(self._run_many("done", calls))

    def release(self, shard: Shard, token: str, releases: Sequence[Release]) -> None:
        """Give claims back after a failure."""
        args: list[Any] = [token]
        for item in releases:
            pause = max(0, round(item.pause * 1000))
            args += (item.key_text, f"{item.version:019d}", pause, item.crashes, item.attempts, item.outages)
        if releases:
            self.server.run(_scripts["release"], self.keys(shard, "due", "claims", "dirty"), args)

    def bury(self, shard: Shard, key_text: str, version: int, letter: bytes) -> bool:
        """Move an entry to the dead letters; false where something newer has made it void."""
        return bool(
            self.server.run(_scripts["bury"], self.keys(shard, *_BURIAL), [key_text, f"{version:019d}", letter])
        )

    def exhume(self, shard: Shard, key_text: str, version: int) -> bool:
        """Take a dead letter out; whether it was there."""
        keys = self.keys(shard, "dead", "deaths", "graves", "untold")
        return bool(self.server.run(_scripts["exhume"], keys, [key_text, f"{version:019d}"]))

    def probe(self, asked: Sequence[tuple[Shard, Sequence[str]]]) -> list[list[Fate]]:
        """What became of keys, a list for each shard asked about."""
        calls = [(self.keys(shard, "dirty", "floor0", "floor1", "graves"), list(keys)) for shard, keys in asked]
        return [[_fate(*flat[at : at + 3]) for at in range(0, len(flat), 3)] for flat in self._run_many("probe", calls)]

    def read(self, asked: Sequence[tuple[Shard, Sequence[str]]]) -> list[list[bytes | None]]:
        """The entries of keys, None where nothing is pending, a list for each shard asked about; one round trip."""
        return self.server.pipeline([("HMGET", self.key(shard, "dirty"), *keys) for shard, keys in asked])

    def failing(self, schema: str) -> list[tuple[Shard, str, bytes]]:
        """Entries of all shards that were refused before, with their keys."""
        shards = shards_of(schema)
        answers = self.server.pipeline([("HGETALL", self.key(shard, "claims")) for shard in shards])
        asked = [(shard, keys) for shard, answer in zip(shards, answers, strict=True) if (keys := _refused(answer))]
        found = zip(asked, self.read(asked), strict=True)
        return [
            (shard, key, raw)
            for (shard, keys), raws in found
            for key, raw in zip(keys, raws, strict=True)
            if raw is not None
        ]

    def look(self, shards: Sequence[Shard]) -> list[Look]:
        """What is to be seen of each shard from outside, in one round trip."""
        commands: list[tuple[Any, ...]] = []
        for shard in shards:
            dirty, due, epoch = self.keys(shard, "dirty", "due", "epoch")
            commands += (("ZRANGE", due, 0, 0, "WITHSCORES"), ("GET", epoch), ("ZCARD", due), ("HLEN", dirty))
        flat = iter(self.server.pipeline(commands))
        looks = zip(flat, flat, flat, flat, strict=True)
        return [Look(_score(first), epoch or b"", timed < pending) for first, epoch, timed, pending in looks]

    def retime(self, shard: Shard) -> int:
        """Have entries that have no time be due now; returns how many they were."""
        return int(self.server.run(_scripts["retime"], self.keys(shard, "dirty", "due")))

    def now(self) -> float:
        """The ledger's time in ms."""
        return self.server.time_ms()

    def ring(self, shard: Shard) -> bool:
        """Whether the doorbell of the shard is to be rung, since no ring is under way."""
        return self.mark(self.key(shard, "bell"), "1", self.pace.bell, new=True)

    def leave(self, shard: Shard) -> None:
        """Whoever claimed does not come back for more: what is handed off from now on rings again."""
        self.server.execute("DEL", self.key(shard, "bell"))

    def mark(self, key: str, value: str, seconds: float, *, new: bool = False) -> bool:
        """Set a small key for some seconds, even on a Redis that is out of memory; `new`: only where there is none.
        Returns whether it was set."""
        return bool(self.server.run(_scripts["mark"], [key], [value, round(seconds * 1000), int(new)]))

    def _run_many(self, name: str, calls: Sequence[tuple[list[str], list[Any]]]) -> list[Any]:
        return self.server.run_many(_scripts[name], calls)


def _load(name: str) -> Script:
    package = "strata.writebehind.scripts"
    shared = files(package).joinpath("ledger.lua").read_text(encoding="utf-8")
    text = load(package, name).text.replace("--@ledger", shared, 1)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_NAMES = (
    "handoff", "pend", "claim", "renew", "done", "release", "bury", "exhume", "probe", "outcome", "mark", "retime",
)  # fmt: skip
_scripts = {name: _load(name) for name in _NAMES}


def script(name: str) -> Script:
    """One of the ledger's scripts."""
    return _scripts[name]


_TAKEN = Answer(Verdict.TAKEN)
_VERDICTS = {verdict.value.encode(): verdict for verdict in Verdict}


def _answer(raw: bytes) -> Answer:
    if raw == b"+":  # nearly always
        return _TAKEN
    verdict = _VERDICTS[raw[:1]]
    if verdict in (Verdict.PERSISTED, Verdict.NEWER):
        return Answer(verdict, int(raw[1:]))
    return Answer(verdict, 0, raw[1:])


def _fate(pending: bytes, persisted: bytes, graves: bytes) -> Fate:
    return Fate(int(pending or 0), int(persisted or 0), tuple(map(int, graves.split())))


def _refused(claims: Any) -> list[str]:
    pairs = claims.items() if isinstance(claims, dict) else zip(claims[::2], claims[1::2], strict=True)
    return [key.decode() for key, claim in pairs if int(claim.split(b":")[3])]


def _score(pairs: Any) -> float | None:
    if not pairs:
        return None
    first = pairs[0]
    return float(first[1] if isinstance(first, list | tuple) else pairs[1])
