"""The kinds of houses: what is declared in them, and what runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from strata import (
    Durability,
    Encrypted,
    EncryptionKeys,
    MemPolicy,
    PostgresPolicy,
    PrimaryKey,
    RedisPolicy,
    Schema,
    WriteMode,
)

CALLS = {
    "g": "get", "G": "get_many", "s": "set", "S": "set_many", "d": "delete", "t": "tx", "q": "search",
    "i": "invalidate", "f": "get_past_l1", "c": "search_cached", "W": "warm", "h": "update_by_hand", "w": "wait",
    "b": "set_alone", "B": "delete_alone", "e": "evict", "m": "forget", "x": "set_refused", "l": "flush", "z": "stall",
    "o": "change_outside", "p": "set_part", "P": "set_part_alone", "k": "rotate_keys",
    "n": "insert", "u": "update", "y": "modify", "a": "add", "A": "add_to_default", "v": "set_short", "T": "touch",
    "r": "update_where", "R": "delete_where",
    "O": "add_outside", "Y": "modify_adding",
    "H": "update_by_hand_and_tag", "V": "update_by_hand_and_all", "j": "invalidate_tag",
}  # fmt: skip
OTHERS = "oOhHVwezm"  # calls that are not the store's, or not of it alone
FAULTS = (
    "kill", "freeze", "cut_redis", "cut_postgres", "freeze_redis", "freeze_postgres", "lose_stream", "lose_session",
    "restart_redis", "restart_postgres", "evict", "clock", "clock_of_redis", "redis_down", "postgres_down", "cancel",
)  # fmt: skip
SPAN = 120  # events in which faults happen
LOSSES = (
    "lose_streams", "lose_call", "lose_commit", "slow_call", "slow_read", "mute", "mute_all", "read_only", "fail_over",
    "evict_intent", "crowd_out", "moment",
)  # fmt: skip
KEPT = (
    "kill", "freeze", "cut_redis", "freeze_redis", "lose_stream", "lose_streams", "lose_call", "slow_call", "mute",
    "mute_all", "read_only", "crowd_out", "redis_down", "cancel",
)  # fmt: skip
REFUSED = "x"  # what a text begins with that L3 refuses
LETTERS = ("gs", "gs", "gsd", "gsG", "gSt", "gsi", "gsq", "gsy", "gndu", "gggssGSdtqinuy")


@dataclass
class Item:
    """What is written and read; each `text` is written once."""

    id: Annotated[int, PrimaryKey]
    text: str = ""


@dataclass
class Pair(Item):
    """As above, with another column that can be written apart."""

    note: str = ""


@dataclass
class Tally(Item):
    """As `Item`, with a number that is added to."""

    n: int = 0


@dataclass
class Secret(Item):
    """As `Item`, with a text that is encrypted."""

    text: Annotated[str, Encrypted] = ""


def tag_of(item: Item) -> list[str]:
    """That of a record."""
    return [f"key:{item.id}"]


OLD, NEW = "old", "new"  # keys of encryption, which everybody has: some write under the one, and some under the other


class Aging(NamedTuple):
    """Options of the three policies."""

    l1: Mapping[str, Any] = MappingProxyType({"ttl": 60})
    l2: Mapping[str, Any] = MappingProxyType({"ttl": 600})
    l3: Mapping[str, Any] = MappingProxyType({})


LONG = Aging()


@dataclass(frozen=True, slots=True)
class Kind:
    """Processes and their tiers; the calls that programs are drawn from, mostly few kinds of them; and faults, which
    happen within so many events.

    `apart`: the ledger has a Redis of its own. `config` are settings of each process.
    """

    name: str
    processes: int = 2
    deferred: bool = False
    l1: bool = True
    l2: bool = True
    letters: tuple[str, ...] = LETTERS
    faults: tuple[str, ...] = FAULTS
    l3: bool = True
    programs: tuple[str, ...] = ()  # in place of letters: all calls of an episode, such as '0:gs 1:g'
    span: int = SPAN
    known: tuple[int, ...] = ()  # those that have read the first key before
    steady: bool = False  # whether what a process has read binds what it reads next, with faults too
    aging: Aging = LONG
    apart: bool = False
    keeps: bool = False  # whether L3 makes something else of each text
    config: tuple[tuple[str, Any], ...] = ()
    watch: bool = False  # whether changes made outside are heard of
    model: type[Item] = Item
    tagged: bool = False  # whether each record has a tag of its own

    def keys(self, number: int) -> EncryptionKeys | None:
        """Those of a process: the last one writes under the new key, the others still under the old one."""
        if self.model is not Secret:
            return None
        current = NEW if number == self.processes - 1 else OLD
        return EncryptionKeys(current, {OLD: bytes(32), NEW: bytes(range(32))})

    def schemas(self) -> list[Schema[Any]]:
        """Those of each process."""
        mode = WriteMode.WRITE_BEHIND if self.deferred else WriteMode.WRITE_THROUGH
        aging = self.aging
        l1 = MemPolicy(**aging.l1) if self.l1 else None
        l2 = RedisPolicy(**aging.l2) if self.l2 else None
        l3 = PostgresPolicy(watch=self.watch, **aging.l3) if self.l3 else None
        tags = tag_of if self.tagged else None
        return [Schema(self.model, name="item", write_mode=mode, l1=l1, l2=l2, l3=l3, tags=tags)]


SAFE = Aging(
    {"ttl": 3, "fail_safe": 600},
    {"ttl": 6, "fail_safe": 600},
    {"soft_timeout": 0.1, "hard_timeout": 2},
)
ALIVE = tuple(fault for fault in (*FAULTS, *LOSSES) if fault != "kill")
SHORT = Aging(
    {"ttl": 3, "negative_ttl": 1, "eager_refresh": 0.5, "jitter": 0.1},
    {"ttl": 6, "negative_ttl": 2, "eager_refresh": 0.5, "jitter": 0.1, "lease_wait": 0.5},
)

MARKING = ("gH", "gsH", "gGHd", "gHf", "gHq", "gscWH", "gHVs")
ADDING = ("ga", "gas", "gaf", "gasb", "gaAd", "gaAB", "gayu", "gaY", "gasY", "gaAsdbBGlY")
JOURNAL = ("write_behind_durability", Durability.JOURNAL)
LEDGER_AT_ONCE = ("write_behind_durability", Durability.LEDGER)
RETRY_ONCE = ("write_behind_max_retry", 1)
FULL = ("write_behind_max_dirty", 1)

KINDS = {
    kind.name: kind
    for kind in (
        Kind("through"),
        # A writer that is killed between its commit and the message leaves others what they have, until L1's time is
        # up (docs/coherence.md): that is no fault of theirs.
        Kind("without L2", l2=False, faults=ALIVE),
        Kind("behind", deferred=True),
        Kind("three", processes=3),
        Kind("refused", deferred=True, letters=("gx", "gsx", "gsxb", "gxdB", "sxlf"), config=(RETRY_ONCE,)),
        Kind("kept", deferred=True, keeps=True, letters=("gs", "gsb", "gse", "gsdf", "gsSdtq")),
        Kind("in part", deferred=True, model=Pair, letters=("gp", "gps", "gpP", "gpPs", "gpy", "gpun", "gpGsby")),
        Kind("counted", deferred=True, model=Tally, letters=ADDING),
        Kind("counted through", model=Tally, letters=ADDING),
        Kind("counted apart", deferred=True, apart=True, model=Tally, letters=ADDING, faults=(*FAULTS, *LOSSES)),
        Kind("counted at once", deferred=True, model=Tally, letters=ADDING, config=(LEDGER_AT_ONCE,)),
        Kind("counted, journal", deferred=True, model=Tally, letters=ADDING, config=(JOURNAL,)),
        Kind("counted, full", deferred=True, model=Tally, letters=ADDING, config=(FULL,)),
        Kind(
            "counted, watched", deferred=True, model=Tally, letters=("gaO", "gasO", "gaYO", "gaAsdbBGlYO"), watch=True
        ),
        Kind("counted by three", processes=3, deferred=True, l2=False, model=Tally, letters=ADDING, faults=ALIVE),
        Kind("sealed", model=Secret, letters=("gk", "gsk", "gsdk", "gSkt", "gsqk", "gyku"), faults=(*FAULTS, *LOSSES)),
        Kind("sealed behind", deferred=True, model=Secret, letters=("gk", "gsk", "gskb", "gskdf", "gskSdtq")),
        Kind("apart", deferred=True, apart=True, faults=(*FAULTS, *LOSSES)),
        Kind("at once", deferred=True, config=(LEDGER_AT_ONCE,)),
        Kind(
            "at once, apart",
            deferred=True,
            apart=True,
            letters=("gs", "gsb", "gsdG", "gsft"),
            config=(LEDGER_AT_ONCE,),
        ),
        Kind("behind without L2", deferred=True, l2=False, letters=("gs", "gsb", "gsdG", "gsqt"), faults=ALIVE),
        Kind("full", deferred=True, letters=("gsS", "gsSd", "gsdG"), config=(FULL,)),
        Kind("journal", deferred=True, config=(JOURNAL,)),
        Kind(
            "forged",
            deferred=True,
            faults=("forge",),
            letters=("gs", "gsb", "gsd", "gsx", "gsdBf"),
            config=(RETRY_ONCE,),
        ),
        Kind("rights", faults=("mute", "mute_all", "read_only", "cut_redis", "lose_call")),
        Kind("links", faults=("lose_streams", "lose_call", "lose_commit", "slow_call", "slow_read", "moment", "kill")),
        Kind("cancelled", faults=("cancel",)),
        Kind("cancelled behind", deferred=True, faults=("cancel",), letters=("gs", "gsb", "gsdS", "gsl")),
        Kind("failover", faults=("fail_over", "restart_redis", "lose_streams", "evict", "evict_intent")),
        Kind("without L1", l1=False, faults=(*FAULTS, *LOSSES)),
        Kind("L2 alone", l3=False, letters=("gs", "gsd", "gsG", "gSd", "gsf", "gsi", "gsy", "gndu"), faults=KEPT),
        Kind("lives", l3=False, letters=("gvw", "gvTw", "gvTsw", "gvTwGd", "gvTwfyi", "gvSTwu"), faults=KEPT),
        Kind("touched", letters=("gTs", "gTvs", "gTvfG", "gTvsdtSqy"), faults=(*FAULTS, *LOSSES), aging=SHORT),
        Kind("touched behind", deferred=True, letters=("gTs", "gTvsb", "gTvfG", "gTvsdBtSqy"), aging=SHORT),
        # A change by hand of which nobody lives to tell is not told.
        Kind("by hand", letters=("gh", "gs", "gsh", "gGhd", "ghf", "ghq", "gscWh"), faults=ALIVE),
        Kind("tagged", letters=MARKING, faults=ALIVE, tagged=True),
        Kind("marked", letters=tuple(some.replace("H", "V") for some in MARKING), faults=ALIVE),
        Kind("tagged without L2", letters=MARKING, faults=ALIVE, l2=False, tagged=True),
        Kind("tagged, aging", letters=("gHw", "gsHw", "gHsdwGf"), faults=ALIVE, aging=SHORT, tagged=True),
        Kind("tagged behind", deferred=True, letters=("gsj", "gsjb", "gsdjf", "gsjlW"), tagged=True),
        Kind("bulk", letters=("gqs", "gWs", "gcs", "gfs", "gGs", "gqWcsd"), faults=(*FAULTS, *LOSSES)),
        Kind("by a query", letters=("gr", "grs", "gGrR", "grRsd", "grtSG"), faults=(*FAULTS, *LOSSES)),
        Kind("by a query behind", deferred=True, letters=("gr", "grs", "grRs", "grsdf", "grRbBS")),
        Kind("by a query in part", deferred=True, model=Pair, letters=("gr", "grp", "grpP", "grpRs", "grPsd")),
        Kind("fresh", letters=("gsw", "gdw", "gsdwGf"), faults=(*FAULTS, *LOSSES), aging=SHORT),
        Kind("watched", letters=("go", "gos", "goGd", "goq", "gof"), faults=(*FAULTS, *LOSSES), watch=True),
        Kind("fail-safe", letters=("gsw", "gdw", "gsdwGf"), faults=(*FAULTS, *LOSSES), aging=SAFE),
    )
}
