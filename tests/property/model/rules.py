"""The rules of the protocol, each of which can be left out, and the circumstances of a scenario."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Rule(enum.Enum):
    """A rule, in the words of the design; the value says what happens where it is in force."""

    # Fills
    FILL_NEEDS_OWN_LEASE = "a fill is stored only where the reader's very lease stands"
    EMPTY_KEY_REFUSES_FILL = "a fill finds an empty key and stores nothing"
    REFUSED_BY_L2_STAYS_OUT_OF_L1 = "what L2 refused does not enter L1"
    BULK_ROWS_ARE_READ_AGAIN = "rows found by a query are compared with L3 after the leases, before they fill"
    BULK_ASKS_LEDGER = "... and with the ledger"
    # Write-through
    INTENT_BEFORE_COMMIT = "the intent is in L2 before COMMIT is sent"
    DROP_AT_INTENT = "receivers drop the key at the intent"
    INTENT_OUTLIVES_COMMIT = "an intent does not expire while its writer is at work"
    INTENTS_SPOIL = "intents that meet are spoiled: none of their puts is stored"
    LAST_SPOILED_EMPTIES = "a spoiled intent stays until the last of its writers has left"
    SPOILED_PUT_STORES_NOTHING = "a spoiled put stores nothing"
    PUT_WITHOUT_INTENT_STORES_NOTHING = "a put that does not find its intent stores nothing"
    PUT_WITHOUT_INTENT_REMOVES_OLDER = "... removes an older value"
    PUT_WITHOUT_INTENT_REMOVES_LEASE = "... removes a lease"
    PUT_WITHOUT_INTENT_SPOILS = "... spoils the intents of others"
    PUT_IS_PUBLISHED = "the put is published"
    UNKNOWN_LEAVES_INTENT = "with the outcome unknown the intent is left to expire"
    VERSION_ABOVE_ROW = "a synchronous write's version is above the row's"
    # L1 and receivers
    VOID_CLAIMS_ON_MESSAGE = "a message voids the claims on its key"
    OWN_WRITE_VOIDS_CLAIMS = "an own write voids the claims of the process's readers"
    OWN_L2_WRITE_REACHES_ITSELF = "who writes to L2 as the lowest tier hears its own message: the answer may be lost"
    WRITER_NEEDS_CLAIM = "a writer's own put enters L1 only if its claim is still good"
    READ_SUPERSEDES_L1 = "what a read returns, but may not fill, drops what is older in L1, and voids other claims"
    FILL_VOIDS_OTHERS = "a fill voids the other claims, and detaches a flight that is not its own"
    FILL_ASKS_BUFFER = "nothing enters L1 that is older than the own pending write"
    FLIGHT_IS_DETACHED = "a write or message detaches the flight, so that nobody else shares its result"
    CLEAR_AFTER_RESUBSCRIBE = "L1 is cleared after a subscription that broke is confirmed again"
    CLEAR_VOIDS_CLAIMS = "... and claims are voided"
    INVALIDATE_VOIDS_LEASE = "an invalidation removes a lease"
    INVALIDATE_VOIDS_CLAIMS = "... and voids claims and entries, whatever their version"
    # L2 unreachable
    REPAIR_ROW = "a commit that L2 was not told of leaves a repair row"
    SKIP_UNREPAIRED = "a writer does not ask L2 for what was not repaired yet"
    SKIP_OUTLASTS_COMMIT = "... until its commit has ended and the repair was done after that"
    REPAIR_REACHES_ITSELF = "who repairs drops what is older from its own L1 too"
    DISTRUST_UNTIL_REPAIRED = "who read past an L2 that did not answer asks it again only after a look at the repairs"
    DOUBT_OUTLASTS_READ = "... that begins after the read of L3 has ended"
    BRIEF_WITHOUT_L2 = "what was read while L2 could not be asked stays in L1 for the bus's grace only"
    # Telling
    LOOK_FOR_REPAIRS = "instances that can tell look whether repairs were left by one that could not"
    UNTOLD_WITHOUT_L2_LEAVES_REPAIR = "... and without L2 too, where a message before or after the commit was refused"
    BEATS_PROVE_TELLING = "whoever cannot change L2 and tell of it is unsure of L1, and does not ask L2"
    TOLD_BEFORE_CHANGED = "a script tells before it changes anything, so that where it may not tell it changes nothing"
    # Write-behind
    READ_ASKS_BUFFER = "a read asks the own dirty buffer before L2"
    READ_ASKS_LEDGER = "a read that misses L2 asks the ledger"
    LEDGER_BEFORE_L3_ON_MISS = "... before it asks L3"
    STAMP_IN_BUFFER = "a deferred write is stamped as it enters the buffer, so that what is newer finds it there"
    WRITTEN_IF_STILL_READ = "a deferred write enters L1 only if it still is what reads get from the buffer"
    SUPERSEDED_IS_NOT_READ = "an own write of which a newer one was heard is not read any more"
    OWN_WRITE_IS_A_FLOOR = "... but a read that finds nothing newer below returns it all the same"
    KEPT_UNTIL_IN_L3 = "an own write stays in the buffer until L3 has it"
    FLOOR_REFUSES_OLD_HANDOFF = "a hand-off at or below what L3 is known to have is refused"
    NEWER_STAYS_IN_LEDGER = "a hand-off does not replace a newer entry"
    CONFIRM_VOIDS_CLAIMS = "when the buffer lets go of a write, the claims on its key are void"
    REFUSED_WHOLE = "a hand-off that the ledger refuses does not reach L2 either"
    PEND_SPOILS_INTENT = "a hand-off spoils an intent that it meets"
    PEND_REFUSED_LEAVES_L1 = "... and the writer's own L1 does not keep what L2 refused"
    APART_PEND_NEVER_CREATES = "where the ledger is elsewhere, L2 hears of a hand-off later: it creates no key then"
    SHARD_LOCK = "writers of L3 take the shard's lock first, alone for deletions"
    TOMBSTONE_IN_L3 = "a deletion leaves a tombstone in L3"
    APPLY_ONLY_NEWER = "a deferred write is applied only if it is newer than what L3 holds"
    SETTLE_BEFORE_DONE = "L2 is settled before the ledger is told"
    SETTLE_REMOVES_LEASE = "settling removes a lease"
    SETTLE_REMOVES_OLDER = "settling removes what is older than L3"
    SETTLE_TELLS_WHAT_IT_REMOVES = "... and publishes that, since others may have read it too"
    SETTLE_NEVER_CREATES = "settling never creates a key"
    DONE_EXACT_VERSION = "done removes only what is not newer than what L3 has"
    SYNC_RAISES_FLOOR = "... and raises the floor"
    FLOOR_BEFORE_PUT = "... before its put, so that no older hand-off comes between"
    UNTOLD_LEAVES_REPAIR = "... and where the ledger did not hear of the floor, a repair row is left"
    REPAIR_RAISES_FLOOR = "a repair raises the floor, so that nothing older is handed off after it"
    DELETION_IN_L3_IS_ASKED = "what is pending is not read where L3 has no row and remembers a newer deletion"
    DIRECT_LEAVES_REPAIR = "a deferred write that goes around the ledger leaves a repair row"
    PURGE_REMOVES_LEASE = "a purge removes a lease"
    PURGE_REMOVES_VALUE = "a purge removes the value that was given up"
    # What is forged, or damaged
    FAR_MESSAGE_ENDS_NO_WRITE = "a message of the far future drops the entry, and touches no pending write"
    FAR_VALUE_GIVES_WAY = "a value of the far future is not served, and goes where it is met"
    FAR_FLOOR_REFUSES_NOTHING = "a floor of the far future refuses no hand-off"
    FAR_ENTRY_GIVES_WAY = "a pending entry of the far future is neither read nor applied, and gives way to a hand-off"
    FAR_OUTCOME_ENDS_NO_WRITE = "an outcome of the far future ends no pending write of another version"


@dataclass(frozen=True, eq=False)
class Setup:
    """What never changes while a scenario runs.

    `deaf` are processes that hold nothing in L1, so that messages do not concern them; `apart`: the ledger has a Redis
    of its own; `kept`: L3 keeps some columns of its own, so that what is pending is not what L3 will hold.
    """

    without: frozenset[Rule] = frozenset()
    deaf: frozenset[int] = frozenset()
    deferred: bool = False
    l1: bool = True
    l2: bool = True
    l3: bool = True
    apart: bool = False
    refused: int = -1  # the process whose deferred writes L3 refuses
    kept: bool = False
    fine: bool = False  # whether a read looks and boards in two steps
    locks: bool = False  # whether writers of L3 take the shard's lock in a step of its own
    prompt: bool = False  # whether a deferred write is in L1 at once: to stand still before that is a fault of its own
    calm: bool = False  # no fault happens
    repairs: bool = False  # whether L2 may be unreachable, so that repairs matter

    def keeps(self, rule: Rule) -> bool:
        """Whether the rule is in force."""
        return not self.without or rule not in self.without
