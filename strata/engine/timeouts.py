"""Reads with fail-safe and time-outs: a stale value where L3 is down or slow, and loads that outlive their callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from strata import waits
from strata.bound import Bound
from strata.engine.context import Context
from strata.engine.load import FAILED, Load, Loaded, overtaken, stale_of
from strata.errors import L3UnavailableError
from strata.l1.claims import Claim, LoaderLeft


class Timeouts:
    """Flights of schemas that do not just wait. Thread-safe: it keeps no state of its own.

    `above` is the quick half of a read: what L2 answers, or the load of what it does not.
    """

    def __init__(self, context: Context, above: Callable[[Bound, str, Claim], Loaded | Load]) -> None:
        self._context = context
        self._above = above

    def fly(self, bound: Bound, id: Any, key_text: str, asked: float) -> Loaded:
        """What is below L1, or what is stale, for who `asked` then (monotonic); not yet private to the caller."""
        mine, claims = Claim(id), bound.l1.claims
        flight = mine
        try:
            flight = bound.l1.board(mine, asked)
            if flight is not mine:
                loaded = self._wait(bound, flight)
                if overtaken(bound, loaded.record, flight.born, asked):
                    raise LoaderLeft
                return loaded
            return self._start(bound, key_text, mine)
        except BaseException as error:
            if not mine.passed_on:
                mine.error = error
            stale = self._stale(bound, flight) if isinstance(error, FAILED) else None
            if stale is None:
                raise
            return stale
        finally:
            if not mine.passed_on:
                mine.ended = True
                claims.release(mine)

    def _start(self, bound: Bound, key_text: str, flight: Claim) -> Loaded:
        loaded = self._above(bound, key_text, flight)
        if isinstance(loaded, Load):
            if bound.freshness.timed:
                bound.l1.claims.hand_over(flight)
                flight.passed_on = self._context.background.submit(flight, _rest(loaded, bound, key_text, flight))
                if flight.passed_on:
                    return self._wait(bound, flight)
                if self._context.background.full:
                    raise L3UnavailableError(
                        f"too many loads wait for PostgreSQL; this one of schema {bound.name!r} was not begun"
                    )
            loaded = loaded.run()[key_text]
        flight.result = loaded
        return loaded

    def _wait(self, bound: Bound, flight: Claim) -> Loaded:
        # By the clock that waits go by, not the store's.
        freshness, began = bound.freshness, waits.monotonic()
        if freshness.soft and not flight.landed(freshness.soft):
            stale = self._stale(bound, flight)
            if stale is not None:
                bound.counters.soft_timeouts += 1
                return stale
        if freshness.hard and not flight.landed(max(0.0, began + freshness.hard - waits.monotonic())):
            bound.counters.hard_timeouts += 1
            raise L3UnavailableError(
                f"PostgreSQL did not answer schema {bound.name!r} within its hard_timeout of {freshness.hard:g} s; "
                "the load goes on in the background"
            )
        loaded: Loaded = flight.wait()
        return loaded

    def _stale(self, bound: Bound, flight: Claim) -> Loaded | None:
        stale = stale_of(self._context, bound, flight)
        bound.counters.stale_served += stale is not None
        return stale


def _rest(load: Load, bound: Bound, key_text: str, flight: Claim) -> Callable[[], None]:
    """The slow half, for a thread that nobody waits for longer than he wants to."""

    def run() -> None:
        flight.owner = waits.ident()
        try:
            flight.result = load.run()[key_text]
        except BaseException as error:  # noqa: BLE001 it is raised in those who wait
            flight.error = error
        finally:
            flight.ended = True
            bound.l1.claims.release(flight)

    return run
