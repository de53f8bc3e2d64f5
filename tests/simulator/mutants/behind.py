"""Rules of what is written behind, and of what is forged or damaged."""

from __future__ import annotations

from typing import Any

from strata import Durability
from strata.coherence.mender import Mender
from strata.engine.commit import Commit
from strata.engine.context import Context
from strata.engine.load import Load
from strata.engine.rows import Filler
from strata.engine.write import Writer
from strata.l1.tier import L1Tier
from strata.l2.content import Contents
from strata.writebehind import pending
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.slot import Slot
from strata.writebehind.persist import settle
from strata.writebehind.persist.bypass import Bypass
from strata.writebehind.persist.outcomes import Outcomes
from strata.writebehind.persist.persister import Persister
from strata.writebehind.persist.settle import Settler
from strata.writebehind.writer import handoff
from tests.simulator.kinds import Kind
from tests.simulator.mutants.mutant import Mutant, code, each, script, scripts
from tests.simulator.postgres import SimTable

PROMPT = ("write_behind_flush_threshold", 1)  # what is written is handed on at once
SOON, LATER = ((("write_behind_flush_interval", seconds),) for seconds in (0.05, 2.0))
AT_ONCE = (("write_behind_durability", Durability.LEDGER),)


def calling(
    *programs: str,
    faults: tuple[str, ...] = ("moment",),
    config: tuple[tuple[str, Any], ...] = (PROMPT,),
    **options: Any,
) -> Kind:
    """Houses with a schema that is written behind, in which only these calls are made, and only these faults happen."""
    options = {"span": 60, "steady": faults == ("moment",)} | options
    return Kind("behind", deferred=True, programs=programs, faults=faults, config=config, **options)


def overflowing(letters: str, faults: tuple[str, ...] = ("moment",), **options: Any) -> Kind:
    """Houses with a dirty buffer of one write, so that those of another key go around the ledger."""
    full = (("write_behind_max_dirty", 1),)
    return Kind("behind", deferred=True, letters=(letters,), faults=faults, config=full, **options)


BEHIND = {
    "a read asks the own dirty buffer before L2": Mutant(
        calling("0:sf 0:f", "0:sf", l2=False),
        1,
        apply=code(Context, "pending", "self.writebehind.peek(bound, id)", "None"),
    ),
    "... and with the ledger": Mutant(
        calling("0:s 1:q 1:g", "0:s 1:qg", l2=False, faults=()),
        0,
        apply=code(Filler, "_load", "if bound.deferred and", "if False and"),
    ),
    "a read that misses L2 asks the ledger": Mutant(
        calling("0:s 1:gg", l2=False),
        2,
        apply=code(Context, "handed_off", "return self.writebehind.ledger_read(bound, key_texts)", "return {}"),
    ),
    "... before it asks L3": Mutant(
        calling("0:s 1:gg", "0:s 1:gg 1:g", l2=False),
        2,
        apply=each(
            code(Load, "_run", "(yield Handed(context, bound, list(self._keys))) if bound.deferred else {}", "{}"),
            code(
                Load,
                "beneath",
                "        for text, key in waits.in_turns(keys.items()):\n",
                "        pending = self._context.handed_off(bound, list(keys)) or {}\n"
                "        for text, key in waits.in_turns(keys.items()):\n",
            ),
        ),
    ),
    "what was read while the ledger could not be asked stays in L1 for the bus's grace only": Mutant(
        calling("0:s 1:g", faults=("lose_call@1",), span=20, l2=False),
        1,
        apply=code(Load, "_run", "past or pending is None", "past"),
    ),
    "a deferred write is stamped as it enters the buffer, so that what is newer finds it there": Mutant(
        calling("0:s 0:bwf", config=()),
        1,
        apply=each(
            code(
                DirtyBuffer,
                "write",
                "return self._take(",
                "from strata import waits\n    item = replace(item, version=self._owner.stamp())\n"
                "    waits.sleep(0.01)\n    return self._take(",
            ),
            code(DirtyBuffer, "_write", "item.version = self._stamp(schema, key)", "pass"),
        ),
    ),
    "a deferred write enters L1 only if it still is what reads get from the buffer": Mutant(
        calling("0:s 0:B", "0:s 0:b", "0:s 1:s", config=()),
        1,
        apply=code(L1Tier, "write", "self.holds is not None and", "False and"),
    ),
    "an own write of which a newer one was heard is not read any more": Mutant(
        calling("0:ff 0:sff 1:s", "0:fff 0:sf 1:s"),
        1,
        apply=code(Slot, "own_write", "self.superseded <= oldest", "True"),
    ),
    "... but a read that finds nothing newer below returns it all the same": Mutant(
        calling("0:sgg 1:s", faults=("restart_redis", "freeze_redis"), l1=False),
        1,
        apply=code(
            Slot,
            "own_write",
            "if self.given_up == item.version:",
            "if self.given_up == item.version or self.superseded > item.version:",
        ),
    ),
    "an own write stays in the buffer until L3 has it": Mutant(
        calling("0:sg", faults=("restart_redis",)),
        1,
        apply=code(DirtyBuffer, "sent", "self._queues.sent(slot)", "self._remove(slot)"),
    ),
    "a hand-off at or below what L3 is known to have is refused": Mutant(
        calling("0:s 1:bezwf", faults=("late_handoff@0",), span=5),
        1,
        script("handoff", "if floor ~= '' and not older(floor, version) then", "if false then"),
    ),
    "a hand-off does not replace a newer entry": Mutant(
        calling("0:s 1:s 2:fef", "0:s 1:s 2:ffef", processes=3),
        1,
        script(
            "handoff",
            "if old and older(version, there) then",
            "if old and older(version, there) and expected ~= '*' and not string.find(entry, ':[pm]:') then",
        ),
    ),
    "a hand-off that the ledger refuses does not reach L2 either": Mutant(
        calling("0:s 0:b 0:b", "0:s 0:be", "0:s 1:be"),
        1,
        script(
            "handoff",
            "(answer == '+' or answer == '=')\n        and pend(",
            "pend(",
            "\n      answers[i] = answer .. 'I'",
            "\n      if answer == '+' or answer == '=' then answers[i] = answer .. 'I' end",
        ),
    ),
    "a hand-off spoils an intent that it meets": Mutant(
        calling("0:b 1:s 1:ff 2:ff", processes=3, faults=(), steady=True),
        0,
        script("handoff", "if k == 'I' then spoil(key, raw) return true end", "if k == 'I' then return true end"),
    ),
    "... and the writer's own L1 does not keep what L2 refused": Mutant(
        calling("0:s 1:b", faults=("kill_committed@1",), span=5),
        1,
        apply=code(handoff, "_leave_l1", "bound.l1.forget_many(keys)", "pass"),
    ),
    "... also where the hand-off is part of the write": Mutant(
        calling("0:s 1:b", faults=("kill_committed@1",), config=AT_ONCE, span=60),
        1,
        apply=code(L1Tier, "write", "good = claim is None or claim.alive", "good = True"),
    ),
    "... nor what it may have refused, where its answer was lost": Mutant(
        calling("0:s 1:b", "0:sg 1:b", faults=("lose_call@0", "kill_committed@1"), apart=True),
        2,
        apply=code(
            handoff.HandOff, "_exchange", "_leave_l1(parcel.bound, *[slot.key for slot, _ in parcel.writes])", "pass"
        ),
    ),
    "where the ledger is elsewhere, L2 hears of a hand-off later: it creates no key then": Mutant(
        calling("0:s 1:be", apart=True), 1, script("pend", "elseif held ~= '' then", "else")
    ),
    "writers of L3 take the shard's lock first, alone for deletions": Mutant(
        calling("0:s 1:B"), 1, apply=code(SimTable, "lock_shards", "conn.ask(", "lambda *_: (")
    ),
    "a deletion leaves a tombstone in L3": Mutant(
        calling("0:s 1:B"),
        1,
        apply=each(
            code(SimTable, "_delete", "conn.own.tombstones[text] = version", "pass"),
            code(SimTable, "_apply_one", "conn.own.tombstones[change.key_text] = change.version", "pass"),
        ),
    ),
    "a deferred write is applied only if it is newer than what L3 holds": Mutant(
        calling("0:s 1:b"),
        1,
        apply=code(
            SimTable,
            "_apply_one",
            "if version > change.version or buried > change.version or",
            "if",
            "if version < change.version:",
            "if True:",
        ),
    ),
    "L2 is settled before the ledger is told": Mutant(
        calling("0:s 1:g", "0:s 1:ge", keeps=True, apart=True, faults=("kill@0", "evict"), span=40),
        2,
        apply=code(
            Settler,
            "finish",
            "        self.settle_or_repair(bound, other)\n",
            "",
            "self._common.ledger.done([(shard, versions)], partial, token)",
            "self._common.ledger.done([(shard, versions)], partial, token); self.settle_or_repair(bound, other)",
        ),
    ),
    "settling removes a lease": Mutant(
        calling("0:s 1:g", "0:s 1:g 1:f", keeps=True, apart=True),
        1,
        script("settle", "if k == 'L' then\n    redis.call('DEL', key)", "if k == 'L' then"),
    ),
    "settling removes what is older than L3": Mutant(
        calling("0:s 1:g", known=(1,), apart=True, faults=("lose_call@0", "cut_redis@0")),
        1,
        script("settle", "older(version_of(raw), version) or", "false or"),
    ),
    "... and publishes that, since others may have read it too": Mutant(
        calling("0:s 1:gg", apart=True, faults=("cut_redis", "lose_stream", "freeze_redis")),
        1,
        script(
            "settle",
            "if ARGV[at + 5] == '1' or not raw or version_of(raw) ~= version or not holds_version(raw) then",
            "if false then",
        ),
    ),
    "settling never creates a key": Mutant(
        calling("0:s 1:b 0:b", "0:s 1:be"),
        1,
        script(
            "settle",
            "if k == 'L' then\n    redis.call('DEL', key)",
            "if k == '' and string.sub(content, 1, 1) == 'C' then\n    store(key, string.sub(content, 2), px)\n"
            "  elseif k == 'L' then\n    redis.call('DEL', key)",
            "elseif content ~= '' then",
            "elseif content ~= '' and string.sub(content, 1, 1) ~= 'C' then",
        ),
        each(
            code(
                Settler,
                "_settlement",
                "    return change.key_text,",
                "    if bound.l2 is not None and not content and applied.version == change.version:\n"
                "        record = None if change.delete else bound.record(change.values)\n"
                "        content = b'C' + bound.l2.held(applied.version, record)[0]\n"
                "    return change.key_text,",
            ),
            code(settle, "_as_handed_off", "return not change.adds and", "return False and"),
        ),
    ),
    "what is handed off is said": Mutant(
        calling("0:s 1:gg", "0:s 1:g"), 0, script("handoff", "say_of(ARGV[5], ARGV[7], said)", "")
    ),
    "done removes only what is not newer than what L3 has": Mutant(
        calling("0:ss 1:ffef", "0:ss 1:fef"),
        1,
        scripts(("done", "finish"), "if there == version then", "if entry then"),
    ),
    "... and raises the floor": Mutant(
        calling("0:s 1:bezwf", faults=("late_handoff@0",), span=5),
        1,
        apply=code(
            Commit,
            "_raise_floor",
            "deferred.raise_floor(bound, ended | whole, part.partial)",
            "pass",
        ),
    ),
    "... before its put, so that no older hand-off comes between": Mutant(
        calling("0:s 1:b 2:eee", processes=3, faults=("late_handoff@0", "slow_put@1"), span=5),
        2,
        apply=code(
            Commit,
            "_put",
            "    self._raise_floor(part, changes)\n    stored = self._put_l2(part, changes)\n",
            "    stored = self._put_l2(part, changes)\n    self._raise_floor(part, changes)\n",
        ),
    ),
    "... and where the ledger did not hear of the floor, a repair row is left": Mutant(
        calling("0:s 1:bezwf", faults=("late_handoff@0", "lose_floor@1"), l1=False, span=5),
        2,
        apply=code(Commit, "_raise_floor", "self._leave_repairs(part, changes)", "pass"),
    ),
    "a repair raises the floor, so that nothing older is handed off after it": Mutant(
        calling("0:s 1:bwzwf", faults=("late_handoff@0", "lose_intent@1", "lose_floor@1"), l1=False, span=5),
        3,
        apply=code(Mender, "_keys", "if bound.deferred and whole:", "if False:"),
    ),
    "a deferred write that goes around the ledger leaves a repair row": Mutant(
        calling("1:f 0:s 1:f", faults=("cut_redis@0",), known=(1,), config=AT_ONCE, l1=False, span=20),
        1,
        apply=each(
            code(Bypass, "_write", "if repaired and done:", "if False:"),
            code(Bypass, "_settle", "self._settler.leave_repairs(bound, done)", "pass"),
        ),
    ),
    "... also where L2 answers, since whoever wrote it may be killed before it tells": Mutant(
        overflowing("ssff", faults=("kill_committed",), span=5, known=(1,)),
        1,
        apply=code(Bypass, "_write", "repaired = bound.l2 is not None", "repaired = bound.l2 is not None and l2_down"),
    ),
    "... and raises the floor, so that nothing older is handed off before the row is seen to": Mutant(
        overflowing(
            "s",
            ("moment", "cut_redis@0", "freeze_redis"),
            steady=True,
            l1=False,
            span=30,
            programs=("0:ss 0:s 1:ff", "0:ss 1:sf", "0:s 0:s 1:sff"),
        ),
        2,
        apply=code(
            Bypass, "_settle", "(self._settler.raise_floor, partial", "(partial", "unheard=True)):", "unheard=True),):"
        ),
    ),
    "... and without L2, where the outcome of its commit stayed unknown, is told of once that has ended": Mutant(
        overflowing("ssgf", faults=("lose_commit@0", "freeze_postgres"), span=40, known=(1,), l2=False),
        2,
        apply=code(Writer, "_behind", "isinstance(error, WriteBehindFullError)", "False"),
    ),
    "a purge removes a lease": Mutant(
        calling("0:x 1:eg", faults=("slow_read",), config=(PROMPT, ("write_behind_max_retry", 1))),
        1,
        script("purge", "if k == 'L' then\n    redis.call('DEL', key)", "if k == 'L' then"),
    ),
    "a purge removes the value that was given up": Mutant(
        calling("0:xg 1:g", config=(PROMPT, ("write_behind_max_retry", 1))),
        1,
        script("purge", "elseif raw and not older(version, version_of(raw)) then\n    redis.call('DEL', key)", ""),
    ),
    "a value of the far future is not served, and goes where it is met": Mutant(
        Kind("through", programs=("0:s 1:g", "0:s 1:gg"), faults=("forge",), span=40),
        1,
        scripts(
            ("handoff", "pend", "invalidate", "own", "purge", "put", "settle"),
            "if not holds_version(raw) or not is_beyond(version_of(raw)) then return raw end",
            "do return raw end",
        ),
        code(Contents, "read", "or not self._versions.believed(version)", ""),
    ),
    "a floor of the far future refuses no hand-off": Mutant(
        calling("0:s", "0:sg", processes=1, faults=("forge",), span=30),
        1,
        scripts(
            ("handoff", "done", "bury", "probe"),
            "if x ~= '' and is_beyond(x) then x = '' end",
            "",
            "if y ~= '' and is_beyond(y) then y = '' end",
            "",
        ),
    ),
    "a pending entry of the far future is neither read nor applied, and gives way to a hand-off": Mutant(
        calling("0:s", "0:sg", processes=1, faults=("forge",), span=30),
        1,
        scripts(("handoff", "done", "bury", "probe"), "and not is_beyond(version_of(raw))", ""),
        each(
            code(pending, "_pending", "if not common.versions.believed(entry.version):", "if False:"),
            code(Persister, "_examine", "if not self._versions.believed(entry.version):", "if False:"),
        ),
    ),
    "an outcome of the far future ends no pending write of another version": Mutant(
        calling("0:sws", processes=1, config=LATER, faults=("forge_outcome", "freeze_postgres"), span=150),
        2,
        apply=code(
            Outcomes, "apply", "if self._meant(bound, key, item)", "", "or self._meant(bound, key, item)", "or True"
        ),
    ),
}
