"""What a dirty buffer is given by the process whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from strata.writebehind.dirty.slot import Addition, Slot


@dataclass(frozen=True, slots=True)
class Limits:
    """Up to `most` writes are held, and handed off `interval` seconds after the first, or once `threshold` wait."""

    most: int
    threshold: int
    interval: float


class Owner(Protocol):
    """What a buffer asks of the process whose it is. All but `wake` are quick, and called while its lock is held."""

    @property
    def source(self) -> str:
        """The name of this instance."""

    def stamp(self) -> int:
        """A version for a new write."""

    def count(self, schema: str, key: Any, what: Addition, known: Any) -> tuple[Any, Any]:
        """This was added to a record: L1's copy of it, or else what is `known` of it, with that; and as much of that as
        L1 has not."""

    def merge(self, schema: str, base: Any, over: Any) -> Any:
        """A record with the columns of a partial one over it."""

    def carried(self, schema: str, record: Any) -> Sequence[str]:
        """The columns, but for the key, that a record has."""

    def uncover(self, schema: str, key: Any) -> None:
        """Reads of the key are about to go below again; what was read there while the write covered it may be older
        than the write, and must reach nobody else."""

    def gone(self, slot: Slot) -> None:
        """The slot is not needed any more."""

    def wake(self) -> bool:
        """The first write came, or `threshold` of them wait; whether somebody could be woken. May start a thread."""
