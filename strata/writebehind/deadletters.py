"""Dead letters: writes that were given up, kept with everything needed to look at them and to try again."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec

from strata.bound import Bound
from strata.errors import DecodeError, NotFoundError, SchemaNotFoundError
from strata.shards import SHARDS
from strata.writebehind.entry import Entry, Op, decode
from strata.writebehind.ledger import Ledger
from strata.writebehind.shard import Shard, shards_of

_OPS = {Op.SET: "set", Op.DELETE: "delete", Op.PARTIAL: "partial"}


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
decode_letter = msgspec.msgpack.Decoder(Letter).decode


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A deferred write that was given up. `origin` is the instance that wrote it.

    `values` has the columns that it would have written, with ciphertext for Encrypted ones; only `show` fills it.
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
    """The dead letters of the registered schemas. Thread-safe. Methods raise `L2UnavailableError`.

    >>> for letter in ds.dead_letters.list("players"):                 # doctest: +SKIP
    ...     print(letter.id, letter.sqlstate, letter.error)
    """

    def __init__(
        self, ledger: Ledger, schemas: Mapping[str, Bound], rewrite: Callable[[Bound, str, Entry], None]
    ) -> None:
        self._ledger = ledger
        self._schemas = schemas
        self._rewrite = rewrite

    def list(self, schema: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """The latest letters, newest first, of one schema or of all. Raises `SchemaNotFoundError`."""
        found = [
            (died, shard, version) for shard in self._shards(schema) for version, died in self._newest(shard, limit)
        ]
        found.sort(reverse=True)
        letters = (self._find(shard, version) for _, shard, version in found[:limit])
        return [_public(shard, letter, self._schemas[shard.schema]) for shard, letter in letters if letter is not None]

    def count(self, schema: str | None = None) -> int:
        """How many there are. Raises `SchemaNotFoundError`."""
        shards = list(self._shards(schema))
        return sum(self._ledger.server.pipeline([("ZCARD", self._ledger.key(shard, "deaths")) for shard in shards]))

    def show(self, id: str) -> DeadLetter:
        """One letter, with the values that were to be written. Raises `NotFoundError`."""
        shard, letter = self._get(id)
        return _public(shard, letter, self._schemas[shard.schema], whole=True)

    def retry(self, *ids: str, all: bool = False) -> int:
        """Write them once more, at their own versions, so that nothing newer is overwritten; returns how many.

        Raises `NotFoundError`, or `DecodeError` for one that only a newer process can read.
        """
        count = 0
        for shard, letter in self._chosen(ids, all):
            bound = self._schemas[shard.schema]
            entry = decode(letter.entry)
            self._rewrite(bound, letter.key_text, entry)
            count += self._ledger.exhume(shard, letter.key_text, entry.version)
        return count

    def discard(self, *ids: str, all: bool = False) -> int:
        """Throw them away; returns how many. Raises `NotFoundError`."""
        return sum(
            self._ledger.exhume(shard, letter.key_text, decode(letter.entry).version)
            for shard, letter in self._chosen(ids, all)
        )

    def _chosen(self, ids: Sequence[str], all: bool) -> Iterator[tuple[Shard, Letter]]:
        if not all:
            yield from [self._get(id) for id in ids]
            return
        for shard in self._shards(None):
            for version, _ in reversed(self._newest(shard, 0)):
                if (found := self._find(shard, version))[1] is not None:
                    yield found  # type: ignore[misc]

    def _shards(self, schema: str | None) -> Iterator[Shard]:
        if schema is not None and schema not in self._schemas:
            raise SchemaNotFoundError(f"no schema {schema!r} that is written behind is registered with this store")
        for name in list(self._schemas) if schema is None else [schema]:
            yield from shards_of(name)

    def _newest(self, shard: Shard, limit: int) -> builtins.list[tuple[int, float]]:
        # Versions with ms of their burial, newest first; limit 0 = all.
        versions = self._ledger.server.execute("ZREVRANGE", self._ledger.key(shard, "deaths"), 0, limit - 1)
        if not versions:
            return []
        scores = self._ledger.server.pipeline(
            [("ZSCORE", self._ledger.key(shard, "deaths"), version) for version in versions]
        )
        return [(int(version), float(score or 0)) for version, score in zip(versions, scores, strict=True)]

    def _get(self, id: str) -> tuple[Shard, Letter]:
        schema, _, rest = id.rpartition("-")[0].rpartition("-")
        version = id.rpartition("-")[2]
        if schema in self._schemas and rest.isdigit() and int(rest) < SHARDS and version.isdigit():
            shard, letter = self._find(Shard(schema, int(rest)), int(version))
            if letter is not None:
                return shard, letter
        raise NotFoundError("no such dead letter; see dead_letters.list()")

    def _find(self, shard: Shard, version: int) -> tuple[Shard, Letter | None]:
        raw = self._ledger.server.execute("HGET", self._ledger.key(shard, "dead"), f"{version:019d}")
        return shard, None if raw is None else decode_letter(raw)


def _public(shard: Shard, letter: Letter, bound: Bound, *, whole: bool = False) -> DeadLetter:
    entry = decode(letter.entry)
    values: Mapping[str, Any] | None = None
    if whole and entry.row:
        try:
            values = MappingProxyType(dict(zip(*bound.plan.unpack_row(entry.row), strict=True)))
        except DecodeError:
            values = None  # a newer process can read it
    return DeadLetter(
        id=f"{shard.schema}-{shard.number}-{entry.version:019d}",
        schema=shard.schema,
        key=bound.plan.parse_key(letter.key_text),
        version=entry.version,
        op=_OPS[entry.op],
        sqlstate=letter.sqlstate,
        error=letter.error,
        attempts=letter.attempts,
        first_at=datetime.fromtimestamp(letter.first_at / 1000, UTC),
        last_at=datetime.fromtimestamp(letter.last_at / 1000, UTC),
        origin=entry.origin,
        values=values,
    )
