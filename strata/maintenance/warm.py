"""`warm_cache`: rows from L3 into L1 and L2, never over something newer, page by page in the order of their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from strata.bound import Bound
from strata.engine.context import Context
from strata.engine.rows import Filler, Item, text_of
from strata.engine.search import rows_of

if TYPE_CHECKING:
    from strata.l3.reads import Row

MOST = 1_000  # rows of a page
PAGE_BYTES = 4 << 20  # about so much of a page is held in memory
WEIGHED = 20  # rows of a page that say how large all are
PART = 20_000  # rows that are worth a part of their own
PARTS = 64
COUNTED = 200_000  # rows up to which they are counted; beyond, the planner's estimate must do


@dataclass(frozen=True, slots=True)
class Span:
    """Keys beyond `after` up to and with `last`, and at most `most` of their rows; None where there is no end."""

    after: Any = None
    last: Any = None
    most: int | None = None


class Division(NamedTuple):
    """A table in spans that can be warmed side by side, and about how many rows they are together."""

    total: int
    spans: list[Span]


class Warmer:
    """Loads caches ahead of the reads. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, filler: Filler) -> None:
        self._context = context
        self._filler = filler

    def warm(self, bound: Bound, limit: int, progress: Callable[[int], object] | None = None) -> int:
        """Load up to `limit` records (0 = all) in the order of their keys; returns how many were read. Rows that cannot
        be are left out and told of.

        `progress` is told the number so far after each page. Hooks do not run.
        """
        done = 0
        for _, count in self.run(bound, Span(most=limit or None)):
            done += count
            if progress is not None:
                progress(done)
        return done

    def run(self, bound: Bound, span: Span, *, strict: bool = False) -> Iterator[tuple[Span | None, int]]:
        """Load a span, page by page: what is left after each, None at the end, and how many rows it had.

        An outage of L2 leaves pages out; where it is `strict`, it raises `L2UnavailableError`.
        """
        self._context.listen()
        left: Span | None = span
        while left is not None:
            found, full = self._page(bound, left)
            items = [Item(key, text_of(bound, key), version) for key, version in found]
            # The lease of a worker that was killed while it warmed must not keep its keys out of the cache.
            unreadable = self._filler.warm(bound, items, strict=strict)
            for error in unreadable:
                bound.leave_out(error)
            left = _rest(left, items[-1].id, len(items)) if full else None
            yield left, len(items) - len(unreadable)

    def divide(self, bound: Bound, limit: int) -> Division:
        """Spans of about equal size; each has its share of a limit, so that what is inserted meanwhile adds nothing."""
        l3 = rows_of(bound)
        table, database = l3.table, l3.primary
        with database.connection() as conn:
            total = table.count_up_to(conn, limit or COUNTED)
            if not limit and total == COUNTED:
                total = max(COUNTED, table.about(conn))
            if total <= PART:
                return Division(total, [Span(most=limit or None)])
            parts = min(PARTS, -(-total // PART))
            step = -(-total // parts)
            cuts = table.steps(conn, limit, step) if limit else table.cuts(conn, parts, total)
        if not all(text_of(bound, key) for key in cuts):
            return Division(total, [Span(most=limit or None)])
        ends = list(zip([None, *cuts], [*cuts, None], strict=True))
        if not limit:
            return Division(total, [Span(after, last) for after, last in ends])
        shares = [step] * len(cuts) + [limit - step * len(cuts)]
        return Division(total, [Span(*end, share) for end, share in zip(ends, shares, strict=True) if share > 0])

    def _page(self, bound: Bound, span: Span) -> tuple[Sequence[tuple[Any, int]], bool]:
        """The keys and versions of the next rows, about `PAGE_BYTES` of them, and whether there may be more. The rows
        themselves are read once it is known what the caches lack."""
        l3 = rows_of(bound)
        table, database = l3.table, l3.primary
        with database.connection() as conn:
            size = min(
                MOST if span.most is None else span.most, _fitting(table.page(conn, span.after, WEIGHED, span.last))
            )
            found = table.keys(conn, span.after, size, span.last)
        full = len(found) >= size
        return (_to_a_key(bound, found), True) if full else (found, False)


def _to_a_key(bound: Bound, found: Sequence[tuple[Any, int]]) -> Sequence[tuple[Any, int]]:
    """A page up to its last key, which the next one begins after: another program's may be none to Strata, and have no
    text by which a job goes on. All of it where none is."""
    for end in range(len(found), 0, -1):
        if text_of(bound, found[end - 1][0]):
            return found[:end]
    return found


def _rest(span: Span, after: Any, count: int) -> Span | None:
    most = None if span.most is None else span.most - count
    return None if most == 0 else replace(span, after=after, most=most)


def _fitting(rows: Sequence[Row]) -> int:
    """How many rows like these a page has room for."""
    weight = sum(len(value) for row in rows for value in row.values if isinstance(value, str | bytes))
    return max(1, min(MOST, PAGE_BYTES * len(rows) // max(weight, 1)))
