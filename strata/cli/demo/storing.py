"""Stage 1: `set_many` of everything."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.progress import Progress

from strata.cli.demo.model import Place
from strata.cli.demo.report import Line, duration
from strata.datastore import DataStore

CHUNK = 2000


def store_places(store: DataStore, found: Mapping[int, Place], bars: Progress) -> list[Line]:
    """Write them to all three tiers, synchronously."""
    bar = bars.add_task("storing the places", total=len(found))
    ids = list(found)
    began = time.perf_counter()
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        store.set_many(Place, {id: found[id] for id in chunk})
        bars.advance(bar, len(chunk))
    seconds = time.perf_counter() - began
    said = f"{len(found):,} in {duration(seconds)}, {len(found) / seconds:,.0f} a second"
    return [Line("places stored by set_many, in all tiers", said)]
