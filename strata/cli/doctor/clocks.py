"""Clocks: versions are made of times, and the highest version wins."""

from __future__ import annotations

import time
from collections.abc import Callable

from strata.cli.doctor.finding import Finding, fail, good, warn
from strata.protocol.versions import AHEAD

LIMIT = 0.5  # seconds


def clock(what: str, ask: Callable[[], float]) -> Finding:
    """How far the server's clock (seconds since 1970) is from this machine's, halving the way there and back."""
    asked = time.time()
    theirs = ask()
    offset = theirs - (asked + time.time()) / 2
    if abs(offset) < LIMIT:
        return good(f"clock of {what}", f"{offset * 1000:+.1f} ms")
    if abs(offset) * 1_000_000 >= AHEAD:
        advice = "synchronise the clocks (NTP): versions from so far ahead are not believed"
        return fail(f"clock of {what}", f"{offset:+.1f} s", advice)
    return warn(
        f"clock of {what}", f"{offset:+.1f} s", "synchronise the clocks (NTP): the later of two writes may lose"
    )
