"""What there is: one key in L2, L3 and the ledger, the processes, and where their threads are. All of it immutable.

A version is a counter and the number of the process that stamped it, so that versions are unique; it also stands for
the record that was written with it. 0 is the version of a record that was never there.
"""

from __future__ import annotations

import enum
from typing import Any, NamedTuple, TypeAlias

NODES = 8
"""Versions are `counter * NODES + process`; process 0 wrote before the model began."""

FAR = 1 << 40
"""From here on versions are of the far future, which no process stamps."""

UNDER_WAY = -1
"""The turn of a commit with a repair row that has not ended."""


class Op(enum.IntEnum):
    """What a message says."""

    SET = 0
    DELETE = 1
    INTENT = 2
    INVALIDATE = 3
    PURGE = 4


class Link(enum.IntEnum):
    """A process's subscription: there; broken; known to be broken; there again, but not yet confirmed."""

    FINE = 0
    CUT = 1
    UNSURE = 2
    BACK = 3


class Value(NamedTuple):
    """A value, or, `deleted`, a tombstone. `raw`: as it was written, where L3 keeps some columns of its own."""

    version: int
    deleted: bool
    pending: bool
    raw: bool


class Lease(NamedTuple):
    """A reader missed, and alone may fill."""

    token: str


class Intent(NamedTuple):
    """Writers whose commit is under way."""

    writers: frozenset[str]
    spoiled: bool


Content: TypeAlias = Value | Lease | Intent | None


class Entry(NamedTuple):
    """A record in L1."""

    version: int
    pending: bool
    raw: bool
    brief: bool = False  # gone within the bus's grace


class Message(NamedTuple):
    """A message on its way. Version 0: it has none."""

    op: Op
    version: int
    source: int


class Slot(NamedTuple):
    """The key in the dirty buffer."""

    version: int
    deleted: bool
    unsent: bool
    superseded: int


class Report(NamedTuple):
    """What became of a deferred write, on its way to the process that wrote it."""

    version: int
    failed: bool
    changed: bool


class Proc(NamedTuple):
    """One process: its clock, L1 with the claims that are good, its subscription, its part of write-behind."""

    alive: bool = True
    clock: int = 0
    l1: Entry | None = None
    claims: frozenset[int] = frozenset()  # threads whose claim is good
    flight: int = -1  # the thread whose read others share
    boarded: frozenset[tuple[int, int]] = frozenset()  # (who reads, who waits for it)
    landed: frozenset[tuple[int, Any]] = frozenset()  # (who waited, what it got)
    link: Link = Link.FINE
    inbox: tuple[Message, ...] = ()
    cut: bool = False  # Redis cannot be reached from here
    severed: bool = False  # ... and never will be
    mute: bool = False  # Redis answers, and lets this process neither change nor tell anything any more
    skipped: int = 0  # L2 is not asked until the write of this turn was repaired; UNDER_WAY before it has one
    doubts: int = 0  # times that L2 did not answer since the repairs were looked at
    woken: bool = False  # the repairs' thread
    slot: Slot | None = None
    epoch: int = 0  # of the ledger, as far as known
    reports: tuple[Report, ...] = ()
    handed: int = 0  # the newest version that the ledger was given
    seen: int = 0  # rank of the newest record that this process wrote or read; 0 once no read is to come
    gets: int = 0  # reads to come
    stamps: int = 0  # stamps to come; without any the clock stands still, which makes fewer states


class Row(NamedTuple):
    """The key in L3: the row's version, 0 where there is no row, and the version of its last deletion.

    A write-through schema has no tombstones; there `buried` is for the promises only.
    """

    version: int
    buried: int
    repairs: frozenset[int] = frozenset()
    locks: frozenset[tuple[int, bool]] = frozenset()  # of the shard: thread, alone


class Pending(NamedTuple):
    """An entry of the ledger."""

    version: int
    deleted: bool
    origin: int


class Ledger(NamedTuple):
    """The shard of the key."""

    entry: Pending | None = None
    floor: int = 0
    epoch: int = 1
    dead: frozenset[int] = frozenset()
    untold: frozenset[Pending] = frozenset()


class Left(NamedTuple):
    """What may still happen unasked: faults, evictions from L2 and from L1."""

    faults: int = 0
    evictions: int = 0
    drops: int = 0


class World(NamedTuple):
    """A state of the search."""

    l2: Content
    row: Row
    ledger: Ledger
    procs: tuple[Proc, ...]
    nodes: tuple[Any, ...]
    left: Left
    late: Any = None  # a step that was sent, and whose answer nobody waits for
    intending: frozenset[str] = frozenset()  # tokens of writers whose commit or put is still to come
    down: bool = False  # Redis answers nobody
    history: tuple[tuple[int, bool], ...] = ()  # versions in the order of their commits, and whether it was a deletion
    given_up: frozenset[int] = frozenset()  # versions that became dead letters
    broken: str = ""  # the promise that was not kept

    def proc(self, number: int) -> Proc:
        """A process."""
        return self.procs[number]

    def with_proc(self, number: int, proc: Proc) -> World:
        """The world with a process changed."""
        procs = self.procs
        return self._replace(procs=(*procs[:number], proc, *procs[number + 1 :]))
