"""Rules of what is written through, of reads, and of the caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from strata.bound import Bound
from strata.coherence.bus import Bus
from strata.coherence.inbox import Inbox
from strata.coherence.mender import Mender
from strata.coherence.repairs import Repairs
from strata.engine.commit import Commit
from strata.engine.context import Context
from strata.engine.load import Load, Loaded
from strata.engine.rows import Filler, Item
from strata.engine.steps import alone
from strata.engine.write import Writer
from strata.l1.claims import Claim, Claims, ManyClaim
from strata.l1.tier import L1Tier
from tests.simulator.kinds import KINDS, Kind, Secret
from tests.simulator.mutants.mutant import Mutant, code, each, script
from tests.simulator.postgres import SimTable


def calling(*programs: str, faults: tuple[str, ...] = (), span: int = 60, **options: Any) -> Kind:
    """Houses in which only these calls are made, and only these faults happen."""
    return Kind("through", programs=programs, faults=faults, span=span, **options)


DROPPED_OLDER = (
    "[bound.l1.store.drop(key) for key, version in heard"
    " if (entry := bound.l1.entries.get(key)) and bound.l1._outdated(entry, version)]"
)


def as_found(context: Context, items: Sequence[Item], bound: Bound, left: dict[str, Claim], found: Any) -> None:
    """Fill with the rows that a query has found."""
    loaded = {item.key_text: Loaded(item.record, item.version) for item in items if item.key_text in left}
    keys = {item.key_text: item.id for item in items}
    alone(Load(context, bound, keys, left, found).fill(loaded, context.clock.monotonic()))


def unchanged(context: Context, items: Sequence[Item], bound: Bound, left: dict[str, Claim], found: Any) -> None:
    """As `as_found`, with those whose version is still the same."""
    with bound.rows.primary.connection() as conn:
        rows = bound.rows.table.get_many(conn, [item.id for item in items])
    same = [item for item in items if item.id in rows and rows[item.id].version == item.version]
    as_found(context, same, bound, left, found)


def filling(how: Callable[..., None]) -> Callable[[], None]:
    """Queries fill in this way."""
    return code(
        Filler,
        "_fill",
        "self._load(bound, by_text, left, ",
        f"__import__({__name__!r}, fromlist=['']).{how.__name__}(self._context, items, bound, left, ",
    )


FILLS = {
    "a fill is stored only where the reader's very lease stands": Mutant(
        KINDS["through"], 0, script("fill", "if held[i] == lease then", "if true then")
    ),
    "a fill finds an empty key and stores nothing": Mutant(
        calling("0:h 1:gg", "0:h 1:g 1:g"),
        0,
        script(
            "fill",
            "if held[i] == lease then",
            "if not held[i] or held[i] == lease then",
        ),
    ),
    "what L2 refused does not enter L1": Mutant(
        calling("0:s 1:g", faults=("kill@0",), span=24),
        1,
        apply=code(Load, "fill", "if text not in allowed:", "if False:"),
    ),
    "rows found by a query are read again after the leases, before they fill": Mutant(
        calling("0:s 1:q", faults=("evict",), span=60, known=(0,)), 1, apply=filling(as_found)
    ),
    "... which a version that is the same does not spare": Mutant(
        calling("0:q 1:h", "0:c 1:h"), 0, apply=filling(unchanged)
    ),
}

WRITES = {
    "the intent is in L2 before COMMIT is sent": Mutant(
        calling("0:s 1:g", faults=("kill@0",), span=40),
        1,
        apply=code(
            Commit, "_intend", "bound.l2.intend(part.token, context.lasting, context.announcer.channel, said)", "pass"
        ),
    ),
    "receivers drop the key at the intent": Mutant(
        calling("0:s", faults=("kill@0",), span=30, known=(1,)),
        1,
        apply=code(
            Inbox,
            "_apply",
            "bound.l1.forget(key)",
            "op == MessageOp.INTENT or bound.l1.forget(key)",
        ),
    ),
    "an intent does not expire while its writer is at work": Mutant(
        calling("0:s 1:g", faults=("moment", "kill@0"), span=30),
        2,
        script("intent", "local deadline = now + tonumber(ARGV[2])", "local deadline = now + 1"),
    ),
    "intents that meet are spoiled: none of their puts is stored": Mutant(
        calling("0:s 1:s 0:g", "0:s 1:s 0:gg", faults=("kill@1",), span=60),
        1,
        script("intent", "keep_intent(key, list, spoiled, now)\nend", "keep_intent(key, list, false, now)\nend"),
    ),
    "a spoiled intent stays until the last of its writers has left": Mutant(
        calling("1:s 0:sg", faults=("kill@1",), span=60),
        1,
        script("put", "elseif mine and #rest == 0 then", "elseif mine then"),
    ),
    "a spoiled put stores nothing": Mutant(
        calling("1:s 0:s", faults=("kill@1",), span=60),
        1,
        script(
            "put", "if mine and string.sub(raw, 4, 4) == 'c' and content ~= '' then", "if mine and content ~= '' then"
        ),
    ),
    "a put that does not find its intent stores nothing": Mutant(
        calling("0:s 1:s", faults=("evict_intent",), span=30),
        1,
        script(
            "put",
            "elseif k == 'I' then",
            "elseif content ~= '' and (not raw or k == 'L' or (holds_version(raw)"
            " and older(version_of(raw), version))) then\n"
            "    store(key, content, px)\n"
            "    stored[i] = 1\n"
            "  elseif k == 'I' then",
        ),
    ),
    "... removes an older value": Mutant(
        calling("0:s 1:s", "0:s 1:sg", faults=("evict_intent",), span=50),
        1,
        script(
            "put",
            *(" or (holds_version(raw) and older(version_of(raw), version)) then", " then"),
            *("ARGV[1] ~= '' and version_of(raw) ~= version", "false"),
        ),
    ),
    "... removes a lease": Mutant(
        calling("0:s 1:g", faults=("evict_intent",), span=30),
        1,
        script("put", "elseif k == 'L' or (", "elseif ("),
    ),
    "... spoils the intents of others": Mutant(
        calling("0:s 1:s", faults=("evict_intent", "slow_call@0"), span=40),
        2,
        script("put", "elseif k == 'I' then\n    spoil(key, raw)\n", "elseif k == 'I' then\n"),
    ),
    "the put is published": Mutant(
        calling("0:s 1:g", faults=("slow_call@0", "evict_intent"), span=6),
        2,
        script("put", "say(ARGV[2], ARGV[at + 4])", ""),
    ),
    "with the outcome unknown the intent is left to expire": Mutant(
        calling("0:s 1:wg", "0:s 1:g", faults=("lose_commit@0", "kill@0"), span=40),
        2,
        apply=code(Commit, "run", "self._doubt(parts)", "self._doubt(parts); self._abandon(parts)"),
    ),
    "a synchronous write's version is above the row's": Mutant(
        calling("0:s 1:s 1:g", faults=("evict_intent",), span=50),
        1,
        apply=code(SimTable, "_put", "version = max(version, raised(held[0], node))", "pass"),
    ),
}

RECEIVERS = {
    "a message voids the claims on its key": Mutant(
        calling("0:s 1:g", faults=("slow_call@1",), span=20, known=(0,)),
        1,
        apply=each(
            code(Inbox, "_apply", "bound.l1.forget(key)", "bound.l1.store.drop(key)"),
            code(Inbox, "_hear", "bound.l1.forget_each(heard)", DROPPED_OLDER),
        ),
    ),
    "an own write voids the claims of the process's readers": Mutant(
        calling("0:d 0:g", faults=("slow_call@0",), span=10, known=(1,)),
        1,
        apply=each(
            code(
                Commit,
                "_claim",
                "part.bound.l1.forget_many(ids)",
                "list(map(part.bound.l1.store.drop, ids))",
            ),
            code(
                Commit,
                "_put",
                "bound.l1.forget_many(gone)",
                "list(map(bound.l1.store.drop, gone))",
            ),
        ),
    ),
    "who writes to L2 as the lowest tier hears its own message: the answer may be lost": Mutant(
        calling("0:s 0:gw", "0:sw 0:g", faults=("lose_call@0",), span=6, l3=False),
        1,
        apply=code(Writer, "_puts", "signed=False", "signed=True"),
    ),
    "a writer's own put enters L1 only if its claim is still good": Mutant(
        calling("0:s 1:s", faults=("slow_call@0",), span=20),
        1,
        apply=code(
            Commit,
            "_put",
            "fills.append((claims[change.life],",
            "claims[change.life].voided.clear() or fills.append((claims[change.life],",
        ),
    ),
    "what a read returns, but may not fill, drops what is older in L1, and voids other claims": Mutant(
        calling("0:s 1:fg", known=(1,)),
        0,
        apply=code(L1Tier, "_outdate", "self.claims.void_others(key, claim)\n", "return\n"),
    ),
    "a fill voids the other claims, and detaches a flight that is not its own": Mutant(
        calling("0:sf 0:g", "0:sf 0:sf 0:g", faults=("slow_read@0",), span=10),
        1,
        apply=code(L1Tier, "_fill", "self.claims.void_others(key, claim)", "pass"),
    ),
    "of the keys of one claim those of which something was heard do not enter L1": Mutant(
        calling("0:G 1:s", "0:fG 1:s", faults=("slow_call@0",), span=12, known=(1,)),
        1,
        apply=code(ManyClaim, "void", "self.alone = False\n    self.voided.add(key)", "pass"),
    ),
    "nothing enters L1 that is older than the own pending write": Mutant(
        calling("0:sg 0:q", "0:sg 0:qg", faults=("crowd_out@0",), deferred=True),
        1,
        apply=code(L1Tier, "_fill", "wrong = behind or not", "wrong = not"),
    ),
    "a write or message detaches the flight, so that nobody else shares its result": Mutant(
        calling("0:dg 0:g", "0:sg 0:g"), 0, apply=code(Claims, "void", "self._flights.pop(key, None)", "pass")
    ),
    "L1 is cleared after a subscription that broke is confirmed again": Mutant(
        calling("0:s", faults=("lose_streams@1",), span=20, known=(1,)),
        1,
        apply=code(Bus, "_returned", "self._inbox.clear()", "pass"),
    ),
    "... and claims are voided": Mutant(
        calling("0:s 1:g", faults=("lose_streams@1", "slow_read@1"), span=20, l2=False),
        2,
        apply=code(L1Tier, "clear", "self.claims.void_all()", "pass"),
    ),
    "an invalidation removes a lease": Mutant(
        calling("0:h 1:g 1:g", "0:h 1:gg"),
        0,
        script("invalidate", "elseif k == 'L' or (holds_version(raw)", "elseif (holds_version(raw)"),
    ),
    "... and voids claims and entries, whatever their version": Mutant(
        calling("0:h 1:g 1:g", "0:h 1:gg"),
        0,
        apply=code(
            Inbox,
            "_apply",
            "bound.l1.forget(key)",
            "op == MessageOp.INVALIDATE or bound.l1.forget(key)",
        ),
    ),
}

UNREACHABLE = {
    "a commit that L2 was not told of leaves a repair row": Mutant(
        calling(
            "0:s",
            faults=(
                "mute@0",
                "lose_call@0",
            ),
            span=12,
            known=(1,),
        ),
        1,
        apply=code(SimTable, "record_repairs", "conn.ask(", "("),
    ),
    "a writer does not ask L2 for what was not repaired yet": Mutant(
        calling(
            "0:dg",
            faults=(
                "mute@0",
                "lose_call@0",
            ),
            span=10,
            known=(1,),
        ),
        1,
        apply=code(
            Repairs,
            "skips",
            "return len(self._skipped) >= LIMIT or any((bound.name, text) in self._skipped for text in key_texts)",
            "return False",
        ),
    ),
    "... until its commit has ended and the repair was done after that": Mutant(
        calling("0:dg 0:g", faults=("lose_streams@0",), span=16, known=(1,)),
        1,
        apply=code(Repairs, "_repair", "all(write.ended for write in writes)", "True"),
    ),
    "who repairs drops what is older from its own L1 too": Mutant(
        calling("0:sww", faults=("mute@0",), span=12, known=(1,)),
        1,
        apply=code(Mender, "_keys", "bound.l1.forget(bound.plan.parse_key(put.key_text), below=put.version)", "pass"),
    ),
    "who read past an L2 that did not answer asks it again only after a look at the repairs": Mutant(
        calling("0:s 1:gg", faults=("lose_call@1", "mute@0"), span=12, known=(0,), l1=False, steady=True),
        2,
        apply=code(Repairs, "distrust", "self._distrusted += 1", "pass"),
    ),
    "... that begins after the read of L3 has ended": Mutant(
        calling("0:s 1:gg", faults=("lose_call@1", "mute@0", "slow_read@1"), span=4, known=(0,), l1=False, steady=True),
        3,
        apply=code(Load, "_run", "if silent:", "if False:"),
    ),
    "what was read while L2 could not be asked stays in L1 for the bus's grace only": Mutant(
        calling("0:s 1:g", faults=("kill@0",), span=24),
        1,
        apply=code(Load, "_run", "past or pending is None", "pending is None"),
    ),
}

TELLING = {
    "a put that failed leaves repairs, as the intents may be gone": Mutant(
        calling("0:s 1:gwwwg", faults=("evict_intent", "lose_call@0"), span=24, known=(0, 1)),
        2,
        apply=code(Commit, "_put_l2", "self._leave_repairs(part, changes)", "pass"),
    ),
    "a process that begins looks for repairs before it trusts L2": Mutant(
        calling("0:swwww 1:g", faults=("redis_down", "kill@1"), span=80, known=(1,)),
        2,
        apply=code(Repairs, "begin", "bool(self._waiting(list(self._schemas)))", "False"),
    ),
    "... and so does one whose heartbeats are overdue": Mutant(
        calling("0:sg 1:gwgg", faults=("cut_redis@0", "freeze@1"), span=30),
        2,
        apply=code(Repairs, "skips", "or self._overdue(bound)", ""),
    ),
    "instances that can tell look whether repairs were left by one that could not": Mutant(
        calling("0:sww 1:wwg", faults=("cut_redis@0",), span=12, known=(1,)),
        1,
        apply=code(Repairs, "look", "if names:", "if False:"),
    ),
    "... and without L2 too, where a message before or after the commit was refused": Mutant(
        calling(
            "0:sww 1:wwg",
            faults=(
                "cut_redis@0",
                "mute@0",
            ),
            span=12,
            known=(1,),
            l2=False,
        ),
        1,
        apply=each(
            code(
                Commit,
                "_untold",
                "return not part.intended and self._context.tells",
                "return part.bound.l2 is not None and not part.intended",
            ),
            code(Commit, "_put_l2", "self._leave_repairs(part, changes)", "pass"),
        ),
    ),
    "whoever cannot change L2 and tell of it is unsure of L1, and does not ask L2": Mutant(
        calling("0:sww 1:wwg", faults=("read_only",), span=12, known=(1,)),
        1,
        script(
            "beat",
            "redis.call('PUBLISH', ARGV[1], ARGV[2])",
            "redis.call('PUBLISH', ARGV[1], ARGV[2])\nif true then return {} end",
        ),
    ),
    "a script tells before it changes anything, so that where it may not tell it changes nothing": Mutant(
        calling("0:s", faults=("mute@0",), span=10, known=(1,), l3=False),
        1,
        script(
            "own",
            "for i in ipairs(KEYS) do say(ARGV[1], ARGV[4 + i * 3]) end\n",
            "",
            "return answers\n",
            "for i in ipairs(KEYS) do say(ARGV[1], ARGV[4 + i * 3]) end\nreturn answers\n",
        ),
    ),
}

UNCOMPARED = code(SimTable, "replace_sealed", "held[1][at] != old", "False")

SEALED = {
    "a rotation replaces only the ciphertexts that it has read": Mutant(
        calling("0:s 1:k", model=Secret), 0, apply=UNCOMPARED
    ),
    "... also where rows are written behind": Mutant(
        calling("0:s 1:k", "0:sf 1:k", faults=("moment",), model=Secret, deferred=True), 1, apply=UNCOMPARED
    ),
    "a rotation keeps the version of a row": Mutant(
        calling("0:s 1:k", model=Secret),
        0,
        apply=code(SimTable, "replace_sealed", "(held[0], tuple(", "(held[0] + 1, tuple("),
    ),
}

THROUGH = {**FILLS, **WRITES, **RECEIVERS, **UNREACHABLE, **TELLING, **SEALED}
