"""Finding the records to blame in a batch that PostgreSQL refused, so that the others are written.

Decisions only: `write` is given, and writes some of the batch in one transaction or raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded

from strata.errors import InvalidConfigError, MigrationError, StrataError, UnavailableError
from strata.l3.diagnosis import BatchError, Diagnosis
from strata.l3.sqlstates import Failure, classify

T = TypeVar("T")

CONTENDED = 3  # tries of a batch that met others
CIRCLE = 16  # records up to which it is tried which of them stands in the way of the others
SINGLY = 10  # bad records from which on the rest is written one by one


@dataclass(slots=True)
class Outcome(Generic[T]):
    """What became of a batch, by place: what was written, what was refused, and what waits although nothing is wrong
    with it. `stopped`: L3 cannot be written now, whatever the record."""

    written: dict[int, T] = field(default_factory=dict)
    refused: dict[int, Diagnosis] = field(default_factory=dict)
    left: dict[int, Diagnosis] = field(default_factory=dict)
    stopped: Diagnosis | None = None

    def replace(self, places: Sequence[int], again: Outcome[T]) -> None:
        """Take over what became of some places when they were tried again; `again` counts from 0."""
        for place in places:
            del self.written[place]
        self.written.update((places[index], item) for index, item in again.written.items())
        self.refused.update((places[index], found) for index, found in again.refused.items())
        self.left.update((places[index], found) for index, found in again.left.items())
        self.stopped = self.stopped or again.stopped


def isolate(
    write: Callable[[Sequence[int]], Sequence[T]], count: int, enough: Callable[[], bool] = lambda: False
) -> Outcome[T]:
    """Write a batch of `count` records, as much of it as can be.

    Each part that meets a lock, or takes too long, costs a time-out, and so does each half of it that does: they come
    last, the largest first, and `enough` says when they are left for another time.
    """
    outcome: Outcome[T] = Outcome()
    _Batch(write, outcome, enough).run(list(range(count)))
    return outcome


def diagnosis_of(error: Exception) -> Diagnosis:
    """What an error means. A MemoryError asks for less at once; of foreign errors only the class is safe to say."""
    if isinstance(error, BatchError):
        return error.diagnosis
    if isinstance(error, MemoryError):
        return Diagnosis(Failure.TIMEOUT, message="not enough memory for the batch")
    if isinstance(error, InvalidConfigError):  # of the way to the server: no record is to blame, and all of them wait
        return Diagnosis(Failure.NOT_READY, message=str(error))
    if not isinstance(error, StrataError):
        return Diagnosis(Failure.UNKNOWN, message=type(error).__name__)
    cause = error.__cause__
    if isinstance(error, MigrationError) and cause is None:
        return Diagnosis(Failure.NOT_READY, message=str(error))
    sqlstate = getattr(error, "sqlstate", "") or getattr(cause, "sqlstate", None) or ""
    if sqlstate or isinstance(error, UnavailableError):
        return Diagnosis(classify(sqlstate), sqlstate, getattr(error, "constraint", None), str(error))
    return Diagnosis(Failure.UNKNOWN, message=str(error))


class _Batch(Generic[T]):
    def __init__(
        self, write: Callable[[Sequence[int]], Sequence[T]], outcome: Outcome[T], enough: Callable[[], bool]
    ) -> None:
        self._write = write
        self._outcome = outcome
        self._enough = enough
        self._slow: deque[tuple[list[int], Diagnosis]] = deque()  # parts of what took too long, and why that was

    def run(self, places: list[int]) -> None:
        stack = [places]
        while self._outcome.stopped is None and (stack or (self._slow and not self._enough())):
            stack += self._attempt(stack.pop() if stack else self._slow.popleft()[0])
        stopped = self._outcome.stopped
        for part, found in self._slow:
            self._outcome.left.update((place, stopped or found) for place in part)
        if stopped is not None:
            self._outcome.left.update((place, stopped) for part in stack for place in part)
        else:
            self._circle()

    def _attempt(self, part: list[int]) -> list[list[int]]:
        """Write a part; returns the parts to go on with."""
        found, bad = self._try(part)
        if found is None:
            return []
        if found.failure in (Failure.OUTAGE, Failure.NOT_READY):
            self._outcome.stopped = found
        if self._outcome.stopped is not None or found.failure is Failure.CONTENTION:
            self._outcome.left.update((place, found) for place in part)
        elif found.failure is Failure.TIMEOUT:
            if len(part) > 1:
                self._slow += [(half, found) for half in reversed(_halves(part))]
            else:
                self._outcome.left[part[0]] = found
        elif bad is not None or len(part) == 1:
            blamed = part[bad or 0]
            self._outcome.refused[blamed] = found
            rest = [place for place in part if place != blamed]
            return self._singly(rest) or ([rest] if rest else [])
        else:
            return self._singly(part) or _halves(part)
        return []

    def _singly(self, part: list[int]) -> list[list[int]]:
        """The records one by one, once there were many bad ones; empty before."""
        return [[place] for place in part] if len(self._outcome.refused) >= SINGLY else []

    def _try(self, part: Sequence[int]) -> tuple[Diagnosis | None, int | None]:
        """Write a part; returns why not, and the index in it of the record to blame, where those are known."""
        for attempt in range(CONTENDED):
            try:
                written = self._write(part)
            except SoftTimeLimitExceeded:
                raise
            except Exception as error:  # noqa: BLE001 a record that makes the driver stumble must not stop the others
                found = diagnosis_of(error)
                if found.failure is not Failure.CONTENTION or attempt + 1 == CONTENDED:
                    return found, error.index if isinstance(error, BatchError) else None
            else:
                self._outcome.written.update(zip(part, written, strict=True))
                break
        return None, None

    def _circle(self) -> None:
        """Records that were refused one by one may be legal together, as two that exchange a unique value are."""
        refused = self._outcome.refused
        circle = [place for place, found in refused.items() if found.failure is Failure.ORDER]
        if not 2 <= len(circle) <= CIRCLE:
            return
        tries = [circle]
        if len(circle) > 2:
            tries += [[place for place in circle if place != left] for left in circle]
        for part in tries:
            if self._enough():
                return
            if self._try(part)[0] is None:
                for place in part:
                    del refused[place]
                return


def _halves(part: list[int]) -> list[list[int]]:
    middle = len(part) // 2
    return [part[middle:], part[:middle]]
