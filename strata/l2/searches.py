"""Whole results of `search_cached`, kept in L2 under a key made from the query.

Where results are dropped on write, each bears the schema's *generation*, a random token in a key of its own, and is
good only while that is the generation. A writer removes it, and none begins while a writer's commit is under way: so
a result that was loaded before a commit is neither stored nor read after it, and a writer killed anywhere leaves
nothing stale. All keys of results share one slot of a Cluster.

A schema has a fixed number of places for results, and the key made from the query says which is its. The result bears
that key, and gives way to that of another query in the same place: as in a direct-mapped cache, the number is bounded
without anybody counting. So results that no query will ever find again, as every write leaves them behind, do not pile
up until their time is up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from strata.l2.kept import Kept, NotKept
from strata.l2.script import load

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

_find = load("strata.l2.scripts", "find_search")
_keep = load("strata.l2.scripts", "keep_search")
_commit = load("strata.l2.scripts", "commit_search")


_WHOSE = re.compile(rb"[0-9a-f]{32}")  # the key made from the query, in front of its result
MOST_KEPT = 86_400_000  # milliseconds that a result is kept where records never expire: nobody finds it after a write


class UntilTtl(NotKept):
    """Results that live until their time is up, whatever is written. `places`: how many there can be; `px`:
    milliseconds that one is kept."""

    def __init__(self, server: RedisServer, prefix: str, places: int, px: Callable[[], int]) -> None:
        self._server = server
        self._prefix = f"{server.keys.results(prefix)}t:"
        self._places = places
        self._px = px

    def find(self, fingerprint: str) -> Kept:
        return Kept(_of(fingerprint, self._server.values([self._key(fingerprint)], 1)[0]), b"")

    def keep(self, fingerprint: str, generation: bytes, data: bytes, life: float) -> None:
        px = _shorter(self._px(), life)
        self._server.execute("SET", self._key(fingerprint), fingerprint.encode() + data, "PX", px)

    def _key(self, fingerprint: str) -> str:
        return f"{self._prefix}{_place(fingerprint, self._places)}"


class UntilWrite:
    """Results that are dropped when the schema is written; each write costs two short scripts more."""

    drops = True

    def __init__(
        self, server: RedisServer, prefix: str, places: int, px: Callable[[], int], token: Callable[[], str]
    ) -> None:
        self._server = server
        self._prefix = server.keys.results(prefix)
        self._places = places
        self._generation = f"{self._prefix}generation"
        self._writers = f"{self._prefix}writers"
        self._px = px
        self._token = token

    def find(self, fingerprint: str) -> Kept:
        keys = [self._key(fingerprint), self._generation, self._writers]
        data, generation = self._server.run(_find, keys, [self._token()])
        return Kept(_of(fingerprint, data), generation or None)

    def keep(self, fingerprint: str, generation: bytes, data: bytes, life: float) -> None:
        args = [generation, _shorter(self._px(), life), fingerprint.encode() + data]
        self._server.run(_keep, [self._key(fingerprint), self._generation], args)

    def committing(self, token: str, lasting: float) -> None:
        self._server.run(_commit, [self._generation, self._writers], [token, round(lasting * 1000)])

    def committed(self, token: str) -> None:
        self._server.run(_commit, [self._generation, self._writers], [token, 0])

    def drop(self) -> None:
        self._server.execute("DEL", self._generation)

    def _key(self, fingerprint: str) -> str:
        return f"{self._prefix}w:{_place(fingerprint, self._places)}"


def _shorter(px: int, life: float) -> int:
    return px if life * 1000 >= px else max(1, int(life * 1000))


def _place(fingerprint: str, places: int) -> int:
    return int(fingerprint, 16) % places


def _of(fingerprint: str, content: bytes | None) -> bytes | None:
    """The result in a place: the query's own, or what is nobody's, which its reader will find out."""
    if content is None:
        return None
    whose = _WHOSE.match(content)
    if whose is None:
        return content
    return content[whose.end() :] if whose[0] == fingerprint.encode() else None
