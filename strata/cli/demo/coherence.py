"""Stage 3: two processes; what one writes, the other reads."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import IO

from rich.progress import Progress

from strata.cli.demo.model import Place
from strata.cli.demo.report import Line, duration
from strata.datastore import DataStore

WRITES = 50
USUAL, LIMIT = 0.05, 3.0  # seconds: how late another process reads a write, and how late at the very worst


def time_coherence(store: DataStore, place: Place, environment: Mapping[str, str], bars: Progress) -> list[Line]:
    """Write here, and measure when the other process, which has it in its memory, reads the new value."""
    bar = bars.add_task("writing here, reading there", total=WRITES)
    writes, lags = [], []
    with _peer(place.id, environment) as answers:
        _until(answers, 0)
        for visits in range(1, WRITES + 1):
            time.sleep(0.02)
            began = time.monotonic_ns()
            store.set_many(Place, {place.id: replace(place, visits=visits)})
            writes.append((time.monotonic_ns() - began) / 1e9)
            lags.append((_until(answers, visits) - began) / 1e9)
            bars.advance(bar)
    store.set_many(Place, {place.id: place})
    late = [max(0.0, lag - write) for lag, write in zip(lags, writes, strict=True)]
    said = f"{duration(statistics.median(lags))} after it began; at worst {duration(max(late))} after it ended"
    holds = statistics.median(late) < USUAL and max(late) < LIMIT
    return [
        Line("a synchronous write takes", f"{duration(statistics.median(writes))} (median of {WRITES})"),
        Line("... and is read in another process", said, holds),
    ]


@contextmanager
def _peer(id: int, environment: Mapping[str, str]) -> Iterator[IO[str]]:
    command = [sys.executable, "-m", "strata.cli.demo.peer", str(id)]
    peer = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert peer.stdin is not None and peer.stdout is not None
    try:
        yield peer.stdout
    finally:
        peer.stdin.close()  # its sign to end
        try:
            peer.wait(10)
        except subprocess.TimeoutExpired:
            peer.kill()
            peer.wait()
        peer.stdout.close()


def _until(answers: IO[str], visits: int) -> int:
    """When the peer saw this value, in ns of the monotonic clock; it may have seen others before."""
    while answer := answers.readline():
        seen, at = answer.split()
        if int(seen) == visits:
            return int(at)
    raise RuntimeError(f"the other process ended before it saw the value {visits}")
