"""Rules that nobody had thought of before the simulator found what happens without them."""

from __future__ import annotations

from strata.coherence.bus import Bus
from strata.coherence.identity import Identity
from strata.engine import commit, own
from strata.engine.commit import Commit
from strata.engine.context import Context
from strata.engine.load import Load
from strata.l1.claims import Claims
from strata.l1.tier import L1Tier
from strata.l1.trust import Trust
from strata.protocol.versions import VersionClock
from strata.writebehind.dirty import changes, laying
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.slot import Slot
from strata.writebehind.persist.bypass import Bypass
from strata.writebehind.persist.notifier import Notifier
from strata.writebehind.persist.settle import Settler
from strata.writebehind.writer import encode
from strata.writebehind.writer.redrive import Redrive
from tests.simulator.kinds import RETRY_ONCE, Pair
from tests.simulator.mutants.behind import AT_ONCE, PROMPT
from tests.simulator.mutants.mutant import Mutant, code, each, script
from tests.simulator.mutants.through import calling

FOUND = {
    "a commit of unknown outcome is told of once it has ended": Mutant(
        calling("0:s 1:s", faults=("lose_commit@0",), span=10, l2=False),
        1,
        apply=code(Commit, "_doubt", "context.unfinished.undecided(", "print if True else ("),
    ),
    "a statement that is a commit of its own, and was broken off, is told of once it has ended": Mutant(
        calling("0:s 1:gg", "0:sg 1:sg", faults=("cancel@0",), span=30),
        1,
        apply=each(
            code(Commit, "_transact", ", waits.shield()", ""),
            code(commit, "outcome_unknown", "unsure and", "False and"),
        ),
    ),
    "an own pending write is compared with what is below while others may not be heard": Mutant(
        calling("0:swwg 1:ws", faults=("cut_redis@0",), deferred=True, span=20),
        1,
        apply=code(own, "own_write", "bound.l1.trust.heard(own.born, now) or now < own.born + BUS_GRACE", "True"),
    ),
    "... and still once they are heard again, if it is from before": Mutant(
        calling("0:dwf 1:s", faults=("cut_redis@0",), deferred=True, span=10, config=AT_ONCE),
        1,
        apply=code(Trust, "heard", "and began >= self.since", ""),
    ),
    "an own write is as new as the time before its commit": Mutant(
        calling("0:sg 1:s", faults=("freeze",), span=16, l2=False),
        1,
        apply=code(Commit, "_put", "fill_many(fills, began)", "fill_many(fills, context.clock.monotonic())"),
    ),
    "a put without its intent removes a settled tombstone": Mutant(
        calling("0:s 1:d", "0:s 1:sd", faults=("restart_redis", "lose_streams@0"), span=25),
        1,
        script("put", "k == 'T' or (ARGV", "k == 'V' and (ARGV"),
    ),
    "... and a settled value": Mutant(
        calling("0:sg 1:so", faults=("evict_intent",), span=30, watch=True),
        1,
        script("put", "ARGV[1] ~= '' and version_of(raw) ~= version", "false"),
    ),
    "what L2 was not told of stays in the writer's L1 for the bus's grace only": Mutant(
        calling("0:s 1:s", faults=("lose_call@1", "kill@0"), span=24),
        2,
        apply=code(Commit, "_put", "claim.brief = self._untold(part)", "pass"),
    ),
    "a Redis that comes while there is no subscription is told again": Mutant(
        calling("0:S 1:s", faults=("fail_over", "restart_redis"), span=30),
        2,
        apply=code(Bus, "_returned", "if self._lost:", "if False:"),
    ),
    "a word whose claim was not answered is under way no more": Mutant(
        calling("0:xl", faults=("freeze_redis",), span=120, deferred=True, config=(RETRY_ONCE,)),
        1,
        apply=code(Notifier, "tell", "del self._under_way[word.place]", "pass"),
    ),
    "no version goes by a clock that was set": Mutant(
        calling("0:s 1:s", faults=("clock", "clock_of_redis", "freeze_redis"), deferred=True, span=20),
        3,
        apply=each(
            code(VersionClock, "_now", "self._clock.monotonic()", "self._clock.wall()"),
            code(VersionClock, "discipline", "self._clock.wall() - self._clock.monotonic()", "0.0"),
            code(Identity, "_discipline", "self._clock.monotonic()", "self._clock.wall()"),
        ),
    ),
    "no version just above a row's is a stamp": Mutant(
        calling("0:b 0:d 1:b", faults=("freeze_postgres",), deferred=True, config=(PROMPT,)),
        1,
        apply=code(Commit, "_write_part", "ROW_NODE", "context.versions.node"),
    ),
    "giving a write up ends none of another version": Mutant(
        calling("0:s 1:x", "0:sl 1:x", deferred=True, config=(RETRY_ONCE,)),
        0,
        apply=each(
            code(DirtyBuffer, "give_up", "slot.item.version == version", "slot.item.version <= version"),
            code(Slot, "own_write", "self.given_up == item.version", "self.given_up >= item.version"),
            code(Redrive, "_learn", "slot.given_up == item.version", "slot.given_up >= item.version"),
        ),
    ),
    "a synchronous write in part lets go of no deferred one": Mutant(
        calling("0:p 0:P", deferred=True, model=Pair),
        0,
        apply=code(Commit, "_put", "if change.key_text not in part.partial", ""),
    ),
    "where ledger and L2 are apart, what is persisted is said, as who handed it off may have told nobody": Mutant(
        calling("0:s 1:sg", faults=("kill_handed_off",), span=40, deferred=True, apart=True, config=AT_ONCE),
        1,
        apply=code(Settler, "_settlement", " or not self._common.together", ""),
    ),
    "of writes in part that wait together each column keeps the version of its own": Mutant(
        calling("0:pp 1:P", "0:sp 1:P", deferred=True, model=Pair),
        0,
        apply=code(laying, "laid", "(*sorted(older.items()), *over.ages)", "()"),
    ),
    "... also where they meet in the ledger": Mutant(
        calling("0:p 1:p 1:P", "0:p 0:P 1:p", deferred=True, model=Pair, processes=2),
        0,
        apply=code(encode, "_laid", "if at != like.version", "if False"),
    ),
    "a write in part is read by its process under a newer one of another column": Mutant(
        calling("0:pg 1:P", deferred=True, model=Pair),
        0,
        apply=code(own, "_decided", "context.writebehind.persist_own(bound, id)", "pass"),
    ),
    "... also where there was a deletion between its parts": Mutant(
        calling("0:sp 0:gg 1:d", faults=("freeze@0",), deferred=True, model=Pair, span=12),
        1,
        apply=code(own, "_matters", "or not own.partial", ""),
    ),
    "... which, where it refuses one of them, is told of": Mutant(
        calling("0:spwwwg 1:d", faults=("mute@0",), deferred=True, model=Pair, span=12),
        1,
        apply=code(Bypass, "overtaken", "lost = {", "lost = {} and {"),
    ),
    "... with the locks that the last of them needs from the start": Mutant(
        calling("0:sp 0:g 1:sd", faults=("freeze@0",), deferred=True, model=Pair, span=40),
        1,
        apply=code(changes, "apply", "if bound.rows.table.locked:", "if False:"),
    ),
    "... and which L1 does not hide": Mutant(
        calling("0:pg 0:gg 1:P", deferred=True, model=Pair),
        0,
        apply=code(L1Tier, "_fill", "own.in_parts or", ""),
    ),
    "nobody waits for what a process began to read before it stood still": Mutant(
        calling("0:gg 0:g 1:s", faults=("freeze@0",), span=16),
        1,
        apply=code(Claims, "board", "and flight.born >= since", ""),
    ),
    "an own pending write is compared with what is below once a synchronous one is under way": Mutant(
        calling("0:s 0:Sg", "0:sSg", faults=("freeze_postgres", "lose_commit@0"), span=30, deferred=True),
        2,
        apply=code(Commit, "_meet_ledger", "deferred.supersede(part.bound, change.id, own.version + 1)", "pass"),
    ),
    "what a read has shown hides older own writes": Mutant(
        calling("0:s 0:gg 1:b", deferred=True),
        0,
        apply=code(Context, "met", "own.oldest < version", "False"),
    ),
    "who persists drops what is older from its own L1 too": Mutant(
        calling("0:s 1:g", "0:s 1:gg", faults=("kill@0",), deferred=True, apart=True, span=20, config=AT_ONCE),
        1,
        apply=code(Settler, "settle", "bound.l1.forget_each(", "list("),
    ),
    "what is pending is not read without L3 where the ledger was not told of a newer own write": Mutant(
        calling(
            "0:s 1:bg",
            "0:s 1:bgg",
            faults=("freeze_redis", "freeze_postgres"),
            deferred=True,
            l1=False,
            l2=False,
            span=30,
        ),
        2,
        apply=code(Load, "beneath", "and not self._context.repairs.skips(bound, keys)", ""),
    ),
    "an invalidation spoils intents": Mutant(
        calling("0:s 1:h"), 0, script("invalidate", "then\n    spoil(key, raw)", "then")
    ),
}
