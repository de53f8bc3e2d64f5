"""Against late fills: who may put a key into L1, and who shares whose read.

A claim is taken before a read from below, or a writer's intent, begins. Any message or own write for the key in
between voids it: its value still reaches the caller, but not L1. A reader's claim is also its flight: callers that
come while it is good share the result (single-flight); those that come after it was voided start their own. A `Call`
is the same for what a function of the user's makes where no tier has the record.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, TypeAlias

from strata import _compiled, waits
from strata.errors import StrataError, twin
from strata.waits import hub
from strata.waits.hub import Hub, MemoryLock
from strata.waits.nudge import Nudge

ANY = 1 << 63  # above every version
SWEPT = 256  # keys at least between two looks for claims whose calls were broken off


class LoaderLeft(Exception):
    """The loader of a flight was interrupted, by a signal perhaps: those who wait go on without it."""


class Claim:
    """The right to put one key into L1, until something happens to the key.

    Made by the call that takes it before it is entered, which only refers to it: a call that is broken off anywhere
    leaves nothing behind but a dead reference. `alive` goes from true to false once, under the lock of the claims.

    A flight is a claim that others may wait for: its owner sets `result` or `error`, and then, first of all in its
    `finally`, `ended`; it was `born` when it was boarded first (monotonic). `stale` is what may be served instead,
    until the claim is voided. `brief`, set by its owner: L2 could not be asked, or told, or the ledger not be asked, so
    that what is filled may be older than what others were told; `silent`: L2 was asked, and did not answer; `life`: the
    seconds that what is filled has of a life of its own, infinity being for ever, None where the store says how long.
    `passed_on`: another thread ends it.
    """

    __slots__ = (
        "__weakref__", "_waiting", "alive", "alone", "born", "brief", "ended", "error", "hub", "key", "life", "listed",
        "owner", "passed_on", "result", "shared", "silent", "stale",
    )  # fmt: skip

    voided = frozenset[Hashable]()  # of several keys
    stamp = 0  # no write of many

    def __init__(self, key: Hashable, life: float | None = None) -> None:
        self.key = key
        self.listed: Known = (weakref.ref(self),)  # as it stands in the table
        self.life = life
        self.alive = True
        self.alone = False  # as `ManyClaim` has it; of one key nobody keeps count
        self.born = 0.0
        self.brief = self.silent = self.passed_on = False
        self.ended = False
        self.shared = False  # whether somebody waits for the result; final once the claim was released
        self.hub: Hub | None = hub.current()
        self.owner = self.hub.ident()
        self.result: Any = None
        self.error: BaseException | None = None
        self.stale: Any = None
        self._waiting: dict[Nudge, None] = {}  # each use is one call

    def landed(self, seconds: float | None = None) -> bool:
        """Wait for the end of the flight, for `seconds` at most; whether it has come. Where it stands still it does
        not."""
        # By the clock that waits go by, not the store's.
        deadline = math.inf if seconds is None else waits.monotonic() + seconds
        nudge = Nudge()
        try:
            self._waiting[nudge] = None
            while not self.ended:
                if self.stopped:
                    return False
                left = deadline - waits.monotonic()
                if left <= 0:
                    return False
                nudge.wait_a_while(left)
            return True
        finally:
            self._waiting.pop(nudge, None)

    def wait(self) -> Any:
        """The owner's result, or its error raised here as well; `LoaderLeft` where that was meant for its thread."""
        if not self.landed():
            raise LoaderLeft
        if isinstance(self.error, StrataError):
            raise twin(self.error) from self.error.__cause__
        if self.error is not None:
            raise LoaderLeft from None
        return self.result

    @property
    def stopped(self) -> bool:
        """Whether nobody goes on with it while the caller waits."""
        return self.hub is not None and self.hub.stopped

    def void(self, key: Hashable = None) -> None:
        """Something happened to the key; called under the lock of the claims."""
        self.alive = False
        self.stale = None

    def wake(self) -> None:
        """Those who wait look again."""
        for nudge in list(self._waiting):
            nudge.give()


class ManyClaim:
    """As `Claim`, of the keys of one call: each is good until something happens to it, and is among those that are
    `voided` then. It is `alone` as long as nothing has happened to any of them, and nobody else has had a claim on one:
    both are written under the lock of the claims. `stamp`, set by its owner: the version of the write that it is for,
    whose own message, should it come before its answer, is nothing that has happened.

    It is no flight, so that nobody waits for it. Keys that the call has more to do for get claims of their own out of
    it (`Claims.apart`).
    """

    __slots__ = ("__weakref__", "alone", "brief", "keys", "life", "listed", "silent", "stamp", "voided")

    alive = True

    def __init__(self, keys: Collection[Hashable], life: float | None = None) -> None:
        self.keys = keys
        self.life = life
        self.brief = self.silent = False
        self.stamp = 0
        self.alone = True
        self.voided: set[Hashable] = set()
        self.listed: Known = (weakref.ref(self),)

    def void(self, key: Hashable) -> None:
        """Something happened to one of the keys; called under the lock of the claims."""
        self.alone = False
        self.voided.add(key)


Known: TypeAlias = tuple["weakref.ref[Claim] | weakref.ref[ManyClaim]", ...]


class Call(Claim):
    """A flight that ends in a function of the user's, whose exception is everybody's who waits. What other reads find
    does not void it; where L1 is cleared it is not `alive` any more, and goes on being shared. `version`: what is
    written at a lower one, or at this one, was there before the function was called; `since` is that of the schema's
    markers then. `overtaken`: the highest at which something happened to its very key; written under the lock of the
    claims.

    The rest is written by whoever carries it out, but for `waits_for`: what it waits for itself, by way of its
    function. That is stored before others are looked at, so that of two that would wait for each other one sees it,
    with no lock. `stop`, where there is one, ends it early.
    """

    __slots__ = ("overtaken", "since", "stop", "version", "waits_for")

    def __init__(self, key: Hashable, version: int) -> None:
        super().__init__(key)
        self.version = version
        self.since: int | None = None
        self.stop: Callable[[], object] | None = None
        self.waits_for: Call | None = None
        self.overtaken = 0

    def wait(self) -> Any:
        """The result, or the error raised here as well; `LoaderLeft` where that was meant for who carries it out."""
        if not self.landed():
            raise LoaderLeft
        if isinstance(self.error, Exception):
            raise twin(self.error).with_traceback(self.error.__traceback__) from self.error.__cause__
        if self.error is not None:
            raise LoaderLeft from None
        return self.result

    def overtake(self, version: int) -> None:
        """Something happened to its key; called under the lock of the claims."""
        self.overtaken = max(self.overtaken, version)
        self.void()

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for it now."""
        return bool(self._waiting)


class Claims:
    """The claims of one schema. `lock` guards `_claims`, `_flights`, `_calls` and every claim's `alive`; after fork:
    `reset`.

    Bounded by the number of calls under way: every claim is released by the call that took it, and what one leaves that
    was broken off on the way there is swept away by and by.
    """

    def __init__(self, lock: MemoryLock) -> None:
        self.lock: Any = lock
        self.reset()

    def reset(self) -> None:
        """Forget every claim, as a new process does."""
        self._claims: dict[Hashable, Known] = {}
        self._flights: dict[Hashable, weakref.ref[Claim]] = {}
        self._calls: dict[Hashable, weakref.ref[Call]] = {}
        self._sweep_at = SWEPT

    def enter(self, *claims: Claim) -> None:
        """From now on what happens to their keys voids these."""
        with self.lock:
            for claim in claims:
                self._enter(claim)

    def enter_many(self, claim: ManyClaim) -> None:
        """As `enter`, of many keys: the table says the same of each, so that it costs next to nothing."""
        with self.lock:
            if len(self._claims) >= self._sweep_at:
                self._sweep()
            if self._claims.keys().isdisjoint(claim.keys):
                self._claims.update(dict.fromkeys(claim.keys, claim.listed))
            else:
                for key in claim.keys:
                    self._add(key, claim)

    def apart(self, claim: ManyClaim, keys: Mapping[str, Hashable]) -> dict[str, Claim]:
        """Claims of their own on some of its keys, by key text, which are as good as it is; the caller releases them
        too."""
        made = {key_text: Claim(key) for key_text, key in keys.items()}
        with self.lock:
            for own in made.values():
                self._enter(own)
                if own.key in claim.voided:
                    own.void()
        return made

    def board(self, mine: Claim, now: float, since: float = -math.inf) -> Claim:
        """The flight of a reader: `mine`, which the caller is to end and release, or another's to wait for, that began
        after `since`; monotonic times."""
        with self.lock:
            known = self._flights.get(mine.key)
            flight = None if known is None else known()
            if flight is not None and not flight.ended and flight.born >= since and not _stands_still_for(flight):
                flight.shared = True
                return flight
            mine.born = now
            self._enter(mine)
            self._flights[mine.key] = weakref.ref(mine)
            return mine

    def begin(self, mine: Call, within: Collection[Call] = (), *, anew: bool = False) -> Call:
        """The call that makes a record: `mine`, which the caller is to carry out and release, or another's to wait for,
        or one of those that the caller is `within`. `anew`: what another one makes is too old, and is not to be
        kept."""
        with self.lock:
            if len(self._calls) >= self._sweep_at:
                self._sweep()
            known = self._calls.get(mine.key)
            call = None if known is None else known()
            if call is not None and anew and call not in within:
                call.overtake(ANY)
            elif call is not None and not call.ended and not call.stopped:
                call.shared = True
                return call
            self._calls[mine.key] = weakref.ref(mine)
            return mine

    def hand_over(self, flight: Claim) -> None:
        """Another thread will load and release the flight, and its caller waits for it like everybody else."""
        with self.lock:
            flight.owner = 0
            flight.hub = None
            flight.shared = True

    def offer(self, flight: Claim, stale: Any) -> None:
        """What may be served where the load fails, unless something has happened to the key."""
        with self.lock:
            if flight.alive:
                flight.stale = stale

    def release(self, *claims: Claim) -> None:
        """The call that took the claims is over; whoever waits for one goes on."""
        with self.lock:
            for claim in claims:
                claim.alive = False
                key, listed = claim.key, claim.listed
                if self._claims.get(key) is listed:
                    del self._claims[key]
                else:
                    self._leave(key, claim)
                for flights in (self._flights, self._calls):
                    if (flight := flights.get(key)) is not None and flight() in (claim, None):
                        del flights[key]
        for claim in claims:
            if claim.shared:
                claim.wake()

    def release_many(self, claim: ManyClaim) -> None:
        """As `release`, of many keys."""
        with self.lock:
            claims, listed = self._claims, claim.listed
            for key in claim.keys:
                known = claims.get(key)
                if known is listed:
                    del claims[key]
                elif known is not None:
                    self._leave(key, claim)

    def concerns(self, key: Hashable) -> bool:
        """Whether a call may be under way for the key; without the lock: one that began before was entered."""
        return key in self._claims or key in self._flights or key in self._calls

    def void(self, key: Hashable, version: int = 0) -> None:
        """Something happened to the key: no claim on it is good any more, but that of a write of this very `version`,
        and nobody boards its flight; nor its call, but one that began after it (0: whatever it is)."""
        with self.lock:  # mostly nobody is there
            if self._claims and (claims := self._claims.pop(key, None)) is not None:
                for claim in _living(claims):
                    if version and claim.stamp == version:
                        self._add(key, claim)
                    else:
                        claim.void(key)
            if self._flights:
                self._flights.pop(key, None)
            if self._calls and (known := self._calls.get(key)) is not None:
                call = known()
                if call is not None and call.version < (version or ANY):
                    call.overtake(version or ANY)
                    del self._calls[key]

    def void_others(self, key: Hashable, claim: Claim | ManyClaim) -> None:
        """What other callers of the key have under way is not newer than what this one has found."""
        with self.lock:
            known = self._claims.get(key)
            if known is not None and known is not claim.listed:
                for other in _living(known):
                    if other is not claim:
                        other.void(key)
            if (flight := self._flights.get(key)) is not None and flight() is not claim:
                self._flights.pop(key, None)

    def void_all(self) -> None:
        """As `void`, for every key."""
        with self.lock:
            for key, claims in self._claims.items():
                for claim in _living(claims):
                    claim.void(key)
            for known in self._calls.values():
                if (call := known()) is not None:
                    call.void()
            self._claims.clear()
            self._flights.clear()

    def end_calls(self) -> None:
        """As `void`, for the calls of every key: what one that is under way makes is not kept, nor shared by others."""
        with self.lock:
            for known in self._calls.values():
                if (call := known()) is not None:
                    call.overtake(ANY)
            self._calls.clear()

    def _enter(self, claim: Claim) -> None:
        if len(self._claims) >= self._sweep_at:
            self._sweep()
        self._add(claim.key, claim)

    def _add(self, key: Hashable, claim: Claim | ManyClaim) -> None:
        if (known := self._claims.get(key)) is None:
            self._claims[key] = claim.listed
            return
        self._claims[key] = known + claim.listed
        for each in _living(self._claims[key]):
            each.alone = False

    def _leave(self, key: Hashable, claim: Claim | ManyClaim) -> None:
        if (known := self._claims.get(key)) is None:
            return
        if left := tuple([other for other in known if other() not in (claim, None)]):
            self._claims[key] = left
        else:
            del self._claims[key]

    def _sweep(self) -> None:
        self._claims = {key: claims for key, claims in self._claims.items() if any(known() for known in claims)}
        self._flights = {key: known for key, known in self._flights.items() if known() is not None}
        self._calls = {key: known for key, known in self._calls.items() if known() is not None}
        self._sweep_at = SWEPT + 2 * max(len(self._claims), len(self._calls))


def _stands_still_for(flight: Claim) -> bool:
    """Whether it would never end while the caller waits for it: that of a loader which calls back into the store for
    its own key, for one."""
    return flight.owner == waits.ident() or flight.stopped


def _living(claims: Known) -> list[Claim | ManyClaim]:
    return [claim for known in claims if (claim := known()) is not None]


_compiled.replace(globals(), "claims", "LoaderLeft", "Claim", "ManyClaim", "Call", "Claims")
