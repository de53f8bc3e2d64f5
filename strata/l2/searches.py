"""Whole results of `search_cached`, kept in L2 under a key made from the query.

Where results are dropped on write, each bears the schema's *generation*, a random token in a key of its own, and is
good only while that is the generation. A writer removes it, and none begins while a writer's commit is under way: so
a result that was loaded before a commit is neither stored nor read after it, and a writer killed anywhere leaves
nothing stale. All keys of results share one slot of a Cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from strata.l2.client import RedisServer
from strata.l2.script import load

_find = load("strata.l2.scripts", "find_search")
_keep = load("strata.l2.scripts", "keep_search")
_commit = load("strata.l2.scripts", "commit_search")


MOST_KEPT = 86_400_000  # milliseconds that a result is kept where records never expire: nobody finds it after a write


class Kept(NamedTuple):
    """What was kept, or None; and the generation under which a result that is loaded now may be kept, or None."""

    data: bytes | None
    generation: str | None


class Searches(Protocol):
    """The kept results of one schema. Thread-safe; methods raise `L2UnavailableError`."""

    drops: bool

    def find(self, fingerprint: str) -> Kept: ...

    def keep(self, fingerprint: str, generation: str, data: bytes) -> None: ...

    def committing(self, token: str, lasting: float) -> None:
        """A writer is about to commit, which has surely ended after `lasting` seconds."""

    def committed(self, token: str) -> None:
        """The writer's commit has ended, one way or the other."""

    def drop(self) -> None:
        """Something was written: no result is good any more."""


class NotKept:
    """Without L2, or without L3: there are no results, and writes need not mind them."""

    drops = False

    def find(self, fingerprint: str) -> Kept:
        return Kept(None, None)

    def keep(self, fingerprint: str, generation: str, data: bytes) -> None:
        pass

    def committing(self, token: str, lasting: float) -> None:
        pass

    def committed(self, token: str) -> None:
        pass

    def drop(self) -> None:
        pass


class UntilTtl(NotKept):
    """Results that live until their time is up, whatever is written. `px`: milliseconds that one is kept."""

    def __init__(self, server: RedisServer, prefix: str, px: Callable[[], int]) -> None:
        self._server = server
        self._prefix = server.keys.results(prefix)
        self._px = px

    def find(self, fingerprint: str) -> Kept:
        return Kept(self._server.execute("GET", self._prefix + fingerprint), "")

    def keep(self, fingerprint: str, generation: str, data: bytes) -> None:
        self._server.execute("SET", self._prefix + fingerprint, data, "PX", self._px())


class UntilWrite:
    """Results that are dropped when the schema is written; each write costs two short scripts more."""

    drops = True

    def __init__(self, server: RedisServer, prefix: str, px: Callable[[], int], token: Callable[[], str]) -> None:
        self._server = server
        self._prefix = server.keys.results(prefix)
        self._generation = f"{self._prefix}generation"
        self._writers = f"{self._prefix}writers"
        self._px = px
        self._token = token

    def find(self, fingerprint: str) -> Kept:
        keys = [f"{self._prefix}w:{fingerprint}", self._generation, self._writers]
        data, generation = self._server.run(_find, keys, [self._token()])
        return Kept(data, generation.decode() if generation else None)

    def keep(self, fingerprint: str, generation: str, data: bytes) -> None:
        self._server.run(_keep, [f"{self._prefix}w:{fingerprint}", self._generation], [generation, self._px(), data])

    def committing(self, token: str, lasting: float) -> None:
        self._server.run(_commit, [self._generation, self._writers], [token, round(lasting * 1000)])

    def committed(self, token: str) -> None:
        self._server.run(_commit, [self._generation, self._writers], [token, 0])

    def drop(self) -> None:
        self._server.execute("DEL", self._generation)
