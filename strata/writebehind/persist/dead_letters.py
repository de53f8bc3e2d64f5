"""Dead letters: writes that were given up, kept with everything needed to look at them and to try again."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from strata.bound import Bound
from strata.errors import (
    DecodeError,
    InvalidConfigError,
    L2RefusedError,
    NotFoundError,
    SchemaNotFoundError,
    shown,
)
from strata.model.plan import UnknownColumnError
from strata.policies import count, flag
from strata.protocol.entry import UNDECODABLE, Entry, EntryOp, decode, version_of
from strata.protocol.shards import SHARDS
from strata.protocol.versions import text
from strata.writebehind.dirty import changes
from strata.writebehind.ledger.shard import Shard, shards_of

if TYPE_CHECKING:
    from strata.writebehind.ledger.ledger import Ledger

MOST = 1_000_000_000  # of letters that a list may ask for
_OPS = {EntryOp.SET: "set", EntryOp.DELETE: "delete", EntryOp.PARTIAL: "partial", EntryOp.MIXED: "set"}


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """A dead letter as it is stored. `entry` is the ledger's, so that Encrypted columns are ciphertext; times in ms."""

    key_text: str
    entry: bytes
    sqlstate: str
    error: str
    attempts: int
    first_at: int
    last_at: int


encode_letter = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Letter).decode
UNREADABLE = "unreadable"  # what `op` says of a write that this process cannot read
UNREADABLE_HERE = "a dead letter cannot be read here; discard it, or retry it with the release that wrote it"
NO_LETTER = "the letter cannot be read; a newer release wrote it, or it is damaged"
ENDLESS = 253_402_300_799_000  # ms since 1970 of the last moment that a datetime can tell


def letter_of(raw: bytes) -> Letter | None:
    """A letter out of its bytes; None where they are none, or a newer release's."""
    try:
        return _decode(raw)
    except UNDECODABLE:
        return None


class FoundLetter(NamedTuple):
    """A letter where it was found, `name` being its version as the ledger has it; `letter` and `entry` are None where
    they cannot be read. `reason`: why it waits, where it is no letter yet but an entry."""

    shard: Shard
    name: bytes
    letter: Letter | None
    entry: Entry | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A deferred write that was given up.

    Attributes:
        id: By which `show`, `retry` and `discard` know it.
        schema: The schema's name.
        key: The record's id.
        version: The version of the write.
        op: What it was: `set`, `delete`, `partial` (some columns), or `unreadable`, where this process can neither read
            nor retry it.
        sqlstate: PostgreSQL's five characters for why; empty where it was another reason.
        error: Why, in words.
        attempts: How often it was tried.
        first_at: When it was written (UTC).
        last_at: When it was given up (UTC).
        origin: The instance that wrote it.
        values: The columns that it would have written, with ciphertext for Encrypted ones; only `show` fills it.
            Default: None.
    """

    id: str
    schema: str
    key: Any
    version: int
    op: str
    sqlstate: str
    error: str
    attempts: int
    first_at: datetime
    last_at: datetime
    origin: str
    values: Mapping[str, Any] | None = None


class DeadLetters:
    """The dead letters of the registered schemas. Thread-safe. Whatever a call says of itself, it also raises
    `L2UnavailableError` where the ledger's Redis does not answer.

    >>> for letter in store.dead_letters.list("players"):
    ...     print(letter.id, letter.sqlstate, letter.error)
    """

    def __init__(
        self,
        ledger: Ledger,
        schemas: Mapping[str, Bound],
        rewrite: Callable[[Bound, str, Entry], None],
        set_aside: Callable[[Bound, Shard, str, bytes, str], int],
    ) -> None:
        self._ledger = ledger
        self._schemas = schemas
        self._rewrite = rewrite
        self._set_aside = set_aside

    def list(self, schema: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """The latest letters, newest first, `limit` at most, of one schema or of all.

        Raises `SchemaNotFoundError` for a schema that is not written behind, and `InvalidConfigError` for a `limit`
        that is none.
        """
        _check_limit(limit)
        found = [
            (died, shard, version) for shard in self._shards(schema) for version, died in self._newest(shard, limit)
        ]
        found.sort(reverse=True)
        letters = (self._find(shard, version) for _, shard, version in found[:limit])
        return [_public(letter, self._schemas[letter.shard.schema]) for letter in letters if letter is not None]

    def waiting(self, schema: str | None = None, limit: int = 100) -> builtins.list[DeadLetter]:
        """Writes that are not given up, but wait in the ledger for a newer release, since none that took them up could
        read them, nor can this process. `discard` takes their ids too.

        Raises `SchemaNotFoundError` and `InvalidConfigError` as `list` does.
        """
        _check_limit(limit)
        names = dict.fromkeys(shard.schema for shard in self._shards(schema))
        found = [
            (bound, item) for name in names for bound in [self._schemas[name]] for item, _, _ in self._waits(bound)
        ]
        return [_public(item, bound) for bound, item in found[:limit]]

    def count(self, schema: str | None = None) -> int:
        """How many there are, of one schema or of all. Raises `SchemaNotFoundError` as `list` does."""
        counts = self._ledger.ask([(shard, ("ZCARD", "deaths")) for shard in self._shards(schema)])
        return sum(count for count in counts if isinstance(count, int))

    def show(self, id: str) -> DeadLetter:
        """One letter, with the values that were to be written. Raises `NotFoundError` for an id that none has."""
        found = self._get(id)
        return _public(found, self._schemas[found.shard.schema], whole=True)

    def retry(self, *ids: str, all: bool = False) -> int:
        """Write them once more, at their own versions, so that nothing newer is overwritten; returns how many.

        Raises `NotFoundError` for an id that none has, and `InvalidConfigError` for an `all` that is neither True nor
        False; and, once the others were put back, `DecodeError` for one that cannot be read, or does not fit the
        schema. `all` leaves those where they are.
        """
        count = 0
        wrong: DecodeError | None = None
        for found in self._chosen(ids, all):
            bound = self._schemas[found.shard.schema]
            try:
                if found.letter is None or found.entry is None:
                    raise DecodeError(UNREADABLE_HERE, schema=bound.name)
                self._ledger.untell(found.shard, found.name)
                self._rewrite(bound, found.letter.key_text, found.entry)
                count += self._ledger.exhume(found.shard, found.letter.key_text, found.name)
            except DecodeError as error:
                wrong = wrong or error
        if wrong is not None and not all:
            raise wrong
        return count

    def discard(self, *ids: str, all: bool = False) -> int:
        """Throw them away; returns how many. Raises `NotFoundError` and `InvalidConfigError` as `retry` does."""
        count = 0
        for found in self._chosen(ids, all, waiting=True):
            count += self._ledger.exhume(found.shard, found.letter.key_text if found.letter else "", found.name)
        return count

    def _chosen(self, ids: Sequence[str], all: bool, *, waiting: bool = False) -> Iterator[FoundLetter]:
        if not flag(all, "all"):
            yield from [self._get(id, waiting=waiting) for id in ids]
            return
        for shard in self._shards(None):
            for name, _ in reversed(self._newest(shard, 0)):
                yield self._find(shard, name) or FoundLetter(shard, name, None, None)

    def _shards(self, schema: str | None) -> Iterator[Shard]:
        if schema is not None and (not isinstance(schema, str) or schema not in self._schemas):
            raise SchemaNotFoundError(f"no schema {shown(schema)} that is written behind is registered with this store")
        for name in list(self._schemas) if schema is None else [schema]:
            yield from shards_of(name)

    def _newest(self, shard: Shard, limit: int) -> builtins.list[tuple[bytes, float]]:
        # By version, with ms of their burial, newest first; limit 0 = all.
        [names] = self._ledger.ask([(shard, ("ZREVRANGE", "deaths", 0, limit - 1))])
        if isinstance(names, L2RefusedError):
            return []
        scores = self._ledger.ask([(shard, ("ZSCORE", "deaths", name)) for name in names])
        return [(name, float(score or 0)) for name, score in zip(names, scores, strict=True)]

    def _get(self, id: str, *, waiting: bool = False) -> FoundLetter:
        if not isinstance(id, str):
            raise NotFoundError(f"the id of a dead letter is a str, not a {type(id).__name__}; {_LISTED}")
        schema, number, name = [*id.split("-", 2), "", ""][:3]
        if schema in self._schemas and number.isdecimal() and int(number) < SHARDS and name:
            shard = Shard(schema, int(number))
            if (found := self._find(shard, unquote_to_bytes(name))) is not None:
                return found
            if waiting:
                for item, key_text, raw in self._waits(self._schemas[schema]):
                    if item.shard == shard and quote_from_bytes(item.name) == name:
                        self._set_aside(self._schemas[schema], shard, key_text, raw, item.reason)
                        return item
        raise NotFoundError(f"no dead letter has the id {shown(id)}; {_LISTED}")

    def _find(self, shard: Shard, name: bytes) -> FoundLetter | None:
        [raw] = self._ledger.ask([(shard, ("HGET", "dead", name))])
        if not isinstance(raw, bytes):
            return None
        letter = letter_of(raw)
        try:
            return FoundLetter(shard, name, letter, None if letter is None else decode(letter.entry))
        except DecodeError:
            return FoundLetter(shard, name, letter, None)

    def _waits(self, bound: Bound) -> Iterator[tuple[FoundLetter, str, bytes]]:
        """Entries that only a newer release can read, with key and bytes."""
        for shard, key_text, raw in self._ledger.waiting(bound.name):
            try:
                entry = decode(raw)
                changes.of_entry(bound, changes.key_of(bound, key_text), key_text, entry)
            except UnknownColumnError as error:
                yield FoundLetter(shard, text(version_of(raw)).encode(), None, None, str(error)), key_text, raw
            except DecodeError:
                continue  # it does not wait for long


_LISTED = "`strata dead-letters list`, or dead_letters.list(), has their ids"


def _check_limit(limit: int) -> None:
    if count(limit, "limit") > MOST:
        raise InvalidConfigError(f"limit is {shown(limit)}; it must be at most {MOST}")


def _public(found: FoundLetter, bound: Bound, *, whole: bool = False) -> DeadLetter:
    shard, name, letter, entry, reason = found
    values: Mapping[str, Any] | None = None
    if whole and entry is not None and entry.row:
        with contextlib.suppress(DecodeError):  # a newer process can read it
            values = MappingProxyType(dict(zip(*bound.plan.unpack_row(entry.row), strict=True)))
    return DeadLetter(
        id=f"{shard.schema}-{shard.number}-{quote_from_bytes(name)}",
        schema=shard.schema,
        key=None if letter is None else _key(bound, letter.key_text),
        version=int(name) if name.isdigit() else 0,
        op=UNREADABLE if entry is None else _OPS[entry.op],
        sqlstate="" if letter is None else letter.sqlstate,
        error=reason or (NO_LETTER if letter is None else letter.error),
        attempts=0 if letter is None else letter.attempts,
        first_at=_moment(0 if letter is None else letter.first_at),
        last_at=_moment(0 if letter is None else letter.last_at),
        origin="" if entry is None else entry.origin,
        values=values,
    )


def _key(bound: Bound, key_text: str) -> Any:
    try:
        return bound.plan.parse_key(key_text)
    except DecodeError:
        return key_text


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(min(max(ms, 0), ENDLESS) / 1000, UTC)
