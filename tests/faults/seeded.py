"""A process of the checker with a known bug in it: `python -m tests.faults.seeded BUG ARGUMENTS...`.

Each bug leaves out one rule of the protocol, as a careless change of Strata might.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable

from strata.coherence.inbox import Inbox
from strata.coherence.repairs import Repairs
from strata.l2.script import Script
from strata.l2.scripts_over import SCRIPTS
from strata.policies import MemPolicy, RedisPolicy
from strata.writebehind.service import WriteBehind
from tests.faults import fresh, history


def fills_need_no_lease() -> None:
    """What a slow reader loaded is stored in L2, whatever was written there since its read began."""
    right = SCRIPTS["fill"].text
    wrong = right.replace("if held[i] == lease then", "if true then")
    assert wrong != right
    SCRIPTS["fill"] = Script("fill", wrong, hashlib.sha1(wrong.encode(), usedforsecurity=False).hexdigest())


def l1_survives_a_lost_subscription() -> None:
    """Whoever comes back to the bus goes on as if it had missed nothing."""
    Inbox.clear = lambda self: None  # type: ignore[method-assign]
    Repairs.replaced = lambda self: None  # type: ignore[method-assign]


def reads_pass_the_dirty_buffer() -> None:
    """What this process wrote and has not handed off is not looked for."""
    WriteBehind.peek = lambda self, bound, key: None  # type: ignore[method-assign]


def refreshes_replace_whatever_is_there() -> None:
    """What was loaded in place of a value that was due is stored, whatever was written meanwhile."""
    right = SCRIPTS["refresh"].text
    wrong = right.replace("if redis.call('MGET', key)[1] == found then", "if true then")
    assert wrong != right
    SCRIPTS["refresh"] = Script("refresh", wrong, hashlib.sha1(wrong.encode(), usedforsecurity=False).hexdigest())
    fresh.OPTIONS["l1"] = MemPolicy(ttl=0.005, fail_safe=1)
    fresh.OPTIONS["l2"] = RedisPolicy(ttl=0.1, eager_refresh=0.05, fail_safe=1)
    history.register = fresh.register


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        fills_need_no_lease,
        l1_survives_a_lost_subscription,
        reads_pass_the_dirty_buffer,
        refreshes_replace_whatever_is_there,
    )
}

if __name__ == "__main__":
    BUGS[sys.argv[1]]()
    history.main(*sys.argv[2:])
