"""A model of the coherence and write-behind protocol keeps its promises in every interleaving, and needs each of its
rules to do so.

The model (tests/property/model) has one key, two writers, readers, an invalidator, the fleet, expiry and eviction, and
at most one fault: a kill, a Redis that hangs, is away or starts again empty, a lost link or answer, a COMMIT of unknown
outcome, a version that is forged, a process that cannot reach Redis any more, or may not tell of anything, or nobody
who may. A scenario too large for a test is searched up to a bound, nearest states first; all of it is searched by
`python -m tests.property.model`, or with STRATA_MODEL=full.
"""

from __future__ import annotations

import os

import pytest

from tests.property.model.explore import explore
from tests.property.model.rules import Rule
from tests.property.model.scenarios import SCENARIOS

BOUND = None if os.environ.get("STRATA_MODEL") == "full" else 2_000

# For each rule a scenario in which leaving it out breaks a promise.
FOUND_BY = {
    Rule.FILL_NEEDS_OWN_LEASE: "set, get, get, nothing cached",
    Rule.EMPTY_KEY_REFUSES_FILL: "update by hand, get twice",
    Rule.REFUSED_BY_L2_STAYS_OUT_OF_L1: "killed in a set, get",
    Rule.BULK_ROWS_ARE_READ_AGAIN: "set, search",
    Rule.BULK_ASKS_LEDGER: "behind: set, get, search, forced get",
    Rule.INTENT_BEFORE_COMMIT: "killed in a set, get",
    Rule.DROP_AT_INTENT: "killed in a set, get",
    Rule.INTENT_OUTLIVES_COMMIT: "killed in a set, get",
    Rule.INTENTS_SPOIL: "killed in a set, set and get",
    Rule.LAST_SPOILED_EMPTIES: "killed in a set, set and get",
    Rule.SPOILED_PUT_STORES_NOTHING: "killed in a set, set and get",
    Rule.PUT_WITHOUT_INTENT_STORES_NOTHING: "set, set and get, Redis empty",
    Rule.PUT_WITHOUT_INTENT_REMOVES_OLDER: "set, set and get, Redis empty",
    Rule.PUT_WITHOUT_INTENT_REMOVES_LEASE: "set, set and get, an intent evicted",
    Rule.PUT_WITHOUT_INTENT_SPOILS: "set, set and get, Redis empty",
    Rule.PUT_IS_PUBLISHED: "set, set and get, Redis empty",
    Rule.UNKNOWN_LEAVES_INTENT: "set, set and get, a COMMIT is late",
    Rule.VERSION_ABOVE_ROW: "set, set and get, Redis empty",
    Rule.VOID_CLAIMS_ON_MESSAGE: "set, get twice",
    Rule.OWN_WRITE_VOIDS_CLAIMS: "delete, get twice in one process",
    Rule.OWN_L2_WRITE_REACHES_ITSELF: "L2 alone: set and get, get, an answer is lost",
    Rule.WRITER_NEEDS_CLAIM: "set, set",
    Rule.READ_SUPERSEDES_L1: "set, get and forced get",
    Rule.FILL_VOIDS_OTHERS: "batch, get, get in one process",
    Rule.FILL_ASKS_BUFFER: "behind: set and get, search in one process",
    Rule.FLIGHT_IS_DETACHED: "behind: set and get, get in one process",
    Rule.CLEAR_AFTER_RESUBSCRIBE: "set, set and get, Redis empty",
    Rule.CLEAR_VOIDS_CLAIMS: "set, set and get, Redis empty",
    Rule.INVALIDATE_VOIDS_LEASE: "update by hand, get twice",
    Rule.INVALIDATE_VOIDS_CLAIMS: "update by hand, get twice",
    Rule.REPAIR_ROW: "set, get, Redis hangs",
    Rule.SKIP_UNREPAIRED: "set and get, cut off from Redis",
    Rule.SKIP_OUTLASTS_COMMIT: "set, get, Redis hangs",
    Rule.REPAIR_REACHES_ITSELF: "set, get, Redis is away",
    Rule.DISTRUST_UNTIL_REPAIRED: "set, get twice, Redis hangs",
    Rule.DOUBT_OUTLASTS_READ: "set, get twice, Redis hangs",
    Rule.BRIEF_WITHOUT_L2: "set, get, Redis hangs",
    Rule.LOOK_FOR_REPAIRS: "set, get, the writer is cut off from Redis for good",
    Rule.UNTOLD_WITHOUT_L2_LEAVES_REPAIR: "without L2: set, get, the writer is cut off from Redis for good",
    Rule.BEATS_PROVE_TELLING: "set, get twice, nobody may tell",
    Rule.TOLD_BEFORE_CHANGED: "L2 alone: set, get, the writer may not tell",
    Rule.READ_ASKS_BUFFER: "behind: set and get, get in one process",
    Rule.READ_ASKS_LEDGER: "behind: without L2: set, get twice",
    Rule.LEDGER_BEFORE_L3_ON_MISS: "behind: without L2: set, get twice",
    Rule.STAMP_IN_BUFFER: "behind: set, batch and get in one process",
    Rule.WRITTEN_IF_STILL_READ: "behind: set, batch in one process",
    Rule.SUPERSEDED_IS_NOT_READ: "behind: set and get, set",
    Rule.OWN_WRITE_IS_A_FLOOR: "behind: set and get, set, Redis hangs",
    Rule.KEPT_UNTIL_IN_L3: "behind: set, get, get forced",
    Rule.FLOOR_REFUSES_OLD_HANDOFF: "behind: set, batch and forced get",
    Rule.NEWER_STAYS_IN_LEDGER: "behind: set, set, killed",
    Rule.CONFIRM_VOIDS_CLAIMS: "behind: set, get, get forced",
    Rule.REFUSED_WHOLE: "behind: set, batch in one process",
    Rule.PEND_SPOILS_INTENT: "behind: batch, set, get",
    Rule.PEND_REFUSED_LEAVES_L1: "behind: set, batch, a COMMIT is late",
    Rule.APART_PEND_NEVER_CREATES: "behind: ledger apart: set, batch",
    Rule.SHARD_LOCK: "behind: set, delete in a batch, locks",
    Rule.TOMBSTONE_IN_L3: "behind: set and delete",
    Rule.APPLY_ONLY_NEWER: "behind: set, delete in a batch, locks",
    Rule.SETTLE_BEFORE_DONE: "behind: ledger apart: set and get, an answer is lost",
    Rule.SETTLE_REMOVES_LEASE: "behind: L3 keeps columns: set, get",
    Rule.SETTLE_REMOVES_OLDER: "behind: ledger apart: set and get, an answer is lost",
    Rule.SETTLE_TELLS_WHAT_IT_REMOVES: "behind: set, get, the ledger is lost",
    Rule.SETTLE_NEVER_CREATES: "behind: set and delete",
    Rule.DONE_EXACT_VERSION: "behind: set and set, killed",
    Rule.SYNC_RAISES_FLOOR: "behind: set, batch and forced get",
    Rule.FLOOR_BEFORE_PUT: "behind: set, batch in one process",
    Rule.UNTOLD_LEAVES_REPAIR: "behind: set, batch and get, Redis hangs",
    Rule.REPAIR_RAISES_FLOOR: "behind: around the ledger: set, set and get",
    Rule.DELETION_IN_L3_IS_ASKED: "behind: around the ledger: set, delete and get",
    Rule.DIRECT_LEAVES_REPAIR: "behind: around the ledger: set, get, Redis hangs",
    Rule.PURGE_REMOVES_LEASE: "behind: refused: set, get",
    Rule.PURGE_REMOVES_VALUE: "behind: refused: set and get",
    Rule.FAR_MESSAGE_ENDS_NO_WRITE: "behind: set and get, a version is forged",
    Rule.FAR_VALUE_GIVES_WAY: "set, set and get, a version is forged",
    Rule.FAR_FLOOR_REFUSES_NOTHING: "behind: set and get, a version is forged",
    Rule.FAR_ENTRY_GIVES_WAY: "behind: set and get, a version is forged",
    Rule.FAR_OUTCOME_ENDS_NO_WRITE: "behind: set and get, a version is forged",
}

FAR = {  # rules whose breaking lies some ten thousand states away
    Rule.REPAIR_REACHES_ITSELF,
    Rule.SETTLE_TELLS_WHAT_IT_REMOVES,
    Rule.FILL_NEEDS_OWN_LEASE,
    Rule.PURGE_REMOVES_LEASE,
    Rule.PEND_SPOILS_INTENT,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_is_broken(name: str) -> None:
    found = explore(SCENARIOS[name], BOUND)
    assert found.violation is None, str(found.violation)
    assert found.states > 100


@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, id=rule.name.lower(), marks=[pytest.mark.long] if rule in FAR else []) for rule in Rule],
)
def test_without_any_one_rule_a_promise_is_broken(rule: Rule) -> None:
    found = explore(SCENARIOS[FOUND_BY[rule]].without(rule))
    assert found.violation is not None, f"nothing breaks where it is not so that {rule.value}"
