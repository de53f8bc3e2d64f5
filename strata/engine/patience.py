"""Reads with fail-safe and time-outs: a stale value where L3 is down or slow, and loads that outlive their callers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from strata.bound import Bound
from strata.coherence.guard import Claim
from strata.engine.context import ABSENT, Context
from strata.errors import L3UnavailableError, UnavailableError
from strata.l2.tier import Found, State


class Loaded(NamedTuple):
    """A record, or ABSENT, on its way up: its version, and whether L3 does not have it yet."""

    record: Any
    version: int = 0
    pending: bool = False


class Steps(Protocol):
    """The two halves of a load: a quick one that asks L2, and one that asks L3 and fills."""

    def above(self, bound: Bound, id: Any, key_text: str, claim: Claim) -> tuple[Loaded | None, Found | None]: ...

    def below(self, bound: Bound, id: Any, key_text: str, claim: Claim, found: Found | None) -> Loaded: ...


class Patience:
    """Flights of schemas that do not just wait. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, steps: Steps) -> None:
        self._context = context
        self._steps = steps

    def fly(self, bound: Bound, id: Any, key_text: str) -> Loaded:
        """What is below L1, or what is stale; not yet private to the caller."""
        mine, guard = Claim(id), bound.l1.guard
        flight = mine
        try:
            flight = guard.board(mine)
            if flight is not mine:
                return self._wait(bound, id, flight)
            return self._start(bound, id, key_text, mine)
        except BaseException as error:
            if not mine.passed_on:
                mine.error = error
            stale = self._stale(bound, id, flight) if isinstance(error, UnavailableError) else None
            if stale is None:
                raise
            return stale
        finally:
            if not mine.passed_on:
                mine.ended = True
                guard.release(mine)

    def _start(self, bound: Bound, id: Any, key_text: str, flight: Claim) -> Loaded:
        loaded, found = self._steps.above(bound, id, key_text, flight)
        if loaded is None and found is not None and found.state is State.STALE:
            bound.l1.guard.offer(flight, Loaded(found.record, found.version, found.pending))
        if loaded is None and bound.freshness.timed and bound.table is not None:
            bound.l1.guard.hand_over(flight)
            rest = self._rest(bound, id, key_text, flight, found)
            flight.passed_on = self._context.background.submit(flight, rest)
            if flight.passed_on:
                return self._wait(bound, id, flight)
            if self._context.background.full:
                raise L3UnavailableError(
                    f"too many loads wait for PostgreSQL; this one of schema {bound.name!r} was not begun"
                )
        if loaded is None:
            loaded = self._steps.below(bound, id, key_text, flight, found)
        flight.result = loaded
        return loaded

    def _rest(self, bound: Bound, id: Any, key_text: str, flight: Claim, found: Found | None) -> Callable[[], None]:
        def run() -> None:
            flight.owner = threading.get_ident()
            try:
                flight.result = self._steps.below(bound, id, key_text, flight, found)
            except BaseException as error:  # noqa: BLE001 it is raised in those who wait
                flight.error = error
            finally:
                flight.ended = True
                bound.l1.guard.release(flight)

        return run

    def _wait(self, bound: Bound, id: Any, flight: Claim) -> Loaded:
        # By the system's clock, not the store's: it is a thread that waits here.
        freshness, began = bound.freshness, time.monotonic()
        if freshness.soft and not flight.landed(freshness.soft):
            stale = self._stale(bound, id, flight)
            if stale is not None:
                bound.counters.soft_timeouts += 1
                return stale
        if freshness.hard and not flight.landed(max(0.0, began + freshness.hard - time.monotonic())):
            bound.counters.hard_timeouts += 1
            raise L3UnavailableError(
                f"PostgreSQL did not answer schema {bound.name!r} within its hard_timeout of {freshness.hard:g} s; "
                "the load goes on in the background"
            )
        loaded: Loaded = flight.wait()
        return loaded

    def _stale(self, bound: Bound, id: Any, flight: Claim) -> Loaded | None:
        """The newest that is known and that nothing heard has outdated; None where there is no such."""
        entry = bound.l1.stale(id, self._context.clock.monotonic())
        stale: Loaded | None = flight.stale
        if entry is not None and (stale is None or stale.version <= entry.version):
            stale = Loaded(bound.plan.thaw(entry.value), entry.version, entry.pending)
        if stale is None or not bound.freshness.fail_safe or stale.record is ABSENT:
            return None
        bound.counters.stale_served += 1
        return stale
