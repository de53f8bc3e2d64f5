"""Markers: what was invalidated as a whole, a schema or a tag, by one number each; and what that says of a copy.

Numbers rise in the order in which markers are set, in any process: microseconds, and at least one more than the last.
An entry of L2 carries the highest number that its reader had heard of before it asked L3 (`since`): whatever has a
higher one may have been set after the row was read. So no clocks are compared, a fill that began before a marker and
ends after it counts as older, and the version of the row, which another program's UPDATE leaves as it is, does not
matter (L. Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System", 1978).

Copies in L1 are judged by the process's own clock: what was read before a marker was heard of does not enter after it.

Only the newest `MOST` markers of tags are kept, in Redis and in each process. The number of the newest that was left
out is the *floor*: what was read before it counts as older than any marker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Protocol

from strata.waits.locks import memory_lock

MOST = 65_536  # markers of tags that are kept
TAGS = 100  # that one record may have
LONGEST = 256  # characters of a tag

Tags = tuple[str, ...]


class TagsError(Exception):
    """What is wrong with tags; the text goes on from "tags ..."."""


def checked_tags(given: Any) -> Tags:
    """Tags as a user gives them, each once. Raises `TagsError`."""
    if isinstance(given, str | bytes | bytearray | Mapping) or not isinstance(given, Iterable):
        raise TagsError(f"must be a list of texts, not a {type(given).__name__}")
    tags = tuple(dict.fromkeys(map(checked_tag, islice(given, TAGS + 1))))
    if len(tags) > TAGS:
        raise TagsError(f"are more than {TAGS}; put what belongs together under one tag")
    return tags


def checked_tag(given: Any) -> str:
    """One tag. Raises `TagsError`."""
    if not isinstance(given, str):
        raise TagsError(f"must be texts, and one is of type {type(given).__name__}")
    tag = str.__str__(given) if type(given) is not str else given
    if not 0 < len(tag) <= LONGEST:
        raise TagsError(f"must have 1 to {LONGEST} characters, and one has {len(tag)}")
    try:
        tag.encode()
    except UnicodeEncodeError:
        raise TagsError("must be texts, and one holds a lone surrogate") from None
    return tag


class MarkerSource(Protocol):
    """Where markers are heard of that the bus has not told. Both raise `L2UnavailableError`."""

    def renew(self, within: float = ...) -> None:
        """Ask, unless it is sure that all was heard, or was asked so many seconds ago at most."""

    def catch_up(self) -> None:
        """Ask."""


class NoSource:
    """Nobody knows of others."""

    def renew(self, within: float = 0) -> None:
        """There is nobody to be asked."""

    def catch_up(self) -> None:
        """As `renew`."""


class Markers:
    """The markers that this process has heard of.

    `_lock` guards every change; `heard`, `floor` and both dicts are read without it, where each read is one lookup, and
    a moment's difference is that of a message that comes a moment later. `source` knows of more; set once, by the
    wiring. After fork: `after_fork`; what was heard stays true in the child.
    """

    def __init__(self) -> None:
        self.tags: dict[str, tuple[int, float]] = {}  # the number, and when it was heard of (monotonic); oldest first
        self.schemas: dict[str, int] = {}
        self.heard = 0
        self.latest = 0  # of tags
        self.floor = 0
        self.cut_off = -math.inf  # when what the floor stands for was heard of (monotonic)
        self.source: MarkerSource = NoSource()
        self.after_fork()

    def after_fork(self) -> None:
        """In the child: a lock that no thread of the parent's holds."""
        self._lock = memory_lock()

    def tag(self, tag: str, number: int, now: float) -> bool:
        """A marker of a tag was heard of; whether it is news."""
        with self._lock:
            known = self.tags.pop(tag, (0, now))
            news = number > known[0]
            self.tags[tag] = (number, now) if news else known
            self.latest = max(self.latest, number)
            self.heard = max(self.heard, number)
            while len(self.tags) > MOST:
                oldest, (cut, at) = next(iter(self.tags.items()))
                del self.tags[oldest]
                self.floor, self.cut_off = max(self.floor, cut), max(self.cut_off, at)
            return news

    def schema(self, name: str, number: int) -> bool:
        """A marker of a schema was heard of; whether it is news."""
        with self._lock:
            news = number > self.schemas.get(name, 0)
            if news:
                self.schemas[name] = number
            self.heard = max(self.heard, number)
            return news

    def raise_floor(self, number: int) -> bool:
        """Redis says how far markers of tags were left out, or all were lost; whether they were, since then it is above
        them."""
        with self._lock:
            lost = number > self.heard
            self.floor = max(self.floor, number)
            self.heard = max(self.heard, number)
            return lost

    def after(self, number: int) -> list[tuple[str, str, int]]:
        """Those above a number, as (schema or "", tag or "", number) each; of schemas all."""
        with self._lock:
            tags = [("", tag, known) for tag, (known, _) in self.tags.items() if known > number]
            return [(name, "", known) for name, known in self.schemas.items()] + tags


class SchemaMarkers:
    """What the markers say of one schema's copies. Immutable. `tags` gives those of a record as a cache holds it, or
    None where they cannot be told: such a record is not cached. It is None itself where the schema has no tags."""

    __slots__ = ("_markers", "name", "tags")

    def __init__(self, markers: Markers, name: str, tags: Callable[[Any], Tags | None] | None = None) -> None:
        self._markers = markers
        self.name = name
        self.tags = tags

    def renew(self) -> None:
        """Before a copy in L2 is judged. Raises `L2UnavailableError`."""
        self._markers.source.renew()

    def renew_now(self) -> None:
        """Before one is written that nobody could read anew, if it counted as older than it is. Raises
        `L2UnavailableError`."""
        self._markers.source.renew(within=0)

    def surely_since(self) -> int | None:
        """As `since`, of what nobody could read anew. Raises `L2UnavailableError`."""
        self.renew_now()
        return self.since

    def catch_up(self) -> None:
        """Somebody else has heard of more. Raises `L2UnavailableError`."""
        self._markers.source.catch_up()

    @property
    def since(self) -> int | None:
        """What an entry of L2 is to carry that is read from now on; None: nothing, as long as no marker concerns it."""
        markers = self._markers
        return markers.heard if self.tags is not None or self.name in markers.schemas else None

    def outdated(self, record: Any, since: int | None) -> bool:
        """Whether an entry of L2 may be older than a marker; a record of None is an absence, which has no tags. Where
        its writer had heard of more than this process, that asks. Raises `L2UnavailableError`."""
        markers = self._markers
        if since is not None and since > markers.heard:
            markers.source.catch_up()
        marked = markers.schemas.get(self.name, 0)
        tagged = self.tags is not None and record is not None
        if since is None:
            return tagged or marked > 0
        if since < marked or since < markers.floor or since > markers.heard:
            return True  # or it has heard of what nobody has set
        if not tagged:
            return False
        assert self.tags is not None
        tags, known = self.tags(record), markers.tags.get
        return tags is None or any((found := known(tag)) is not None and found[0] > since for tag in tags)

    def outdated_result(self, since: int | None) -> bool:
        """As `outdated`, of the result of a query: whatever has a tag now may belong to it, or not any more."""
        return self.outdated(None, since) or (self.tags is not None and (since is None or since < self._markers.latest))

    def overtaken(self, tags: Iterable[str] | None, began: float, until: float = math.inf) -> bool:
        """Whether a marker of these tags was heard of since what has them began to be read (monotonic times)."""
        if self.tags is None:
            return False
        if tags is None or began <= self._markers.cut_off <= until:
            return True
        known = self._markers.tags.get
        return any((found := known(tag)) is not None and began <= found[1] <= until for tag in tags)


UNMARKED = SchemaMarkers(Markers(), "")
"""Of what no marker concerns."""
