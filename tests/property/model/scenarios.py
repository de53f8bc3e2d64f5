"""The scenarios: a few threads each, and at most one fault, small enough that every interleaving is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.property.model import behind, reading, through
from tests.property.model.explore import Scenario, Thread
from tests.property.model.rules import Setup
from tests.property.model.state import Left
from tests.property.model.step import Me, Program
from tests.property.model.surroundings import Fault

Call = Callable[..., Program]

QUIET = Left()
EVICTING = Left(evictions=1)
FORGETFUL = Left(drops=1)
BOTH = Left(evictions=1, drops=1)


def calls(name: str, proc: int, *wanted: tuple[Call, tuple[Any, ...]]) -> Thread:
    """A thread that makes some calls, one after the other."""

    def run(me: Me) -> Program:
        for number, (call, args) in enumerate(wanted):
            yield from call(me._replace(call=number), *args)

    gets = sum(call is reading.get for call, _ in wanted)
    stamps = sum(call in _STAMPING for call, _ in wanted)
    return Thread(name, proc, run, gets=gets, stamps=stamps)


_STAMPING = (through.write, through.own, behind.write, behind.around)

GET = (reading.get, ())
FORCED_GET = (reading.get, (True,))
SEARCH = (reading.search, ())
INVALIDATE = (through.invalidate, ())
SET = (through.write, ())
DELETE = (through.write, (True,))
REFUSED_SET = (through.write, (False, True))
BATCH = (through.write, (False, False, True))
BATCH_DELETE = (through.write, (True, False, True))
OWN_SET = (through.own, ())
OWN_DELETE = (through.own, (True,))
LATER = (behind.write, ())
LATER_DELETE = (behind.write, (True,))
AROUND = (behind.around, ())
DELETE_AROUND = (behind.around, (True,))
UPDATE_BY_HAND = (through.update_by_hand, ())


def repairs(proc: int) -> Thread:
    """The thread that repairs L2."""
    return Thread(f"repairs {proc}", proc, through.repairs, daemon=True)


def flusher(proc: int) -> Thread:
    """The thread that hands off and hears outcomes."""
    return Thread(f"flusher {proc}", proc, behind.flusher, daemon=True)


def worker(proc: int, name: str = "worker") -> Thread:
    """A worker of the fleet."""
    return Thread(name, proc, behind.worker, daemon=True)


def giving_up(proc: int) -> Thread:
    """Who finishes the burials of others."""
    return Thread("undertaker", proc, behind.giving_up, daemon=True)


def through_scenario(
    name: str,
    *threads: Thread,
    deaf: tuple[int, ...] = (),
    fault: Fault | None = None,
    left: Left = QUIET,
    cached: bool = True,
    killable: tuple[int, ...] | None = None,
    **setup: Any,
) -> Scenario:
    """A scenario of synchronous writes. Processes that are `deaf` hold nothing in L1 that anybody looks at."""
    faults = frozenset() if fault is None else frozenset({fault})
    made = Setup(deaf=frozenset(deaf), calm=fault is None, **setup)
    hit = None if killable is None else frozenset(killable)
    return Scenario(name, threads, made, cached=cached, faults=faults, left=left, killable=hit)


def behind_scenario(
    name: str,
    *threads: Thread,
    deaf: tuple[int, ...] = (),
    fault: Fault | None = None,
    left: Left = QUIET,
    killable: tuple[int, ...] | None = None,
    refused: int = -1,
    **setup: Any,
) -> Scenario:
    """A scenario of deferred writes; the workers' process, the last one, is deaf."""
    fleet = max(thread.proc for thread in threads)
    made = through_scenario(
        f"behind: {name}", *threads, deaf=(*deaf, fleet), fault=fault, left=left, deferred=True, **setup
    )
    made = replace(made, setup=replace(made.setup, refused=refused))
    return made if killable is None else replace(made, killable=frozenset(killable))


THROUGH = [
    through_scenario("set, get twice", calls("A", 0, SET), calls("B", 1, GET, GET), deaf=(0,), left=BOTH),
    through_scenario("set, set", calls("A", 0, SET), calls("B", 1, SET), left=EVICTING),
    through_scenario("set, set, get", calls("A", 0, SET), calls("B", 1, SET), calls("C", 2, GET), deaf=(0, 1)),
    through_scenario("set, get, get", calls("A", 0, SET), calls("B", 1, GET), calls("C", 2, GET), deaf=(0,)),
    through_scenario("delete, get twice in one process", calls("A", 0, DELETE), calls("a", 0, GET, GET)),
    through_scenario(
        "update by hand, get twice", calls("A", 0, UPDATE_BY_HAND), calls("B", 1, GET, GET), deaf=(0,), left=EVICTING
    ),
    through_scenario("delete, set, get", calls("A", 0, DELETE), calls("B", 1, SET), calls("C", 2, GET), deaf=(0, 1)),
    through_scenario("delete, set and get", calls("A", 0, DELETE), calls("B", 1, SET, GET), deaf=(0,), left=EVICTING),
    through_scenario("refused set, set and get", calls("A", 0, REFUSED_SET), calls("B", 1, SET, GET), deaf=(0,)),
    through_scenario(
        "set, get, invalidate", calls("A", 0, SET), calls("B", 1, GET), calls("C", 2, INVALIDATE), deaf=(0, 2)
    ),
    through_scenario(
        "batch, get, get in one process", calls("A", 0, BATCH), calls("a", 0, GET), calls("b", 0, GET), left=FORGETFUL
    ),
    through_scenario("set, get twice in one process", calls("A", 0, SET), calls("a", 0, GET, GET), left=FORGETFUL),
    through_scenario("set, get and forced get", calls("A", 0, SET), calls("B", 1, GET, FORCED_GET, GET), deaf=(0,)),
    through_scenario("set, search", calls("A", 0, SET), calls("B", 1, SEARCH), deaf=(0,), left=EVICTING),
    through_scenario(
        "set, search and get in one process", calls("A", 0, SET), calls("B", 1, SEARCH), calls("b", 1, GET), deaf=(0,)
    ),
    through_scenario("killed in a set, get", calls("A", 0, SET), calls("B", 1, GET), deaf=(0,), fault=Fault.KILL),
    through_scenario(
        "killed in a set, set and get", calls("A", 0, SET), calls("B", 1, SET, GET), deaf=(0,), fault=Fault.KILL
    ),
    through_scenario(
        "set, set and get, Redis empty", calls("A", 0, SET), calls("B", 1, SET, GET), deaf=(0,), fault=Fault.RESTART
    ),
    through_scenario(
        "delete, set and get, Redis empty",
        calls("A", 0, DELETE),
        calls("B", 1, SET, GET),
        deaf=(0,),
        fault=Fault.RESTART,
    ),
    through_scenario(
        "set, set and get, an intent evicted",
        calls("A", 0, SET),
        calls("B", 1, SET, GET),
        deaf=(0,),
        fault=Fault.EVICT_INTENT,
    ),
    through_scenario(
        "set, set, get, a writer stands still",
        calls("A", 0, SET),
        calls("B", 1, SET),
        calls("C", 2, GET),
        deaf=(0, 1),
        fault=Fault.EARLY_EXPIRY,
    ),
    through_scenario(
        "set, get twice, a link breaks", calls("A", 0, SET), calls("B", 1, GET, GET), deaf=(0,), fault=Fault.LINK
    ),
    through_scenario(
        "set, set and get, a version is forged",
        calls("A", 0, SET),
        calls("B", 1, SET, GET),
        deaf=(0,),
        fault=Fault.FORGED,
    ),
    through_scenario(
        "set, get, Redis hangs",
        calls("A", 0, SET),
        repairs(0),
        calls("B", 1, GET),
        repairs(1),
        deaf=(0,),
        fault=Fault.HICCUP,
        repairs=True,
    ),
    through_scenario(
        "set, get, get, nothing cached",
        calls("A", 0, SET),
        calls("B", 1, GET),
        calls("C", 2, GET),
        deaf=(0,),
        left=EVICTING,
        cached=False,
    ),
    through_scenario(
        "set, get twice, Redis hangs",
        calls("A", 0, SET),
        repairs(0),
        calls("B", 1, GET, GET),
        repairs(1),
        deaf=(0, 1),
        fault=Fault.HICCUP,
        repairs=True,
        l1=False,
    ),
    through_scenario(
        "set, get, Redis is away",
        calls("A", 0, SET),
        repairs(0),
        calls("B", 1, GET),
        repairs(1),
        deaf=(0,),
        fault=Fault.OUTAGE,
        repairs=True,
    ),
    through_scenario(
        "set and get, cut off from Redis", calls("A", 0, SET, GET), repairs(0), fault=Fault.PARTITION, repairs=True
    ),
    through_scenario("set and get, Redis hangs", calls("A", 0, SET, GET), repairs(0), fault=Fault.HICCUP, repairs=True),
    through_scenario(
        "set, get, an answer of Redis is lost",
        calls("A", 0, SET),
        repairs(0),
        calls("B", 1, GET),
        deaf=(0,),
        fault=Fault.LATE,
        repairs=True,
    ),
    through_scenario(
        "set, get, the writer is cut off from Redis for good",
        calls("A", 0, SET),
        repairs(0),
        calls("B", 1, GET),
        repairs(1),
        deaf=(0,),
        fault=Fault.SEVERED,
        repairs=True,
        killable=(0,),
    ),
    through_scenario(
        "set, get, the writer may not tell",
        calls("A", 0, SET),
        repairs(0),
        calls("B", 1, GET),
        repairs(1),
        deaf=(0,),
        fault=Fault.MUTE,
        repairs=True,
        killable=(0,),
    ),
    through_scenario(
        "set, get twice, nobody may tell",
        calls("A", 0, SET),
        repairs(0),
        calls("B", 1, GET, GET),
        repairs(1),
        deaf=(0,),
        fault=Fault.ALL_MUTE,
        repairs=True,
    ),
    through_scenario(
        "without L2: set, get, the writer is cut off from Redis for good",
        calls("A", 0, SET),
        repairs(0),
        calls("B", 1, GET),
        repairs(1),
        deaf=(0,),
        l2=False,
        fault=Fault.SEVERED,
        repairs=True,
        killable=(0,),
    ),
    through_scenario(
        "without L2: set, get, the writer may not tell",
        calls("A", 0, SET),
        repairs(0),
        calls("B", 1, GET),
        repairs(1),
        deaf=(0,),
        l2=False,
        fault=Fault.MUTE,
        repairs=True,
        killable=(0,),
    ),
    through_scenario(
        "L2 alone: set, get, the writer may not tell",
        calls("A", 0, OWN_SET),
        calls("B", 1, GET, GET, GET),
        deaf=(0,),
        l3=False,
        fault=Fault.MUTE,
        killable=(0,),
    ),
    through_scenario(
        "set, set and get, a COMMIT is late",
        calls("A", 0, SET),
        calls("B", 1, SET, GET),
        deaf=(0,),
        fault=Fault.AMBIGUOUS,
    ),
    through_scenario(
        "delete and set, get, a COMMIT is late",
        calls("A", 0, DELETE, SET),
        calls("B", 1, GET),
        deaf=(0,),
        fault=Fault.AMBIGUOUS,
    ),
    through_scenario("without L2: set, get twice", calls("A", 0, SET), calls("B", 1, GET, GET), deaf=(0,), l2=False),
    through_scenario(
        "without L2: set, set, get", calls("A", 0, SET), calls("B", 1, SET), calls("C", 2, GET), deaf=(0,), l2=False
    ),
    through_scenario(
        "without L2: set, get twice, a link breaks",
        calls("A", 0, SET),
        calls("B", 1, GET, GET),
        deaf=(0,),
        l2=False,
        fault=Fault.LINK,
    ),
    through_scenario(
        "L2 alone: set, set and get", calls("A", 0, OWN_SET), calls("B", 1, OWN_SET, GET), l3=False, left=FORGETFUL
    ),
    through_scenario(
        "L2 alone: delete, set, get twice",
        calls("A", 0, OWN_DELETE),
        calls("B", 1, OWN_SET),
        calls("C", 2, GET, GET),
        deaf=(0, 1),
        l3=False,
        left=BOTH,
    ),
    through_scenario(
        "L2 alone: set and get, get in one process",
        calls("A", 0, OWN_SET, GET),
        calls("a", 0, GET),
        l3=False,
        left=FORGETFUL,
    ),
    through_scenario(
        "L2 alone: set and get, get, an answer is lost",
        calls("A", 0, OWN_SET, GET),
        calls("a", 0, GET),
        l3=False,
        fault=Fault.LATE,
    ),
]
"""Synchronous writes, the caches, and every fault once."""

BEHIND = [
    behind_scenario(
        "set and get, get in one process",
        calls("A", 0, LATER, GET),
        calls("a", 0, GET),
        flusher(0),
        worker(1),
        left=FORGETFUL,
    ),
    behind_scenario(
        "set, get", calls("A", 0, LATER), flusher(0), calls("B", 1, GET), worker(2), deaf=(0,), left=EVICTING
    ),
    behind_scenario(
        "set, get, get forced",
        calls("A", 0, LATER),
        calls("a", 0, GET),
        calls("b", 0, FORCED_GET),
        flusher(0),
        worker(1),
        fine=True,
    ),
    behind_scenario("set and set", calls("A", 0, LATER, LATER), flusher(0), worker(1), left=FORGETFUL),
    behind_scenario("set and delete", calls("A", 0, LATER, LATER_DELETE), flusher(0), worker(1), left=EVICTING),
    behind_scenario(
        "set, set", calls("A", 0, LATER), flusher(0), calls("B", 1, LATER), flusher(1), worker(2), deaf=(1,)
    ),
    behind_scenario(
        "set, delete, two workers",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, LATER_DELETE),
        flusher(1),
        worker(2),
        worker(2, "other"),
        deaf=(0, 1),
    ),
    behind_scenario(
        "set, delete in a batch, locks",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, BATCH_DELETE),
        worker(2),
        deaf=(0, 1),
        locks=True,
    ),
    behind_scenario(
        "set, batch", calls("A", 0, LATER), flusher(0), calls("B", 1, BATCH), worker(2), deaf=(1,), left=EVICTING
    ),
    behind_scenario(
        "set, batch in one process", calls("A", 0, LATER), flusher(0), calls("B", 0, BATCH), worker(1), left=EVICTING
    ),
    behind_scenario(
        "set, batch, a writer stands still",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, BATCH),
        worker(2),
        deaf=(1,),
        fault=Fault.EARLY_EXPIRY,
    ),
    behind_scenario(
        "set, search", calls("A", 0, LATER), flusher(0), calls("B", 1, SEARCH), worker(2), deaf=(0,), left=EVICTING
    ),
    behind_scenario(
        "set, get, search, forced get",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, GET, SEARCH, FORCED_GET),
        worker(2),
        deaf=(0,),
        left=EVICTING,
    ),
    behind_scenario(
        "set and set, killed", calls("A", 0, LATER, LATER), flusher(0), worker(1), killable=(0,), fault=Fault.KILL
    ),
    behind_scenario(
        "set, batch and forced get",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, BATCH, FORCED_GET),
        worker(2),
        deaf=(0,),
        left=EVICTING,
    ),
    behind_scenario(
        "batch, set, get",
        calls("A", 0, BATCH),
        calls("B", 1, LATER),
        flusher(1),
        calls("C", 2, GET),
        worker(3),
        deaf=(0, 1),
    ),
    behind_scenario(
        "batch, set, get twice",
        calls("A", 0, BATCH),
        calls("B", 1, LATER),
        flusher(1),
        calls("C", 2, GET, GET),
        worker(3),
        deaf=(0, 1),
    ),
    behind_scenario(
        "set, set, killed",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, LATER),
        flusher(1),
        worker(2),
        deaf=(0, 1),
        killable=(0, 1),
        fault=Fault.KILL,
    ),
    behind_scenario(
        "set and get, search in one process",
        calls("A", 0, LATER, GET),
        calls("a", 0, SEARCH),
        flusher(0),
        worker(1),
        left=FORGETFUL,
    ),
    behind_scenario(
        "set, get, invalidate in one process",
        calls("A", 0, LATER, GET),
        calls("a", 0, GET),
        calls("b", 0, INVALIDATE),
        flusher(0),
        worker(1),
    ),
    behind_scenario(
        "L3 keeps columns: set and get", calls("A", 0, LATER, GET), flusher(0), worker(1), kept=True, left=BOTH
    ),
    behind_scenario(
        "L3 keeps columns: set, get",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, GET),
        worker(2),
        deaf=(0,),
        kept=True,
        left=EVICTING,
    ),
    behind_scenario("refused: set and get", calls("A", 0, LATER, GET), flusher(0), worker(1), refused=0, left=BOTH),
    behind_scenario(
        "refused: set, get",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, GET),
        worker(2),
        deaf=(0,),
        refused=0,
        left=EVICTING,
    ),
    behind_scenario(
        "refused: set, set",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, LATER),
        flusher(1),
        worker(2),
        deaf=(0,),
        refused=0,
    ),
    behind_scenario(
        "refused: set, batch",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, BATCH),
        worker(2),
        deaf=(0, 1),
        refused=0,
        left=EVICTING,
    ),
    behind_scenario(
        "set, get, a process is killed",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, GET),
        worker(2),
        worker(3, "other"),
        deaf=(0, 2),
        killable=(0, 2),
        fault=Fault.KILL,
    ),
    behind_scenario(
        "refused: set, a worker is killed",
        calls("A", 0, LATER),
        flusher(0),
        worker(1),
        worker(2, "other"),
        giving_up(2),
        deaf=(1,),
        killable=(1,),
        refused=0,
        fault=Fault.KILL,
    ),
    behind_scenario(
        "set and get, the ledger is lost", calls("A", 0, LATER, GET), flusher(0), worker(1), fault=Fault.RESTART
    ),
    behind_scenario(
        "set, get, the ledger is lost",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, GET),
        worker(2),
        deaf=(0,),
        fault=Fault.RESTART,
    ),
    behind_scenario(
        "set and set, an answer is lost", calls("A", 0, LATER, LATER), flusher(0), worker(1), fault=Fault.LATE
    ),
    behind_scenario(
        "set, get, Redis hangs",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, GET),
        worker(2),
        deaf=(0,),
        fault=Fault.HICCUP,
    ),
    behind_scenario(
        "set and get, Redis is away",
        calls("A", 0, LATER, GET),
        flusher(0),
        repairs(0),
        worker(1),
        fault=Fault.OUTAGE,
        repairs=True,
    ),
    behind_scenario(
        "set and get, cut off from Redis",
        calls("A", 0, LATER, GET),
        flusher(0),
        repairs(0),
        worker(1),
        killable=(0,),
        fault=Fault.PARTITION,
        repairs=True,
    ),
    behind_scenario(
        "set and get, a version is forged", calls("A", 0, LATER, GET), flusher(0), worker(1), fault=Fault.FORGED
    ),
    behind_scenario(
        "set and set, a link breaks",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, GET),
        worker(2),
        deaf=(0,),
        fault=Fault.LINK,
    ),
    behind_scenario(
        "set, batch, a COMMIT is late",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, BATCH),
        worker(2),
        deaf=(1,),
        prompt=True,
        fault=Fault.AMBIGUOUS,
    ),
    behind_scenario(
        "ledger apart: set, get",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, GET),
        worker(2),
        deaf=(0,),
        apart=True,
        left=EVICTING,
    ),
    behind_scenario(
        "ledger apart: set, set",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, LATER),
        flusher(1),
        worker(2),
        deaf=(1,),
        apart=True,
    ),
    behind_scenario(
        "ledger apart: set and get, an answer is lost",
        calls("A", 0, LATER, GET),
        flusher(0),
        repairs(0),
        worker(1),
        apart=True,
        fault=Fault.LATE,
        repairs=True,
    ),
    behind_scenario(
        "without L2: set, get twice",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, GET, GET),
        worker(2),
        deaf=(0,),
        l2=False,
    ),
    behind_scenario(
        "around the ledger: set, get",
        calls("A", 0, AROUND),
        repairs(0),
        calls("B", 1, GET),
        worker(2),
        deaf=(0,),
        repairs=True,
        left=EVICTING,
    ),
    behind_scenario(
        "around the ledger: set, get, Redis hangs",
        calls("A", 0, AROUND),
        repairs(0),
        calls("B", 1, GET),
        repairs(1),
        worker(2),
        deaf=(0,),
        repairs=True,
        fault=Fault.HICCUP,
    ),
    behind_scenario(
        "set and get, set",
        calls("A", 0, LATER, GET),
        flusher(0),
        calls("B", 1, LATER),
        flusher(1),
        worker(2),
        deaf=(1,),
    ),
    behind_scenario(
        "refused: set, newer set",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, LATER),
        flusher(1),
        worker(2),
        deaf=(1,),
        refused=1,
    ),
    behind_scenario(
        "refused: set, newer set, a link breaks",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, LATER),
        flusher(1),
        worker(2),
        deaf=(1,),
        refused=1,
        fault=Fault.LINK,
        l1=False,
        left=EVICTING,
    ),
    behind_scenario(
        "set, batch and get in one process", calls("A", 0, LATER), flusher(0), calls("B", 0, BATCH, GET), worker(1)
    ),
    behind_scenario(
        "set and get, set, Redis hangs",
        calls("A", 0, LATER, GET),
        flusher(0),
        calls("B", 1, LATER),
        flusher(1),
        worker(2),
        deaf=(1,),
        fault=Fault.HICCUP,
        l1=False,
    ),
    behind_scenario(
        "set, batch and get, Redis hangs",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, BATCH, GET),
        repairs(1),
        worker(2),
        deaf=(0, 1),
        fault=Fault.HICCUP,
        repairs=True,
        l1=False,
    ),
    behind_scenario(
        "around the ledger: set, delete and get",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, DELETE_AROUND, GET),
        repairs(1),
        worker(2),
        deaf=(0, 1),
        repairs=True,
        l1=False,
    ),
    behind_scenario(
        "around the ledger: set, set and get",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, AROUND, GET),
        repairs(1),
        worker(2),
        deaf=(0, 1),
        repairs=True,
        l1=False,
    ),
    behind_scenario(
        "ledger apart: set, batch",
        calls("A", 0, LATER),
        flusher(0),
        calls("B", 1, BATCH),
        worker(2),
        deaf=(0, 1),
        apart=True,
        left=EVICTING,
    ),
]
"""Deferred writes, the ledger and the fleet."""

SCENARIOS = {scenario.name: scenario for scenario in THROUGH + BEHIND}
"""All of them, by name."""
