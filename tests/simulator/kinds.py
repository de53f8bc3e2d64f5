"""The kinds of houses: what is declared in them, and what runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from strata import MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, WriteMode

CALLS = {
    "g": "get", "G": "get_many", "s": "set", "S": "set_many", "d": "delete", "t": "tx", "q": "search",
    "i": "invalidate",
}  # fmt: skip
FAULTS = (
    "kill", "freeze", "cut_redis", "cut_postgres", "freeze_redis", "freeze_postgres", "lose_stream", "lose_session",
    "restart_redis", "restart_postgres", "evict", "clock", "clock_of_redis",
)  # fmt: skip
LETTERS = ("gs", "gs", "gsd", "gsG", "gSt", "gsi", "gsq", "gggssGSdtqi")


@dataclass
class Item:
    """What is written and read; each `text` is written once."""

    id: Annotated[int, PrimaryKey]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """Processes and their tiers; the calls that programs are drawn from, mostly few kinds of them; and faults."""

    name: str
    processes: int = 2
    deferred: bool = False
    l1: bool = True
    l2: bool = True
    letters: tuple[str, ...] = LETTERS
    faults: tuple[str, ...] = FAULTS

    def schemas(self) -> list[Schema[Any]]:
        """Those of each process."""
        mode = WriteMode.WRITE_BEHIND if self.deferred else WriteMode.WRITE_THROUGH
        l1, l2 = MemPolicy(ttl=60) if self.l1 else None, RedisPolicy(ttl=600) if self.l2 else None
        return [Schema(Item, name="item", write_mode=mode, l1=l1, l2=l2, l3=PostgresPolicy())]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("through"),
        # A writer that is killed between its commit and the message leaves others what they have, until L1's time is
        # up (docs/coherence.md): that is no fault of theirs.
        Kind("without L2", l2=False, faults=tuple(fault for fault in FAULTS if fault != "kill")),
        Kind("behind", deferred=True),
        Kind("three", processes=3),
    )
}
