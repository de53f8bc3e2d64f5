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
    # Write-through
    INTENT_BEFORE_COMMIT = "the intent is in L2 before COMMIT is sent"
    DROP_AT_INTENT = "receivers drop the key at the intent"
    INTENT_OUTLIVES_COMMIT = "an intent does not expire while its commit may still happen"
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
    BATCH_VOIDS_CLAIMS = "... a batch too, once it has put its record into L1"
    OWN_L2_WRITE_VOIDS_CLAIMS = "... and so does a write to a schema whose lowest tier is L2"
    WRITER_NEEDS_CLAIM = "a writer's own put enters L1 only if its claim is still good"
    NEWER_STAYS_IN_L1 = "a fill does not replace something newer in L1"
    FLIGHT_IS_DETACHED = "a write or message detaches the flight, so that nobody else shares its result"
    CLEAR_AFTER_RESUBSCRIBE = "L1 is cleared after a subscription that broke is confirmed again"
    CLEAR_VOIDS_CLAIMS = "... and claims are voided"
    UNSURE_ASKS_BELOW = "an instance whose subscription broke does not serve L1"
    INVALIDATE_VOIDS_LEASE = "an invalidation removes a lease"
    # L2 unreachable
    REPAIR_ROW = "a commit that L2 was not told of leaves a repair row"
    SKIP_UNREPAIRED = "a writer does not ask L2 for what was not repaired yet"
    SKIP_OUTLASTS_COMMIT = "... until its commit has ended and the repair was done after that"
    REPAIR_REACHES_ITSELF = "who repairs drops the key from its own L1 too"
    BRIEF_WITHOUT_L2 = "what was read while L2 could not be asked stays in L1 for the bus's grace only"
    # Write-behind
    READ_ASKS_BUFFER = "a read asks the own dirty buffer before L2"
    READ_ASKS_LEDGER = "a read that misses L2 asks the ledger"
    LEDGER_BEFORE_L3_ON_MISS = "... before it asks L3"


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
    kept: bool = False
    repairs: bool = False  # whether L2 may be unreachable, so that repairs matter

    def keeps(self, rule: Rule) -> bool:
        """Whether the rule is in force."""
        return not self.without or rule not in self.without
