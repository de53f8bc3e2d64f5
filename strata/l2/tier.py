"""One schema's part of L2: from keys and records to scripts, and back.

Every change is conditional and atomic (the headers of `scripts/*.lua` say on what). Thread-safe; methods raise
`L2UnavailableError`. The caller makes the messages, since only it knows what they mean.
"""

from __future__ import annotations

import enum
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from strata.aging import PLAIN, Aging
from strata.l2.client import Call, RedisServer
from strata.l2.script import Script, load
from strata.versions import VersionClock

CHUNK = 250  # keys a command: longer ones keep a single-threaded Redis from everybody else
TOGETHER = 8  # commands in one round trip: more would only fill buffers
TOLD = 10_000  # changes remembered to be told again
SCANNED = 1_000  # keys that a walk over all of them looks at in one step
NEWEST = (1 << 63) - 1  # no version is above it
LEASE_MS = 5_000
TOMBSTONE_MS = 10_000
LONGEST_MS = 86_400_000  # of an intent
HEADER = 25  # bytes of `V1:<19 digits>:<s|p>:`

_DEADLINE = re.compile(rb"[^=;]+=([0-9]{1,15});")  # of an intent's writer, in ms

_scripts = {name: load("strata.l2.scripts", name) for name in (
    "read", "aged", "fill", "refresh", "intent", "put", "abandon", "own", "invalidate", "settle", "purge",
)}  # fmt: skip


class State(enum.Enum):
    """What a read found: a value, a stale one, a tombstone, nothing (and left a lease), somebody's lease, or an intent.

    STALE: its TTL is over, and it is kept in case the tiers below are down. LOADING: another reader's lease.
    """

    VALUE = enum.auto()
    STALE = enum.auto()
    TOMBSTONE = enum.auto()
    LEASED = enum.auto()
    LOADING = enum.auto()
    BUSY = enum.auto()


class Found(msgspec.Struct, frozen=True, gc=False):
    """The answer of a read. `token` is the lease where the state is LEASED; `raw` is the content of what is stale, or
    `due` for a refresh, with which it may be replaced."""

    state: State
    version: int = 0
    pending: bool = False
    record: Any = None
    token: str = ""
    raw: bytes = b""
    due: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """A record, or with None its deletion, on its way into L2. `absent`: L3 was asked, and has no such record."""

    key_text: str
    version: int
    record: Any
    message: bytes = b""
    pending: bool = False
    absent: bool = False


class L2Tier:
    """The keys of one schema. `ttl` in seconds, 0 = no expiry; `on_corrupt` is told how many entries could not be read.

    `negative`: seconds for which an absence is kept, as a tombstone of version 0, which every write replaces.
    `key_text` gives a record's key: what stands under another one is not read. Values of the far future are read as
    entries that cannot be read, and never stored.
    """

    def __init__(
        self,
        server: RedisServer,
        prefix: str,
        ttl: float,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        on_corrupt: Callable[[int], None],
        versions: VersionClock,
        aging: Aging = PLAIN,
        negative: float = 0.0,
        key_text: Callable[[Any], str] | None = None,
    ) -> None:
        self.server = server
        self._prefix = server.keys.records(prefix)
        self._ttl_ms = ttl * 1000
        self._aging = aging
        self._stay_ms = round(aging.stay * 1000)
        # The least that a value has left when it becomes due: all lives that the jitter may draw come to it late.
        self._due_ms = self._stay_ms + self._ttl_ms * (1 - aging.jitter) * (1 - aging.eager) if aging.eager else -1.0
        self._ages = bool(aging.stay or aging.eager)
        self._negative_px = round(negative * 1000)
        self._encode = encode
        self._decode = decode
        self._on_corrupt = on_corrupt
        self._key_text = key_text
        self._versions = versions
        self.reset_tokens()

    def reset_tokens(self) -> None:
        """Start a new series of tokens, which no other process or thread can repeat."""
        self._series = f"{os.getpid():x}.{os.urandom(6).hex()}."
        self._numbers = itertools.count()  # next() is atomic under the GIL and on free-threaded builds
        # What this process told L2: (monotonic time, key text, version, or None for an invalidation), oldest first.
        # Appended to by any thread, which is atomic; copied by the one that tells it again.
        self._told: deque[tuple[float, str, int | None]] = deque(maxlen=TOLD)

    def key(self, key_text: str) -> str:
        """The Redis key of a record."""
        return self._prefix + key_text

    def token(self) -> str:
        """A token that nobody else has."""
        return f"{self._series}{next(self._numbers):x}"

    def content(self, version: int, record: Any, *, pending: bool = False) -> bytes:
        """What a key is to hold: the value, or for None a tombstone."""
        flag = "p" if pending else "s"
        if record is None:
            return f"T1:{version:019d}:{flag}:".encode()
        return f"V1:{version:019d}:{flag}:".encode() + self._encode(record)

    def px(self, record: Any) -> int:
        """Milliseconds that a value, or for None a tombstone, is kept; 0 = no expiry."""
        if record is None:
            return TOMBSTONE_MS
        fresh = self.fresh_px()
        return fresh and fresh + self._stay_ms

    def fresh_px(self) -> int:
        """Milliseconds that something is fresh; 0 = for ever."""
        return max(1, round(self._aging.draw(self._ttl_ms))) if self._ttl_ms else 0

    def read(self, key_text: str, *, lease: bool = True) -> Found:
        """What the key holds; where it is empty and `lease`, a lease is left that allows one fill."""
        if self._ages:
            return self.read_many([key_text], lease=lease)[key_text]
        raw = self.server.execute("GET", self.key(key_text))
        found = self._found(key_text, raw, -1)
        return found or self._instead({key_text: raw}, raw is not None, self.token(), lease)[key_text]

    def read_many(self, key_texts: Sequence[str], *, lease: bool = True, exist: bool = False) -> dict[str, Found]:
        """As `read`, for 2,000 keys in one round trip, and in one more for those of them that are to be leased.

        All leases left bear the same token. One is left, too, in the place of what cannot be read, such as the values
        of another release; and, where L3 was seen to have the records (`exist`), of an absence that is remembered.
        """
        found: dict[str, Found] = {}
        token, useless, unreadable = self.token(), dict[str, bytes | None](), 0
        for key_text, raw, left in self._look(key_texts, token, lease):
            answer = self._found(key_text, raw, left)
            unreadable += answer is None and raw is not None
            if raw is None and lease and self._ages:
                answer = Found(State.LEASED, token=token)  # by the script that looked
            if answer is None or (exist and answer.state is State.TOMBSTONE and not answer.version):
                useless[key_text] = raw
            else:
                found[key_text] = answer
        return found | self._instead(useless, unreadable, token, lease) if useless else found

    def _instead(
        self, useless: Mapping[str, bytes | None], unreadable: int, token: str, lease: bool
    ) -> dict[str, Found]:
        """Leave leases where nothing is, or still what is of no use; what is found there now."""
        if unreadable:
            self._on_corrupt(unreadable)
        if not lease:
            return dict.fromkeys(useless, Found(State.BUSY))
        answers = self._each("read", [token, LEASE_MS], {text: (raw or b"",) for text, raw in useless.items()})
        return {text: self._leased(text, raw, token) for text, raw in answers}

    def _leased(self, key_text: str, raw: bytes | None, token: str) -> Found:
        if raw is None:
            return Found(State.LEASED, token=token)
        return self._found(key_text, raw, -1) or Found(State.BUSY)

    def _look(self, key_texts: Sequence[str], token: str, lease: bool) -> Iterator[tuple[str, bytes | None, int]]:
        """What each key holds, and the ms that it has left, as far as these matter (-1: for ever)."""
        if not self._ages:
            for start in range(0, len(key_texts), CHUNK * TOGETHER):
                some = key_texts[start : start + CHUNK * TOGETHER]
                yield from zip(some, self.server.values([self.key(text) for text in some], CHUNK), itertools.repeat(-1))
            return
        chunks = list(self._chunks(key_texts))
        calls = [([self.key(text) for text in chunk], [token, LEASE_MS if lease else 0]) for chunk in chunks]
        for chunk, answers in zip(chunks, self._calls("aged", calls), strict=True):
            yield from zip(chunk, *answers, strict=True)

    def fill(self, token: str, puts: Sequence[Put]) -> set[str]:
        """Store what was loaded from below where the lease still stands; a record of None ends the lease.

        Returns the key texts whose lease stood. Sent once only: an answer that is lost counts as refused.
        """
        answered = self._each("fill", [token], {put.key_text: self._loaded(put) for put in puts})
        return {key_text for key_text, stood in answered if stood}

    def refresh(self, found: dict[str, Found], puts: Sequence[Put]) -> set[str]:
        """Store what was loaded from below where the key still holds what was found; a record of None removes it.

        Returns the key texts that still held it. Sent once only: an answer that is lost counts as refused.
        """
        args = {put.key_text: (found[put.key_text].raw, *self._loaded(put)) for put in puts}
        return {key_text for key_text, held in self._each("refresh", [], args) if held}

    def _loaded(self, put: Put) -> tuple[bytes, int]:
        """Content and px of what was loaded from below; empty for what nothing is to be said of."""
        if put.record is not None and self._versions.plausible(put.version):
            return self.content(put.version, put.record, pending=put.pending), self.px(put.record)
        if put.absent and self._negative_px:
            return self.content(0, None), self._negative_px
        return b"", 0

    def lease(self, key_texts: Sequence[str]) -> str:
        """Leave leases on those of the keys that are empty, without reading the others; returns the token."""
        token = self.token()
        self.server.pipeline(
            [("SET", self.key(key_text), f"L1:{token}", "NX", "PX", LEASE_MS) for key_text in key_texts]
        )
        return token

    def intend(self, token: str, lasting: float, channel: str, messages: dict[str, bytes]) -> None:
        """Announce a commit: `messages` by key text, `lasting` the seconds after which it has surely ended."""
        for chunk in self._chunks(list(messages)):
            said = [messages[key_text] for key_text in chunk]
            self._run(
                "intent", [self.key(key_text) for key_text in chunk], [token, round(lasting * 1000), channel, *said]
            )

    def put(self, token: str, channel: str, puts: Sequence[Put]) -> set[str]:
        """Put what was committed in the place of the intents; returns the key texts that were stored."""
        self._remember((put.key_text, put.version) for put in puts)
        return {key_text for key_text, stored in self._each_put("put", [token, channel], puts) if stored}

    def abandon(self, token: str, key_texts: Sequence[str]) -> None:
        """Take back the intents of a commit that is known to have failed."""
        for chunk in self._chunks(key_texts):
            self._run("abandon", [self.key(key_text) for key_text in chunk], [token])

    def own(self, channel: str, puts: Sequence[Put]) -> dict[str, int]:
        """Write where L2 is the lowest tier; returns the versions in the way of those that were refused."""
        return {key_text: int(answer) for key_text, answer in self._each_put("own", [channel], puts) if answer}

    def invalidate(self, key_text: str, channel: str, message: bytes) -> None:
        """Drop the value, whatever its version; what is pending stays."""
        self._remember([(key_text, None)])
        self._run("invalidate", [self.key(key_text)], [channel, message])

    def settle(self, channel: str, items: Sequence[tuple[str, int, bytes, int, bytes, int]]) -> None:
        """Tell L2 what L3 holds: (key text, version, content or b"", px, message, whether it is said at all events)
        each."""
        self._remember((item[0], item[1]) for item in items)
        self._spread("settle", [channel], items)

    def purge(self, channel: str, items: Sequence[tuple[str, int, bytes]]) -> None:
        """Take back writes that were given up: (key text, version, message) each."""
        self._spread("purge", [channel], items)

    def sample(self, most: int) -> list[str]:
        """Up to `most` keys of the schema, as texts, from a random place in Redis on."""
        found: dict[bytes, None] = {}
        for keys in self.server.scan(f"{self._prefix}*", SCANNED, anywhere=True):
            found.update(dict.fromkeys(keys))
            if len(found) >= most:
                break
        return [key.decode().removeprefix(self._prefix) for key in list(found)[:most]]

    def purge_all(self, channel: str) -> None:
        """As `purge`, for every key of the schema, whatever its version. Walks all keys of the Redis."""
        for keys in self.server.scan(f"{self._prefix}*", SCANNED):
            key_texts = [key.decode().removeprefix(self._prefix) for key in keys]
            self.purge(channel, [(key_text, NEWEST, b"") for key_text in key_texts])

    def tell_again(
        self, since: float, channel: str, message: Callable[[str, int | None], bytes]
    ) -> Mapping[str, int | None]:
        """Repeat what this process told L2 since then, a monotonic time; returns the keys with their versions.

        A Redis that took another's place may hold what was before: replicas, and files, lag behind. What is older than
        it should be is removed, and nothing is stored. `message` makes what is said of a key.
        """
        newest: dict[str, int | None] = {}
        for at, key_text, version in list(self._told):
            known = newest.get(key_text, 0)
            if at >= since:
                newest[key_text] = None if version is None or known is None else max(version, known)
        puts = [
            Put(key_text, version, None, message(key_text, version))
            for key_text, version in newest.items()
            if version is not None
        ]
        for _ in self._each_put("put", [self.token(), channel], puts):
            pass
        for key_text, version in newest.items():
            if version is None:
                self._run("invalidate", [self.key(key_text)], [channel, message(key_text, None)])
        return newest

    def _remember(self, told: Iterable[tuple[str, int | None]]) -> None:
        # Before it is sent: what fails halfway may have been done by the server that is lost.
        now = self.server.clock.monotonic()
        self._told.extend([(now, key_text, version) for key_text, version in told])

    def _each_put(self, name: str, head: list[Any], puts: Sequence[Put]) -> Iterator[tuple[str, Any]]:
        plausible = self._versions.plausible
        items = [
            (
                put.key_text,
                put.version,
                self.content(put.version, put.record) if plausible(put.version) else b"",
                self.px(put.record),
                put.message,
            )
            for put in puts
        ]
        return iter(self._spread(name, head, items))

    def _spread(self, name: str, head: list[Any], items: Sequence[tuple[Any, ...]]) -> list[tuple[str, Any]]:
        # items are (key text, version, further arguments...), no key twice
        return self._each(name, head, {key_text: (f"{version:019d}", *rest) for key_text, version, *rest in items})

    def _each(self, name: str, head: list[Any], by_text: Mapping[str, Sequence[Any]]) -> list[tuple[str, Any]]:
        """Run a script over keys, each with arguments of its own after the common ones; its answer for each."""
        chunks = list(self._chunks(list(by_text)))
        calls = [
            (
                [self.key(text) for text in chunk],
                [*head, *itertools.chain.from_iterable(by_text[text] for text in chunk)],
            )
            for chunk in chunks
        ]
        answered: list[tuple[str, Any]] = []
        for chunk, answers in zip(chunks, self._calls(name, calls), strict=True):
            answered += zip(chunk, answers if isinstance(answers, list) else [answers] * len(chunk), strict=True)
        return answered

    def _calls(self, name: str, calls: Sequence[Call]) -> Iterator[Any]:
        """The answers of a script's calls, some of them in one round trip where the server is a single one."""
        for start in range(0, len(calls), TOGETHER):
            yield from self.server.run_many(_script(name), calls[start : start + TOGETHER])

    def _chunks(self, key_texts: Sequence[str]) -> Iterator[Sequence[str]]:
        # One key a call on a Cluster, where the keys of one call must share a slot.
        step = 1 if self.server.clustered else CHUNK
        for start in range(0, len(key_texts), step):
            yield key_texts[start : start + step]

    def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return self.server.run(_script(name), keys, args)

    def _found(self, key_text: str, raw: bytes | None, left: int) -> Found | None:
        """What a content with so many ms left means; None where there is none, or it cannot be read."""
        if raw is None:
            return None
        head = raw[:3]
        try:
            if head == b"V1:" or head == b"T1:":
                version = int(raw[3:22])
                if not self._versions.believed(version):
                    return None
                if head == b"T1:":
                    return Found(State.TOMBSTONE, version, raw[23:24] == b"p")
                found = self._value(version, raw, left)
                return found if self._key_text is None or self._key_text(found.record) == key_text else None
        except Exception:  # noqa: BLE001 a codec of the user's may raise anything; the entry is a miss either way
            return None
        if head == b"I1:":
            return Found(State.BUSY) if self._ends(raw) else None
        return Found(State.LOADING) if head == b"L1:" else None

    def _ends(self, raw: bytes) -> bool:
        """Whether an intent has writers; no commit takes a day, so that one which ends later is nobody's."""
        latest = (self._versions.reference_ms() or self.server.clock.wall() * 1000) + LONGEST_MS
        return any(int(deadline) < latest for deadline in _DEADLINE.findall(raw, 5))

    def _value(self, version: int, raw: bytes, left: int) -> Found:
        found = Found(State.VALUE, version, raw[23:24] == b"p", self._decode(raw[HEADER:]))
        if left < 0:
            return found
        if left <= self._stay_ms:
            return replace(found, state=State.STALE, raw=raw)
        # What L3 does not have yet cannot be had fresher from there.
        return replace(found, raw=raw, due=True) if left <= self._due_ms and not found.pending else found


def _script(name: str) -> Script:
    return _scripts[name]
