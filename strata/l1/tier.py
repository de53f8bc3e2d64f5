"""L1 as the coherence protocol sees it: entries with versions, claims, and how sure the instance is."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from itertools import repeat
from typing import Any, Protocol, TypeAlias

from strata import _compiled
from strata.l1.claims import Claim, Claims, ManyClaim
from strata.l1.entry import L1Entry
from strata.l1.evicted import Evicted
from strata.l1.store import MemStore
from strata.l1.tagged import TagIndex
from strata.l1.trust import BUS_GRACE, Trust
from strata.protocol.markers import UNMARKED, SchemaMarkers, Tags
from strata.protocol.versions import VersionClock
from strata.waits.locks import memory_lock

Fill: TypeAlias = tuple[Claim | ManyClaim, Hashable, Any, int, bool]
"""What is to be put: the claim, the key, the frozen value, its version, and whether L3 does not have it yet."""

FILLED = 1000  # fills in one hold of the lock, which writers and other fills wait for


class PendingWrite(Protocol):
    """A write of this process that nobody below has yet; `in_parts`: what is below may be newer in some columns, so
    that it is compared with each read."""

    @property
    def version(self) -> int: ...
    @property
    def in_parts(self) -> bool: ...


class L1Tier:
    """One schema's L1, or, with `store` None, only its claims.

    Thread-safe: the lock of the claims is the store's, so that a claim is checked and used in one step. The hit path of
    `get` reads `entries` without any lock. What has a version of the far future does not enter: no message could take
    it out again.
    """

    def __init__(
        self,
        store: MemStore | None,
        claims: Claims,
        trust: Trust,
        evicted: Callable[[Sequence[Evicted]], None],
        versions: VersionClock,
        absences: MemStore | None = None,
        marks: SchemaMarkers = UNMARKED,
    ) -> None:
        """`absences` are keys that no tier below has; `marks` knows the tags of values as the store keeps them."""
        self.store = store
        if store is not None and marks.tags is not None:
            store.tagged = TagIndex()
        self._marks = marks
        self.absences = absences
        self.claims = claims
        self.trust = trust
        self.entries: dict[Any, L1Entry] = {} if store is None else store.entries
        # This process's own pending write of a key, for schemas that are written behind; set once, by the wiring.
        self.own: Callable[[Hashable], PendingWrite | None] | None = None
        # For the same schemas: whether a version is that write, which is shown, and nothing newer was met.
        self.holds: Callable[[Hashable, int], bool] | None = None
        self._evicted = evicted
        self._versions = versions

    def lookup(self, key: Hashable, now: float) -> L1Entry | None:
        """The entry that may be served: any live one while sure, only one just read from below while unsure."""
        if self.store is None:
            return None
        entry = self.store.live(key, now)
        if entry is None or self.trust.sure(now) or now < entry.loaded + BUS_GRACE:
            return entry
        return None

    def board(self, mine: Claim, now: float) -> Claim:
        """As `Claims.board`. While unsure nobody waits for a flight that began before what may be served began to be
        read: the process may have stood still since, and what it has read be as old."""
        return self.claims.board(mine, now, -math.inf if self.trust.sure(now) else now - BUS_GRACE)

    def stale(self, key: Hashable, now: float) -> L1Entry | None:
        """What fail-safe may serve: the entry, as old as the policy allows, and however sure the instance is."""
        return None if self.store is None else self.store.stale(key, now)

    def claim_refresh(self, entry: L1Entry, now: float) -> bool:
        """Whether the caller, and nobody else, is to refresh the entry, which is due."""
        return now >= entry.expires and self.store is not None and self.store.claim_refresh(entry)

    def absent(self, key: Hashable, now: float) -> bool:
        """Whether it is known that no tier below has the key; as `lookup`, while unsure only if it was just read."""
        if self.absences is None:
            return False
        entry = self.absences.live(key, now)
        return entry is not None and (self.trust.sure(now) or now < entry.loaded + BUS_GRACE)

    def fill(self, claim: Claim, value: Any, version: int, *, pending: bool = False, loaded: float) -> bool:
        """Put what was read from below, or committed, if the claim is still good and nothing newer is there."""
        if self.store is None:
            return False
        tags = self._tags(value)
        with self.claims.lock:
            evicted = self._fill(self.store, claim, claim.key, value, version, pending, loaded, tags)
        if self.store.unattended:
            self.store.attend()
        if evicted is None:
            return False
        self._report(evicted)
        return True

    def fill_many(self, fills: Sequence[Fill], loaded: float) -> list[Hashable]:
        """As `fill`, with the lock held for a thousand at a time; returns the keys that were refused."""
        store = self.store
        if store is None:
            return [key for _, key, *_ in fills]
        refused: list[Hashable] = []
        surely, entries = self._versions.surely(), store.entries
        quiet = self.own is None and self.absences is None and self._marks.tags is None
        for start in range(0, len(fills), FILLED):
            part = fills[start : start + FILLED]
            gone: list[Evicted] = []
            tags = repeat(()) if self._marks.tags is None else [self._tags(value) for _, _, value, *_ in part]
            with self.claims.lock:
                for (claim, key, value, version, pending), own in zip(part, tags, strict=False):
                    evicted: list[Evicted] | None
                    if quiet and claim.alone and version <= surely and key not in entries:
                        # There is nothing that `_fill` would have to look at.
                        life = _life(claim, store)
                        evicted = store.enter(key, value, version, pending, loaded, life, claim.life is not None)
                    else:
                        evicted = self._fill(store, claim, key, value, version, pending, loaded, own)
                    if evicted:
                        gone += evicted
                    elif evicted is None:
                        refused.append(key)
            self._report(gone)
        if store.unattended:
            store.attend()
        return refused

    def fill_absent(self, claim: Claim | ManyClaim, key: Hashable, version: int | None, loaded: float) -> None:
        """As `met`, and remember that there is no record, if the claim is still good and nothing newer is known."""
        with self.claims.lock:
            self._outdate(claim, key, version)
            if self.absences is None or not claim.alive or key in claim.voided or key in self.entries:
                return
            if self.own is None or self.own(key) is None:
                self.absences.enter(key, None, 0, False, loaded, _life(claim, self.absences))
        self.absences.attend()

    def met(self, claim: Claim | ManyClaim, key: Hashable, version: int | None) -> None:
        """A read found this version (None: no record) but may not fill: what is older must not be served after it."""
        with self.claims.lock:
            self._outdate(claim, key, version)

    def write(
        self,
        key: Hashable,
        value: Any,
        version: int,
        began: float,
        claim: Claim | None = None,
        life: float | None = None,
    ) -> None:
        """Put an own write, as new as `began`, with a `life` of its own perhaps: what is under way for the key is void,
        and what is older gives way.

        One that was overtaken between the buffer and here, or that L3 has already, does not enter; nor does one whose
        `claim`, where there is one, is void.
        """
        tags = self._tags(value)
        with self.claims.lock:
            good = claim is None or claim.alive
            self.claims.void(key, version)
            self._present(key)
            if self.store is None or self._newer(key, version, pending=True):
                return
            passed = self.holds is not None and not self.holds(key, version)
            if not good or passed or tags is None:
                self.store.drop(key)
                return
            evicted = self.store.enter(key, value, version, True, began, life, life is not None, tags)
        if self.store.unattended:
            self.store.attend()
        self._report(evicted)

    def swap(
        self, key: Hashable, stood: int | None, value: Any, version: int, now: float, life: float | None = None
    ) -> bool:
        """As `write` where L1 is the lowest tier, if what was found there, by its version (None: nothing), still is; a
        value of None is a deletion."""
        with self.claims.lock:
            entry = None if self.store is None else self.store.live(key, now)
            if (None if entry is None else entry.version) != stood:
                return False
            if value is None:
                self.forget(key)
            else:
                self.write(key, value, version, now, life=life)
            return True

    def touch(self, claim: Claim, life: float | None, now: float, version: int = 0) -> bool:
        """Give the entry another life from `now` on, where nothing has happened to its key since the claim was entered,
        if it was; what other callers have under way knows the life before, and is void. `version`: of the record that
        got it below, which makes an older entry go. Returns whether there was an entry."""
        with self.claims.lock:
            if not claim.alive:
                return False
            self.claims.void_others(claim.key, claim)
            entry = None if self.store is None else self.store.live(claim.key, now)
            if entry is None or self.store is None:
                return False
            if self._outdated(entry, version):
                self.store.drop(claim.key)
                return False
            self.store.retime(entry, life, now)
        self.store.attend()
        return True

    def concerns(self, key: Hashable) -> bool:
        """Whether something is known of the key, or under way for it; without the lock."""
        absent = self.absences is not None and key in self.absences.entries
        return key in self.entries or absent or self.claims.concerns(key)

    def change(self, key: Hashable, change: Callable[[Any], Any], now: float) -> Any:
        """What is under way for the key is void, and of the value that there is, `change` makes another, of the same
        version; returns that, None where there is none. It is called with the lock held."""
        with self.claims.lock:
            self.claims.void(key)
            self._present(key)
            entry = self.lookup(key, now)
            if entry is None or self.store is None:
                return None
            value = change(entry.value)
            if value is None or self.store.tagged is not None:
                self.store.drop(key)  # its tags may be others
            else:
                entry.value = value  # as the store renews an entry: one store, under its lock
            return value

    def forget(self, key: Hashable, below: int | None = None) -> None:
        """Drop the entry if it is older than `below` (None: whatever it is); claims on the key are void."""
        self.forget_each(((key, below),))

    def forget_many(self, keys: Sequence[Hashable]) -> None:
        """As `forget`, of many, whatever they are."""
        self.forget_each([(key, None) for key in keys])

    def forget_each(self, told: Sequence[tuple[Hashable, int | None]]) -> None:
        """As `forget`, of many, each below a version of its own, with the lock held for a thousand at a time."""
        for start in range(0, len(told), FILLED):
            with self.claims.lock:
                for key, below in told[start : start + FILLED]:
                    self.claims.void(key, below or 0)
                    self._present(key)
                    entry = self.entries.get(key)
                    if entry is not None and self.store is not None and (below is None or self._outdated(entry, below)):
                        self.store.drop(key)

    def forget_up_to(self, key: Hashable, version: int) -> None:
        """As `forget`, the version itself included."""
        self.forget(key, version + 1)

    def forget_tag(self, tag: str) -> None:
        """Drop the entries that have a tag, of which a marker was heard. Reads under way find that out themselves."""
        if self.store is None or self.store.tagged is None:
            return
        with self.claims.lock:
            keys = self.store.tagged.keys(tag)
        for start in range(0, len(keys), FILLED):
            with self.claims.lock:
                for key in keys[start : start + FILLED]:
                    # By now it may be another one, which enters with what was heard: to drop it costs a read.
                    self.store.drop(key)

    def overtaken(self, tags: Tags | None, began: float, until: float) -> bool:
        """Whether a marker of one of the tags was heard of since their record began to be read, and before `until`,
        when somebody asked for it (monotonic times)."""
        return tags is not None and self._marks.overtaken(tags, began, until)

    def forget_all(self) -> None:
        """As `clear`; and nobody shares a call that began before."""
        with self.claims.lock:
            self.claims.end_calls()
            self.clear()

    def clear(self) -> None:
        """Drop everything, and void every claim."""
        with self.claims.lock:
            self.claims.void_all()
            if self.store is not None:
                self.store.clear()
            if self.absences is not None:
                self.absences.clear()

    def after_fork(self) -> None:
        """In the child: empty, with a lock that no thread of the parent's holds."""
        lock = memory_lock()
        self.claims.lock = lock
        self.claims.reset()
        for store in (self.store, self.absences):
            if store is not None:
                store.lock = lock
                store.clear()

    def _tags(self, value: Any) -> Tags | None:
        """Those of a value, before any lock is taken: a function of the user's says them."""
        return () if self._marks.tags is None else self._marks.tags(value)

    def _fill(
        self,
        store: MemStore,
        claim: Claim | ManyClaim,
        key: Hashable,
        value: Any,
        version: int,
        pending: bool,
        loaded: float,
        tags: Tags | None,
    ) -> list[Evicted] | None:
        """What had to leave for it; None where it may not be put."""
        # A write is in the buffer before it voids claims, so that either this sees it, or it removes this entry.
        own = None if self.own is None else self.own(key)
        behind = own is not None and (own.in_parts or version < own.version)
        wrong = behind or not self._versions.plausible(version) or self._marks.overtaken(tags, loaded)
        if wrong or not claim.alive or key in claim.voided or self._newer(key, version, pending):
            self._outdate(claim, key, version)
            return None
        self.claims.void_others(key, claim)
        self._present(key)
        own_life = claim.life is not None
        return store.enter(key, value, version, pending, loaded, _life(claim, store), own_life, tags or ())

    def _outdate(self, claim: Claim | ManyClaim, key: Hashable, version: int | None) -> None:
        self.claims.void_others(key, claim)
        if version is not None:
            self._present(key)
        entry = self.entries.get(key)
        if self.store is not None and entry is not None and (version is None or self._outdated(entry, version)):
            self.store.drop(key)

    def _present(self, key: Hashable) -> None:
        # Whatever was written: that there is no such record is no longer known.
        if self.absences is not None:
            self.absences.drop(key)

    def _newer(self, key: Hashable, version: int, pending: bool) -> bool:
        entry = self.entries.get(key)
        if entry is None:
            return False
        # Settled beats pending at the same version: L3 may have added to it.
        if entry.version == version:
            return pending and not entry.pending
        return not self._outdated(entry, version)

    def _outdated(self, entry: L1Entry, version: int) -> bool:
        # An own write may have been stamped by a clock that has been put back since.
        return entry.version < version or not self._versions.plausible(entry.version)

    def _report(self, evicted: Sequence[Evicted]) -> None:
        if evicted:
            self._evicted(evicted)


def _life(claim: Claim | ManyClaim, store: MemStore) -> float | None:
    """Seconds for which what the claim fills is kept; None: as long as the store keeps anything, unless the claim knows
    of a life of the record's own.

    A read past an L2 that does not answer may find the row before a commit whose intent others have heard of, and
    whose put nobody will: then no message takes the entry away. Nor does one take away what was committed without L2,
    before such a commit; nor what was read past a ledger that does not answer, but has told of something newer.
    """
    return min(BUS_GRACE, store.ttl if claim.life is None else claim.life) if claim.brief else claim.life


_compiled.replace(globals(), "tier", "L1Tier")
