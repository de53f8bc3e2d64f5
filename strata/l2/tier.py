"""One schema's part of L2: from keys and records to scripts, and back.

Every change is conditional and atomic (the headers of `scripts/*.lua` say on what). Thread-safe; methods raise
`L2UnavailableError` or `L2RefusedError`. The caller makes the messages, since only it knows what they mean.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from strata import waits
from strata.errors import StrataError
from strata.l2.call_leases import CallLeases
from strata.l2.content import NO_VALUES, OUTDATED, Answers, Contents, Found, Plain, State, together
from strata.l2.lifetimes import Lifetimes
from strata.l2.scripts_over import SCRIPTS, ScriptsOver
from strata.l2.steps import MOST, Asked, Looked, Steps, in_step
from strata.l2.told import Told
from strata.l2.values import Put, text_of
from strata.protocol.versions import VersionClock

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

SCANNED = 1_000  # keys that a walk over all of them looks at in one step
NEWEST = (1 << 63) - 1  # no version is above it
LEASE_MS = "5000"  # as it is sent


class L2Tier:
    """The keys of one schema. `on_corrupt` is told how many entries could not be read. Values of the far future are
    never stored; an absence is kept as a tombstone of version 0, which every write replaces. Thread-safe: all that
    changes are the tokens' numbers and `_told`, each use of which is one call. After fork: `reset_tokens`.
    """

    def __init__(
        self,
        server: RedisServer,
        prefix: str,
        contents: Contents,
        lifetimes: Lifetimes,
        versions: VersionClock,
        on_corrupt: Callable[[int], None],
    ) -> None:
        self.server = server
        self._prefix = server.keys.records(prefix)
        self._over = ScriptsOver(server, self._prefix)
        self.calls = CallLeases(server, prefix, self.token, self._over.run)
        self._contents = contents
        self.marks = contents.marks
        self._lifetimes = lifetimes
        self._versions = versions
        self._on_corrupt = on_corrupt
        # Whether the last read found nothing, as the next one will too, most likely: that one leaves its lease at once;
        # and whether it found a life of its own, for which the next one is asked at once. Set by any thread; for the
        # number of round trips alone.
        self._missed = self._lived = False
        self.reset_tokens()

    def reset_tokens(self) -> None:
        """Start a new series of tokens, which no other process or thread can repeat."""
        self._series = f"{waits.token(8)}."
        self._numbers = itertools.count()  # next() is atomic under the GIL and on free-threaded builds
        self._told = Told()

    def key(self, key_text: str) -> str:
        """The Redis key of a record."""
        return self._prefix + key_text

    def token(self) -> str:
        """A token that nobody else has."""
        return f"{self._series}{next(self._numbers):x}"

    @property
    def since(self) -> int | None:
        """What is to be noted, before it is read, of what is read for L2."""
        return self.marks.since

    def held(
        self, version: int, record: Any, life: float | None = None, *, pending: bool = False, since: int | None = None
    ) -> tuple[bytes, int]:
        """What a key is to hold, the value, with a life of its own perhaps, or for None a tombstone; and for how many
        ms, 0 being without end."""
        content = self._contents.write(version, record, pending=pending, own=life is not None, since=since)
        return content, self._lifetimes.px(record, life)

    def held_each(
        self, versions: Sequence[int], records: Sequence[Any], *, pending: bool, since: int | None
    ) -> tuple[list[bytes], list[int]]:
        """As `held`, of several records that have the life of all."""
        contents = self._contents.write_each(versions, records, pending=pending, since=since)
        return contents, [self._lifetimes.px(record) for record in records]

    def read(self, key_text: str, *, lease: bool = True) -> Found:
        """What the key holds; where it is empty and `lease`, a lease is left that allows one fill."""
        if self._lifetimes.ages or self._lived:
            return self.read_many([key_text], lease=lease)[key_text]
        token = self.token() if self._missed and lease else ""
        try:
            if token:
                raw = self._over.one("read", key_text, (token, LEASE_MS, b""))
            else:
                raw = self.server.value(self._prefix + key_text)
            if token and raw is None:
                return Found(State.LEASED, token=token)
            found = None
            if raw is not None:
                if self._contents.asks(raw):
                    self._lived = True
                    return self.read_many([key_text], lease=lease)[key_text]
                self.marks.renew()
                found = self._contents.read(key_text, raw, -1)
            if found is None or found is OUTDATED:
                token = token or self.token()
                steps = self._instead({key_text: raw}, found is None and raw is not None, token, lease)
                found = in_step(self.server, [steps])[0][key_text]
        except BaseException as error:
            if token:
                self.broken_off(error, token, [key_text])
            raise
        self._missed = found.state is State.LEASED
        return found

    def read_many(
        self,
        key_texts: Sequence[str],
        *,
        lease: bool = True,
        exist: bool = False,
        take_over: bool = False,
        count: bool = True,
    ) -> dict[str, Found]:
        """As `read`, for 2,000 keys in one round trip, and in one more for those of them that are to be leased.

        All leases left bear the same token. One is left, too, in the place of what cannot be read, such as the values
        of another release; where L3 was seen to have the records (`exist`), of an absence that is remembered; and, to
        `take_over`, of the lease of another reader, whose fill is then refused. Who does not `count` what cannot be
        read loads nothing in its place.
        """
        return self.look(key_texts, lease=lease, exist=exist, take_over=take_over, count=count).all()

    def look(
        self,
        key_texts: Sequence[str],
        *,
        lease: bool = True,
        exist: bool = False,
        take_over: bool = False,
        count: bool = True,
    ) -> Answers:
        """As `read_many`, with the plain values apart."""
        token = self.token()
        try:
            return in_step(self.server, [self.looking(key_texts, token, lease, exist, take_over, count)])[0]
        except BaseException as error:
            self.broken_off(error, token, key_texts)
            raise

    def looking(
        self,
        key_texts: Sequence[str],
        token: str,
        lease: bool,
        exist: bool = False,
        take_over: bool = False,
        count: bool = True,
    ) -> Steps[Answers]:
        """The steps of `look`; where they are broken off, so must be what bears the token (`broken_off`)."""
        found: dict[str, Found] = {}
        useless: dict[str, bytes | None] = {}
        self.marks.renew()
        unreadable, aged, self._lived = 0, self._lifetimes.ages or self._lived, False
        plain, looked = NO_VALUES, list[Looked]()
        if aged:
            looked = yield from self._look_aged(key_texts, token, lease)
        else:
            plain, looked = yield from self._look(key_texts, token)
        for key_text, raw, left in waits.in_turns(looked):
            answer = self._contents.read(key_text, raw, left)
            self._lived |= answer is not None and answer.life is not None
            unreadable += count and answer is None and raw is not None
            if raw is None and lease and aged:
                answer = Found(State.LEASED, token=token)  # by the script that looked
            absent = exist and answer is not None and answer.state is State.TOMBSTONE and not answer.version
            if answer is None or answer is OUTDATED or absent or (take_over and answer.state is State.LOADING):
                useless[key_text] = raw
            else:
                found[key_text] = answer
        if useless:
            found |= yield from self._instead(useless, unreadable, token, lease)
        return Answers(plain, found)

    def _instead(
        self, useless: Mapping[str, bytes | None], unreadable: int, token: str, lease: bool
    ) -> Steps[dict[str, Found]]:
        """Leave leases where nothing is, or still what is of no use; what is found there now."""
        if unreadable:
            self._on_corrupt(unreadable)
        if not lease:
            return dict.fromkeys(useless, Found(State.BUSY))
        args = {text: (raw or b"",) for text, raw in useless.items()}
        answers = yield from self._over.asking("read", [token, LEASE_MS], args)
        found = {}
        for text, raw in answers:
            found[text] = yield from self._leased(text, raw, token)
        return found

    def _leased(self, key_text: str, raw: bytes | None, token: str) -> Steps[Found]:
        if raw is None:
            return Found(State.LEASED, token=token)
        left = -1
        if self._contents.asks(raw):
            [(_, raw, left)] = yield from self._look_aged([key_text], token, False)
        found = self._contents.read(key_text, raw, left)
        return Found(State.BUSY) if found is None or found is OUTDATED else found

    def _look(self, key_texts: Sequence[str], token: str) -> Steps[tuple[Plain, list[Looked]]]:
        """The plain values; and what the other keys hold, and the ms that it has left, where these matter (-1: for
        ever)."""
        plain, looked = list[Plain](), list[Looked]()
        for start in range(0, len(key_texts), MOST):
            some = key_texts[start : start + MOST]
            raws = yield Asked(None, [self._prefix + text for text in some], len(some))
            values, unread = self._contents.read_plain(some, raws)
            plain.append(values)
            if asking := [text for text, raw in unread.items() if self._contents.asks(raw)]:
                looked += yield from self._look_aged(asking, token, False)
                for text in asking:
                    del unread[text]
            looked += [(text, raw, -1) for text, raw in unread.items()]
        return together(plain), looked

    def _look_aged(self, key_texts: Sequence[str], token: str, lease: bool) -> Steps[list[Looked]]:
        """The same of all keys, by a script that leaves leases itself."""
        chunks = list(self._over.chunks(key_texts))
        calls = [([self.key(text) for text in chunk], [token, LEASE_MS if lease else "0"]) for chunk in chunks]
        answered = yield Asked(SCRIPTS["aged"], calls, len(calls))
        looked: list[Looked] = []
        for chunk, answers in zip(chunks, answered, strict=True):
            looked += zip(chunk, *answers, strict=True)
        return looked

    def fill(self, token: str, puts: Sequence[Put]) -> set[str]:
        """Store what was loaded from below where the lease still stands; a record of None ends the lease.

        Returns the key texts whose lease stood. Sent once only: an answer that is lost counts as refused.
        """
        return {key_text for key_text, stood in self._over.each("fill", [token], self._filled(puts)) if stood}

    def filling(self, token: str, puts: Sequence[Put]) -> Steps[set[str]]:
        """The steps of `fill`."""
        answered = yield from self._over.asking("fill", [token], self._filled(puts))
        return {key_text for key_text, stood in answered if stood}

    def _filled(self, puts: Sequence[Put]) -> dict[str, tuple[bytes, str]]:
        return {put.key_text: self._loaded(put) for put in waits.in_turns(puts)}

    def broken_off(self, error: BaseException, token: str, key_texts: Sequence[str]) -> None:
        """What comes from outside ends a read: the leases that it may have left are others' to have."""
        if not isinstance(error, StrataError):
            with contextlib.suppress(StrataError), waits.shield():
                self._over.each("fill", [token], dict.fromkeys(key_texts, (b"", 0)))

    def refresh(self, found: dict[str, Found], puts: Sequence[Put]) -> set[str]:
        """Store what was loaded from below where the key still holds what was found; a record of None removes it.

        Returns the key texts that still held it. Sent once only: an answer that is lost counts as refused.
        """
        args = {put.key_text: (found[put.key_text].raw, *self._loaded(put)) for put in puts}
        return {key_text for key_text, held in self._over.each("refresh", [], args) if held}

    def _loaded(self, put: Put) -> tuple[bytes, str]:
        """Content and px, as it is sent, of what was loaded from below; empty for what nothing is to be said of."""
        if put.record is not None and self._versions.plausible(put.version):
            content, px = self.held(put.version, put.record, pending=put.pending, since=put.since)
            return content, str(px)
        if put.absent and self._lifetimes.negative_px:
            return self.held(0, None, since=put.since)[0], str(self._lifetimes.negative_px)
        return b"", "0"

    def lease(self, key_texts: Sequence[str]) -> str:
        """Leave leases on those of the keys that are empty, without reading the others; returns the token."""
        token = self.token()
        self.server.pipeline(
            [("SET", self.key(key_text), f"L1:{token}", "NX", "PX", LEASE_MS) for key_text in key_texts]
        )
        return token

    def intend(self, token: str, lasting: float, channel: str, messages: dict[str, bytes]) -> None:
        """Announce a commit: `messages` by key text, `lasting` the seconds after which it has surely ended."""
        head = [token, str(round(lasting * 1000)), channel]
        if len(messages) == 1:
            [(key_text, message)] = messages.items()
            self._over.one("intent", key_text, [*head, message])
            return
        for chunk in self._over.chunks(list(messages)):
            said = [messages[key_text] for key_text in chunk]
            self._over.run("intent", [self.key(key_text) for key_text in chunk], [*head, *said])

    def put(self, token: str, channel: str, puts: Sequence[Put]) -> set[str]:
        """Put what was committed in the place of the intents; returns the key texts that were stored."""
        self.remember([(put.key_text, put.version) for put in puts])
        return {key_text for key_text, stored in self._each_put("put", [token, channel], puts) if stored}

    def abandon(self, token: str, key_texts: Sequence[str]) -> None:
        """Take back the intents of a commit that is known to have failed."""
        for chunk in self._over.chunks(key_texts):
            self._over.run("abandon", [self.key(key_text) for key_text in chunk], [token])

    def own(self, channel: str, puts: Sequence[Put]) -> dict[str, int]:
        """Write where L2 is the lowest tier; returns the versions in the way of those that were refused, 0 where that
        is a marker, which is known then."""
        by_version: dict[int, dict[str, tuple[Any, ...]]] = {}
        for put in waits.in_turns(puts):
            by_version.setdefault(put.version, {})[put.key_text] = (*self._kept(put), put.message)
        refused: dict[str, int] = {}
        for version, by_text in by_version.items():
            answers = self._over.each("own", [*self._head(channel), f"{version:019d}"], by_text)
            refused |= {key_text: self._standing(answer) or 0 for key_text, answer in answers if answer}
        return refused

    def swap(self, channel: str, put: Put, stood: int | None) -> tuple[bool, int | None]:
        """Write where L2 is the lowest tier, if what stood there, by its version (None: nothing), still does; returns
        whether that was so, and what stands there otherwise."""
        stood_there = "" if stood is None else f"{stood:019d}"
        [(_, answer)] = self._each_put("swap", self._head(channel), [put], stood_there)
        return not answer, self._standing(answer)

    def _head(self, channel: str) -> list[Any]:
        """What scripts begin with that look at the schema's marker, if it has one, and not in another slot."""
        there = self.marks.name and not self.server.clustered
        return [channel, self.server.keys.own("markers", "schemas") if there else "", self.marks.name]

    def _standing(self, answer: bytes) -> int | None:
        """The version that stands there, if one does; a marker that stands in the way is heard of."""
        if answer == b"!":
            self.marks.catch_up()
        return int(answer) if answer and answer not in (b"-", b"!") else None

    def touch(self, channel: str, put: Put) -> tuple[int | None, bool]:
        """Give the value, whichever it is, the life of `put`, unless it is newer than that; returns the version that
        stands there, None without a value, and whether it got that life."""
        life = (self._lifetimes.px(put, put.life), ":" if put.life is None else ";")
        args = [channel, f"{put.version:019d}", *life, put.message]
        version, touched = self._over.run("touch", [self.key(put.key_text)], args)
        return int(version or 0) or None, bool(touched)

    def invalidate(self, channel: str, messages: Mapping[str, bytes]) -> None:
        """Drop the values, by key text with what is said of each, whatever their versions; what is pending stays."""
        self.remember((key_text, None) for key_text in messages)
        self._over.each("invalidate", [channel], {key_text: (message,) for key_text, message in messages.items()})

    def settle(self, channel: str, items: Sequence[tuple[str, int, bytes, int, bytes, int]]) -> None:
        """Tell L2 what L3 holds: key text, version, content or b"", px, message, whether that is said in any case."""
        self.remember((item[0], item[1]) for item in items)
        self._over.spread("settle", [channel], items)

    def purge(self, channel: str, items: Sequence[tuple[str, int, bytes]]) -> None:
        """Take back writes that were given up: (key text, version, message) each."""
        self._over.spread("purge", [channel], items)

    def walk(self, *, anywhere: bool = False) -> Iterator[list[str]]:
        """The texts of all keys of the schema, some at a time, as `RedisServer.scan` has them."""
        for keys in self.server.scan(f"{self._prefix}*", SCANNED, anywhere=anywhere):
            yield [text.removeprefix(self._prefix) for text in map(text_of, keys) if text is not None]

    def purge_all(self, channel: str) -> None:
        """As `purge`, for every key of the schema, whatever its version. Walks all keys of the Redis."""
        for key_texts in self.walk():
            self.purge(channel, [(key_text, NEWEST, b"") for key_text in key_texts])

    def tell_again(
        self, since: float, channel: str, message: Callable[[str, int | None], bytes]
    ) -> Mapping[str, int | None]:
        """Repeat what this process told L2 since then, a monotonic time; returns the keys with their versions.

        A Redis that took another's place may hold what was before: replicas, and files, lag behind. What is older than
        it should be is removed, and nothing is stored. `message` makes what is said of a key.
        """
        newest = self._told.since(since)
        puts = [
            Put(key_text, version, None, message(key_text, version))
            for key_text, version in newest.items()
            if version is not None
        ]
        self._each_put("put", ["", channel], puts)
        gone = {key_text: (message(key_text, None),) for key_text, version in newest.items() if version is None}
        if gone:
            self._over.each("invalidate", [channel], gone)
        return newest

    def remember(self, told: Iterable[tuple[str, int | None]]) -> None:
        """L2 is about to be told of these versions of keys, None being an invalidation: for `tell_again`."""
        self._told.remember(self.server.clock.monotonic(), told)

    def _each_put(self, name: str, head: list[Any], puts: Sequence[Put], *more: Any) -> list[tuple[str, Any]]:
        by_text = {
            put.key_text: (f"{put.version:019d}", *self._kept(put), put.message, *more) for put in waits.in_turns(puts)
        }
        return self._over.each(name, head, by_text)

    def _kept(self, put: Put) -> tuple[bytes, str]:
        """Content and px, as it is sent, of what was written."""
        if put.unread or not self._versions.plausible(put.version):
            return b"", "1"
        content, px = self.held(put.version, put.record, put.life, since=put.since)
        return content, str(px)
