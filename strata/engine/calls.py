"""`get_or_set`, and memoized functions: a record that a function of the user's makes where no tier has it.

In a process one call a key is under way, which all who come meanwhile share (`l1.claims.Call`); in the fleet too, with
`lease_wait`: the lease of a call stands beside the record's key, so that intents, tombstones and fills go ways of their
own. It saves work, and is not needed for correctness: what is stored is what nobody else has stored before.

What is written or invalidated while the function runs wins. In L3 the record is inserted, in L2 it takes the place of
what stood there before the function was called, in L1 the call itself is the claim. A tombstone of L2 that came, and
expired, meanwhile was heard of on the bus; where that may have been missed, nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from strata import waits
from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.leases import FIRST, LONGEST
from strata.engine.load import NOTHING, Loaded, overtaken
from strata.engine.modify import Modifier
from strata.engine.read import Reader
from strata.engine.write import Stamp, Writer
from strata.errors import WITHOUT_L2, AlreadyExistsError, EncodeError, StrataError
from strata.l1.claims import Call, LoaderLeft
from strata.l2.content import State
from strata.l2.lifetimes import TOMBSTONE_MS

if TYPE_CHECKING:
    from strata.l2.tier import L2Tier

RETRIES = 5  # of storing what others were quicker to store, and to remove
_Stored = tuple[Any, bool]  # the record that callers get; whether it is the one that was made, and was stored
GUARDED = 0.8 * TOMBSTONE_MS / 1000  # seconds for which a tombstone is surely still there

# The calls that the code which runs now is inside of, the innermost last; tasks and threads that are begun with a copy
# of the context are inside of them too.
_within: ContextVar[tuple[Call, ...]] = ContextVar("strata_within", default=())


@dataclass(frozen=True, slots=True)
class Making:
    """Where a record comes from: `call` is the user's function, and `record`, of memoized ones, what makes a record of
    its result. `anew`: whatever is there already. `life`: seconds, where it gets a life of its own."""

    call: Callable[[], Any]
    record: Callable[[Any], Any] | None = None
    anew: bool = False
    life: float | None = None


@dataclass(frozen=True, slots=True)
class _Job:
    bound: Bound
    id: Any
    key_text: str
    source: Making

    @property
    def bears_outage(self) -> bool:
        """Whether it goes on without L2: what a memoized function returns is no worse for not being kept."""
        return self.source.record is not None and not self.source.anew


class Caller:
    """Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, reader: Reader, writer: Writer, modifier: Modifier) -> None:
        self._context = context
        self._reader = reader
        self._writer = writer
        self._modifier = modifier

    def get_or_set(self, bound: Bound, id: Any, source: Making) -> Any:
        """The record, private to the caller; made, and stored, where there is none."""
        if not callable(source.call):
            kind = type(source.call).__name__
            raise EncodeError(f"get_or_set takes a function that makes the record, not a {kind}; give it one")
        id, key_text = bound.plan.key_and_text(id)
        self._context.listen()
        bound.hooks.before_get(id)
        return bound.hooks.after_get(self._get(_Job(bound, id, key_text, source)))

    def _get(self, job: _Job) -> Any:
        while True:
            found = ABSENT if job.source.anew else self._near(job)
            if found is not ABSENT:
                return found
            self._hear(job)
            try:
                return self._fly(job)
            except LoaderLeft:
                pass

    def _hear(self, job: _Job) -> None:
        """Of what was invalidated, before anything is claimed: what is made, and nobody could read anew, must not count
        as older."""
        l2 = job.bound.l2
        if l2 is not None and job.bound.l3 is None:
            try:
                l2.marks.renew_now()
            except WITHOUT_L2:
                if not job.bears_outage:
                    raise

    def _near(self, job: _Job) -> Any:
        """What L1 has."""
        bound, now = job.bound, self._context.clock.monotonic()
        entry = bound.l1.lookup(job.id, now)
        if entry is None:
            return ABSENT
        entry.hits += 1
        if bound.l1.claim_refresh(entry, now):
            self._reader.flights.refresh(bound, job.id, job.key_text)
        return bound.plan.thaw(entry.value)

    # -- one call in the process --------------------------------------------------------------------------------

    def _fly(self, job: _Job) -> Any:
        """The result of the call that is under way for the key, or of one that begins now. Raises `LoaderLeft` where
        whoever carried it out was interrupted."""
        bound, claims, within = job.bound, job.bound.l1.claims, _within.get()
        mine = Call(job.id, self._context.versions.stamp())
        mine.born = self._context.clock.monotonic()
        try:
            call = claims.begin(mine, within, anew=job.source.anew)
            if call is not mine:
                if call in within:
                    raise StrataError(
                        f"what makes a record of schema {bound.name!r} has asked for that very record; have it not ask "
                        "for what it is to make"
                    )
                if not _stands_still_for(within, call):
                    return self._wait(job, call, mine)
            else:
                land = partial(_land, claims, mine)
                mine.stop = waits.apart(partial(self._carry_out, job, mine, within), land)
                if mine.stop is not None:
                    mine.passed_on = mine.shared = True
                    return self._wait(job, mine, mine)
            mine.result = self._called(job, mine, within)
        except BaseException as error:
            if not mine.passed_on:
                mine.error = error
            raise
        finally:
            if not mine.passed_on:
                mine.ended = True
                claims.release(mine)
            for outer in within:
                outer.waits_for = None
        return bound.plan.copy(mine.result) if mine.shared else mine.result

    def _carry_out(self, job: _Job, mine: Call, within: tuple[Call, ...]) -> None:
        """Apart from those who wait, each of whom may be cancelled."""
        mine.owner = waits.ident()
        try:
            mine.result = self._called(job, mine, within)
        except BaseException as error:  # noqa: BLE001 it is raised in those who wait
            mine.error = error

    def _wait(self, job: _Job, call: Call, mine: Call) -> Any:
        try:
            made = call.wait()
            if call is not mine and overtaken(job.bound, made, call.born, mine.born):
                raise LoaderLeft
            return job.bound.plan.copy(made)
        except LoaderLeft:
            if call is mine and call.error is not None and not isinstance(call.error, Exception):
                raise call.error from None  # which the function has raised
            raise
        except BaseException:
            if not call.ended and not call.awaited and call.stop is not None:
                call.stop()  # nobody wants it any more
                with waits.shield():
                    call.landed()
            raise

    def _called(self, job: _Job, mine: Call, within: tuple[Call, ...]) -> Any:
        token = _within.set((*within, mine))
        try:
            return self._in_turn(job, mine)
        finally:
            _within.reset(token)

    # -- one call in the fleet ----------------------------------------------------------------------------------

    def _in_turn(self, job: _Job, call: Call) -> Any:
        """The record as it is below, or as it was stored."""
        bound = job.bound
        loaded = NOTHING if job.source.anew else self._below(job, call)
        if loaded.record is not ABSENT:
            return loaded.record
        if not bound.freshness.lease_wait or bound.l2 is None or call.brief or job.source.anew:
            return self._make(job, call, loaded)
        # By the clock that waits go by, not the store's.
        patience = bound.freshness.lease_wait
        deadline, lease = waits.monotonic() + patience, ""
        try:
            while True:
                lease, free = self._lease(job, bound.l2, patience, deadline)
                loaded = self._below(job, call)  # it may have come meanwhile
                if loaded.record is not ABSENT:
                    return loaded.record
                if lease or not free:
                    return self._make(job, call, loaded)
        finally:
            if lease:
                bound.l2.calls.end(job.key_text, lease)

    def _lease(self, job: _Job, l2: L2Tier, patience: float, deadline: float) -> tuple[str, bool]:
        """The lease of the call; or nothing, and whether another process has just given it back: not by the deadline,
        and not where L2 does not answer."""
        text = job.key_text
        try:
            if lease := l2.calls.begin(text, patience):
                return lease, True
            job.bound.counters.lease_waits += 1
            pause = FIRST
            while l2.calls.stands(text):
                if (left := deadline - waits.monotonic()) <= 0:
                    return "", False
                waits.sleep(min(pause, left))
                pause = min(pause * 1.5, LONGEST)
            return "", waits.monotonic() < deadline
        except WITHOUT_L2:
            return "", False

    # -- reading, making, storing -------------------------------------------------------------------------------

    def _below(self, job: _Job, call: Call) -> Loaded:
        """What there is below L1, and the version of what stands in its place; filled upward."""
        bound, context = job.bound, self._context
        if bound.l3 is not None:
            return Loaded(self._reader.find(bound, job.id, job.key_text, False))
        if (near := self._near(job)) is not ABSENT:
            return Loaded(near)
        bound.counters.gets += 1
        if bound.l2 is None:
            return NOTHING
        began = context.clock.monotonic()
        try:
            found = bound.l2.read(job.key_text, lease=False)
        except WITHOUT_L2:
            if not job.bears_outage:
                raise
            call.brief = True
            return NOTHING
        if found.state not in (State.VALUE, State.TOMBSTONE):
            return NOTHING
        context.versions.observe(found.version)
        if found.state is State.TOMBSTONE:
            return Loaded(ABSENT, found.version)
        bound.counters.l2_hits += 1
        if bound.l1.store is not None:
            call.life = found.life
            bound.l1.fill(call, bound.plan.freeze(found.record), found.version, loaded=began)
        return Loaded(found.record, found.version)

    def _make(self, job: _Job, call: Call, loaded: Loaded) -> Any:
        bound, source = job.bound, job.source
        bound.counters.misses += 1
        began = self._context.clock.monotonic()
        call.since = None if bound.l2 is None else bound.l2.since
        # What is written or invalidated from now on is newer.
        version = self._stamp(job, call) if bound.l3 is None else 0
        call.version = max(call.version, version)
        made = waits.awaited(source.call())
        record = self._writer.prepare(bound, job.id, made if source.record is None else source.record(made))
        if bound.l3 is not None:
            return self._insert(job, record)
        self._writer.refuse_partial(bound, record)
        stored, kept = self._store(job, call, record, version, loaded.version or None, began)
        if kept:
            bound.counters.sets += 1
            bound.hooks.after_set(bound.plan.copy(stored))
        return stored

    def _stamp(self, job: _Job, call: Call) -> int:
        if job.bound.l2 is not None and not call.brief:
            try:
                return self._context.stamp()
            except WITHOUT_L2:
                if not job.bears_outage:
                    raise
                call.brief = True
        return self._context.versions.stamp()

    def _insert(self, job: _Job, record: Any) -> Any:
        left = RETRIES
        while True:
            try:
                return self._modifier.insert(job.bound, job.id, job.key_text, record, job.source.life)
            except AlreadyExistsError:
                left -= 1
                stored = self._reader.find(job.bound, job.id, job.key_text, True)
                if stored is not ABSENT:
                    return stored
                if not left:
                    raise

    def _store(self, job: _Job, call: Call, record: Any, version: int, stood: int | None, began: float) -> _Stored:
        """Store it in a schema without L3, unless something was written or invalidated since `began`."""
        if job.bound.l2 is None or call.brief:
            return self._store_l1(job, call, record, version, began)
        try:
            return self._store_l2(job, call, record, version, stood, began)
        except WITHOUT_L2:
            if not job.bears_outage:
                raise
            return record, False

    def _store_l1(self, job: _Job, call: Call, record: Any, version: int, began: float) -> _Stored:
        l1, now = job.bound.l1, self._context.clock.monotonic()
        call.life = job.source.life
        if overtaken(job.bound, record, began, now):
            return record, False
        if l1.fill(call, job.bound.plan.freeze(record), version, loaded=now):
            return record, True
        found = ABSENT if job.source.anew else self._near(job)
        return record if found is ABSENT else found, False

    def _store_l2(self, job: _Job, call: Call, record: Any, version: int, stood: int | None, began: float) -> _Stored:
        bound, id, text, life = job.bound, job.id, job.key_text, job.source.life
        assert bound.l2 is not None
        for _ in range(RETRIES):
            now = self._context.clock.monotonic()
            undisturbed = self._undisturbed(job, call, began, now) and not overtaken(bound, record, began, now)
            stands = None
            if undisturbed and job.source.anew:
                return record, self._writer.own(bound, id, text, record, Stamp(version, call.since), life)
            if undisturbed:
                stamp = Stamp(version, call.since)
                done, stands = self._writer.swap(bound, id, text, record, stood, stamp, life)
                if done:
                    return record, True
            found = bound.l2.read(text, lease=False)
            if found.state is State.VALUE and not job.source.anew:
                return found.record, False
            if found.state is State.TOMBSTONE or not undisturbed:
                break
            stood = stands if found.state is State.BUSY else None
        return record, False

    def _undisturbed(self, job: _Job, call: Call, began: float, now: float) -> bool:
        """Whether nothing was written or invalidated since, as far as that is not seen in L2."""
        return call.overtaken <= call.version and (now - began < GUARDED or job.bound.l1.trust.heard(began, now))


def _stands_still_for(within: tuple[Call, ...], call: Call) -> bool:
    """Whether it waits, by way of others perhaps, for what the caller is inside of."""
    for outer in within:
        outer.waits_for = call
    seen: Call | None = call
    while seen is not None:
        if seen in within:
            return True
        seen = seen.waits_for
    return False


def _land(claims: Any, call: Call) -> None:
    """The call is over, or was never begun."""
    if call.result is None and call.error is None:
        call.error = LoaderLeft()
    call.ended = True
    claims.release(call)
