"""`warm_cache`: rows from L3 into L1 and L2, never over something newer."""

from __future__ import annotations

from collections.abc import Callable

from strata.bound import Bound
from strata.engine.context import Context
from strata.engine.rows import Filler, items_of
from strata.engine.search import chunks

CHUNK = 1000


class Warmer:
    """Loads caches ahead of the reads. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, filler: Filler) -> None:
        self._context = context
        self._filler = filler

    def warm(self, bound: Bound, limit: int, progress: Callable[[int], None] | None = None) -> int:
        """Load up to `limit` records (0 = all) in the order of their keys; returns how many were read.

        `progress` is told the number so far after each chunk. Hooks do not run.
        """
        self._context.listen()
        done = 0
        for rows in chunks(bound, limit, CHUNK):
            self._filler.fill(bound, items_of(bound, rows))
            done += len(rows)
            if progress is not None:
                progress(done)
        return done
