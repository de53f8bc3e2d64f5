"""The guard against late fills: who may put a key into L1, and who shares whose read.

A claim is taken before a read from below, or a writer's intent, begins. Any message or own write for the key in
between voids it: its value still reaches the caller, but not L1. A reader's claim is also its flight: callers that
come while it is good share the result (single-flight); those that come after it was voided start their own.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable, Iterable
from typing import Any


class Left(Exception):
    """The loader of a flight was interrupted, by a signal perhaps: those who wait go on without it."""


class Claim:
    """The right to put one key into L1, until something happens to the key.

    `alive` goes from true to false once, under the guard's lock. `settle` is called once, by its owner; those who
    wait for a flight then find its outcome. `stale` is what may be served instead, until the claim is voided.
    `brief`, set by its owner: L2 could not be asked, so that what is filled may be older than what others were told;
    `silent`: L2 was asked, and did not answer.
    """

    __slots__ = ("_done", "alive", "brief", "error", "key", "owner", "result", "silent", "stale")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.alive = True
        self.brief = self.silent = False
        self.owner = threading.get_ident()
        self.result: Any = None
        self.error: BaseException | None = None
        self.stale: Any = None
        self._done: threading.Event | None = None

    @property
    def shared(self) -> bool:
        """Whether somebody waits for the result; final once the claim was released."""
        return self._done is not None

    def wait(self, event: threading.Event) -> Any:
        """The owner's result, or its error raised here as well; `Left` where the error was meant for its thread."""
        event.wait()
        if isinstance(self.error, Exception):
            raise _twin(self.error) from self.error.__cause__
        if self.error is not None:
            raise Left from None
        return self.result

    def void(self) -> None:
        """Something happened to the key; called under the guard's lock."""
        self.alive = False
        self.stale = None


def _twin(error: Exception) -> Exception:
    """The same error for another thread: one that many raise would gather the traceback, and the frames, of each."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 an error of the user's that cannot be copied
        return error


class Guard:
    """The claims of one schema. `lock` guards `_claims`, `_flights` and every claim's `alive`; after fork: `reset`.

    Bounded by the number of calls under way, since every claim is released by the call that took it.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self.lock: Any = lock
        self.reset()

    def reset(self) -> None:
        """Forget every claim, as a new process does."""
        self._claims: dict[Hashable, list[Claim]] = {}
        self._flights: dict[Hashable, Claim] = {}

    def claim(self, key: Hashable) -> Claim:
        """A claim of one's own, for a writer."""
        with self.lock:
            return self._claim(key)

    def claim_many(self, keys: Iterable[Hashable]) -> list[Claim]:
        """As `claim`, of each key, in one hold of the lock."""
        with self.lock:
            return [self._claim(key) for key in keys]

    def board(self, key: Hashable) -> tuple[Claim, threading.Event | None]:
        """The flight of a reader: its own (None: the caller loads and then lands it), or one to wait for."""
        with self.lock:
            flight = self._flights.get(key)
            # A loader that calls back into the store for its own key must not wait for itself.
            if flight is not None and flight.owner != threading.get_ident():
                return flight, self._attend(flight)
            claim = self._flights[key] = self._claim(key)
            return claim, None

    def hand_over(self, flight: Claim) -> threading.Event:
        """Another thread will load and release the flight, and its caller waits for it like everybody else."""
        with self.lock:
            flight.owner = 0
            return self._attend(flight)

    def offer(self, flight: Claim, stale: Any) -> None:
        """What may be served where the load fails, unless something has happened to the key."""
        with self.lock:
            if flight.alive:
                flight.stale = stale

    def _claim(self, key: Hashable) -> Claim:
        claim = Claim(key)
        self._claims.setdefault(key, []).append(claim)
        return claim

    def _attend(self, flight: Claim) -> threading.Event:
        if flight._done is None:
            flight._done = threading.Event()
        return flight._done

    def release(self, claim: Claim) -> None:
        """The call that took the claim is over; whoever waits for it goes on."""
        with self.lock:
            claim.alive = False
            mine = self._claims.get(claim.key)
            if mine is not None and claim in mine:
                mine.remove(claim)
                if not mine:
                    del self._claims[claim.key]
            if self._flights.get(claim.key) is claim:
                del self._flights[claim.key]
            done = claim._done
        if done is not None:
            done.set()

    def release_many(self, claims: Iterable[Claim]) -> None:
        """As `release`, of claims that nobody waits for, in one hold of the lock."""
        with self.lock:
            for claim in claims:
                self.release(claim)

    def void(self, key: Hashable) -> None:
        """Something happened to the key: no claim on it is good any more, and nobody boards its flight."""
        with self.lock:
            for claim in self._claims.pop(key, ()):
                claim.void()
            self._flights.pop(key, None)

    def void_others(self, claim: Claim) -> None:
        """What other callers of the key have under way is not newer than what this one has found."""
        with self.lock:
            for other in self._claims.get(claim.key, ()):
                if other is not claim:
                    other.void()
            if self._flights.get(claim.key) is not claim:
                self._flights.pop(claim.key, None)

    def void_all(self) -> None:
        """As `void`, for every key."""
        with self.lock:
            for claims in self._claims.values():
                for claim in claims:
                    claim.void()
            self._claims.clear()
            self._flights.clear()
