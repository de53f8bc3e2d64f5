"""What a dirty buffer is given by the process whose it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from strata.writebehind.dirty.slot import Addition, Slot


@dataclass(frozen=True, slots=True)
class Limits:
    """Up to `most` writes are held, and handed off `interval` seconds after the first, or once `threshold` wait."""

    most: int
    threshold: int
    interval: float


class Counted(NamedTuple):
    """A record with what was added, None where it is not known: `shown` to the caller, `kept` by the process; and
    whether L1 has it."""

    shown: Any = None
    kept: Any = None
    in_l1: bool = False


class Owner(Protocol):
    """What a buffer asks of the process whose it is. All but `wake` are quick, and called while its lock is held."""

    @property
    def source(self) -> str:
        """The name of this instance."""
        ...

    def stamp(self) -> int:
        """A version for a new write."""
        ...

    def count(self, schema: str, key: Any, what: Addition, known: Any) -> Counted:
        """This was added to a record: to L1's copy of it, or else to what is `known` of it."""
        ...

    def counted(self, schema: str, record: Any, deltas: Mapping[str, Any], part: Any) -> Any:
        """A record with this added to its columns, and the columns of a partial one, if there is one, over it; None
        where a column cannot hold its sum."""
        ...

    def age(self, version: int) -> float:
        """Seconds since a version was stamped, by the clock that all have."""
        ...

    def merge(self, schema: str, base: Any, over: Any) -> Any:
        """A record with the columns of a partial one over it."""
        ...

    def carried(self, schema: str, record: Any) -> Sequence[str]:
        """The columns, but for the key, that a record has."""
        ...

    def uncover(self, schema: str, key: Any) -> None:
        """Reads of the key are about to go below again; what was read there while the write covered it may be older
        than the write, and must reach nobody else."""

    def gone(self, slot: Slot) -> None:
        """The slot is not needed any more."""

    def wake(self) -> bool:
        """The first write came, or `threshold` of them wait; whether somebody could be woken. May start a thread."""
        ...
