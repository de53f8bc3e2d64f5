"""`get_many`: partial hits of each tier, one round trip a tier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from strata.bound import Bound
from strata.coherence.guard import Claim
from strata.engine.context import ABSENT, Context
from strata.engine.patience import Loaded
from strata.engine.read import buried, buried_under, joined, laid_over, put_of
from strata.errors import EncodeError, L2UnavailableError, L3UnavailableError, UnavailableError
from strata.l2.tier import Found, Put, State
from strata.writebehind import Own


class ManyReader:
    """Reads records by their keys. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get_many(self, bound: Bound, ids: Iterable[Any]) -> dict[Any, Any]:
        """The records found, by id, in the order asked for."""
        wanted = {id: bound.plan.key_text(id) for id in listed(ids)}
        self._context.listen()
        hooks = bound.hooks
        if hooks.get_given:
            for id in wanted:
                hooks.before_get(id)
        found = _Call(self._context, bound, wanted).run()
        bound.counters.misses += len(wanted) - len(found)
        if hooks.get_given:
            return {id: hooks.after_get(found[id]) for id in wanted if id in found}
        return {id: found[id] for id in wanted if id in found}


def listed(ids: Iterable[Any]) -> list[Any]:
    """The ids of a call that takes many. Raises `EncodeError` for what is no iterable of ids, such as a single one."""
    if not isinstance(ids, Iterable) or isinstance(ids, str | bytes | bytearray):
        raise EncodeError(f"ids is a {type(ids).__name__}; it must be an iterable of ids, such as a list")
    return list(ids)


class _Call:
    """One `get_many` on its way down."""

    def __init__(self, context: Context, bound: Bound, wanted: dict[Any, str]) -> None:
        self._context = context
        self._bound = bound
        self._open = dict(wanted)  # what no tier has answered yet
        self._found: dict[Any, Any] = {}
        self._over: dict[Any, Own] = {}  # own writes, to be laid over what is below and not newer
        self._claims: dict[Any, Claim] = {}
        self._began = 0.0
        self._silent = False  # L2 was asked, and did not answer

    def run(self) -> dict[Any, Any]:
        bound = self._bound
        self._from_memory()
        bound.counters.gets += len(self._open)
        self._began = self._context.clock.monotonic()
        try:
            self._claims = {id: Claim(id) for id in self._open}
            bound.l1.guard.enter(*self._claims.values())
            answers = self._from_l2()
            if self._open and bound.table is not None:
                self._from_l3(answers)
        finally:
            bound.l1.guard.release(*self._claims.values())
        return self._found

    def _from_memory(self) -> None:
        bound = self._bound
        if not (bound.l1.entries or bound.l1.absences or bound.deferred):
            return
        now = self._context.clock.monotonic()
        for id in list(self._open):
            entry = bound.l1.lookup(id, now)
            if entry is not None:
                entry.hits += 1
                self._settle(id, bound.plan.thaw(entry.value))
                continue
            own = self._context.pending(bound, id)
            if own is None:
                if bound.l1.absent(id, now):
                    bound.counters.negative_hits += 1
                    del self._open[id]
                continue
            self._over[id] = own
            if own.newest and not own.partial:
                self._settle(id, ABSENT)

    def _from_l2(self) -> dict[str, Found] | None:
        """What L2 said of each key; None where there is none, or it cannot be asked and L3 can."""
        bound = self._bound
        if bound.l2 is None or not self._open:
            return None
        try:
            if any(self._context.repairs.skips(bound, text) for text in self._open.values()):
                return None
            answers = bound.l2.read_many(list(self._open.values()), lease=bound.table is not None)
        except L2UnavailableError:
            if bound.table is None:
                raise
            bound.counters.l2_skips += 1
            self._context.repairs.distrust()
            self._silent = True
            return None
        hits = []
        for id, key_text in list(self._open.items()):
            found = answers[key_text]
            if found.state is State.VALUE:
                hits.append((id, found.record, found.version, found.pending))
                self._settle(id, found.record, found.version)
            elif found.state is State.TOMBSTONE or bound.table is None:
                bound.counters.negative_hits += found.state is State.TOMBSTONE and not found.version
                bound.l1.fill_absent(self._claims[id], found.version or None, self._began)
                self._settle(id, ABSENT, found.version)
        bound.counters.l2_hits += len(hits)
        self._fill_l1(hits)
        return answers

    def _from_l3(self, answers: dict[str, Found] | None) -> None:
        bound = self._bound
        assert bound.table is not None and bound.database is not None
        pending = self._context.handed_off(bound, list(self._open.values()))
        below: dict[Any, Loaded] = {}
        try:
            with bound.database.connection() as conn:
                rows = bound.table.get_many(conn, list(self._open))
                for id, text in self._open.items():
                    row, entry = rows.get(id), pending.get(text)
                    below[id] = joined(bound, row, entry, buried_under(bound, conn, text, row, entry))
        except L3UnavailableError as error:
            if self._from_stale(answers):
                return
            if answers is None and bound.l2 is not None and not self._context.awaits_postgres:
                raise UnavailableError(
                    f"neither Redis nor PostgreSQL answered for schema {bound.name!r}; check both"
                ) from error
            raise
        if self._silent:
            self._context.repairs.distrust()  # once more, as `Reader.below` does
        self._fill(answers, below)
        for id, loaded in below.items():
            self._context.versions.observe(loaded.version)
            version = loaded.version
            if loaded.record is ABSENT and not version and id in self._over and not self._over[id].newest:
                version = buried(bound, self._open[id])
            self._settle(id, loaded.record, version)

    def _from_stale(self, answers: dict[str, Found] | None) -> bool:
        """Serve what is stale, if that is allowed and there is something of everything that is still wanted."""
        bound, now = self._bound, self._context.clock.monotonic()
        if not bound.freshness.fail_safe:
            return False
        stale: dict[Any, tuple[Any, int]] = {}
        for id, key_text in self._open.items():
            entry, found = bound.l1.stale(id, now), None if answers is None else answers[key_text]
            if found is not None and found.state is State.STALE and self._claims[id].alive:
                stale[id] = found.record, found.version
            if entry is not None and entry.version >= stale.get(id, (None, 0))[1]:
                stale[id] = bound.plan.thaw(entry.value), entry.version
        if len(stale) < len(self._open):
            return False
        bound.counters.stale_served += len(stale)
        for id, (record, version) in stale.items():
            self._settle(id, record, version)
        return True

    def _fill(self, answers: dict[str, Found] | None, below: dict[Any, Loaded]) -> None:
        bound = self._bound
        for claim in self._claims.values():
            claim.brief = answers is None and bound.l2 is not None
        allowed = set(self._open.values())
        if bound.l2 is not None and answers is not None:
            by_token: dict[str, list[Put]] = {}
            for id, loaded in below.items():
                found = answers[self._open[id]]
                if found.state is State.LEASED or found.raw:
                    by_token.setdefault(found.token, []).append(put_of(bound, self._open[id], loaded))
            allowed = set()
            for token, group in by_token.items():
                try:
                    allowed |= bound.l2.fill(token, group) if token else bound.l2.refresh(answers, group)
                except L2UnavailableError:
                    break
        fills = []
        for id, loaded in below.items():
            absent = loaded.record is ABSENT
            if self._open[id] not in allowed:
                bound.l1.met(self._claims[id], None if absent else loaded.version)
            elif absent:
                bound.l1.fill_absent(self._claims[id], None, self._began)
            else:
                fills.append((id, loaded.record, loaded.version, loaded.pending))
        self._fill_l1(fills)

    def _fill_l1(self, fills: Sequence[tuple[Any, Any, int, bool]]) -> None:
        """Put what was found, as (id, record, version, pending), into L1 where the claims are still good."""
        freeze, claims = self._bound.plan.freeze, self._claims
        frozen = [(claims[id], freeze(record), version, pending) for id, record, version, pending in fills]
        self._bound.l1.fill_many(frozen, self._began)

    def _settle(self, id: Any, record: Any, version: int = 0) -> None:
        del self._open[id]
        own = self._over.get(id)
        if own is not None:
            record = laid_over(self._bound, own, Loaded(record, version))
        if record is not ABSENT:
            self._found[id] = record
