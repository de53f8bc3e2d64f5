"""What a store leans on and may be away: said when it goes, once a minute while it is away, and when it is back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from strata.runtime.breaker import Breaker
from strata.waits.clock import Clock
from strata.waits.locks import once_lock

AGAIN = 60.0  # seconds after which what goes on is said once more
MOST = 6  # lines of going and coming within such a time; what comes and goes more often is said afterwards

Say = Callable[[str, str, Mapping[str, Any]], None]  # level, message, fields


class Away(NamedTuple):
    """Why it is away, what to do about it, and since when: by the monotonic clock, and in seconds since 1970."""

    cause: str
    advice: str
    at: float
    since: float


class Lines(NamedTuple):
    """What is said when it goes, and when it is back."""

    gone: str
    back: str


class Outage:
    """One thing that is there or away.

    `tell` are fields of its lines, such as the address and what goes on meanwhile. `because`: others of which this is
    but a consequence; while one of them is away nothing is said of this one. `patience`: seconds that it must have been
    away, and all of those been there, before that is worth a line. Not `expected`: as long as it never was there, its
    absence is no more than INFO, and said once.

    Thread-safe, without a lock that is waited for: `away` is replaced as a whole by any thread; whoever holds `_saying`
    says what is so, and looks once more when it has let go, so that no change is lost. After fork the child calls
    `reset`.
    """

    def __init__(
        self,
        say: Say,
        clock: Clock,
        lines: Lines,
        tell: Callable[[], Mapping[str, Any]] = dict,
        because: Callable[[], Iterable[Outage]] = tuple,
        patience: float = 0.0,
        expected: bool = True,
    ) -> None:
        self._say = say
        self._clock = clock
        self._lines = lines
        self._tell = tell
        self._because = because
        self._patience = patience
        self._expected = expected
        self.reset()

    def reset(self) -> None:
        """As new: nothing is known."""
        self.away: Away | None = None
        self.seen = False  # whether it was ever there
        self.calls = 0  # that went without it since it is away; racing threads may lose a few
        self.troubled_at = 0.0  # when it was last found away
        self.back_at = 0.0
        self._said: Away | None = None
        self._said_at = 0.0
        self._turns: deque[float] = deque(maxlen=MOST)
        self._saying = once_lock()

    def gone(self, cause: str, advice: str = "", *, calls: int = 1) -> None:
        """It is away, as so many calls have found."""
        now = self.troubled_at = self._clock.monotonic()
        before = self.away
        if before is None:
            self.calls = 0
            self.away = Away(cause, advice, now, self._clock.wall())
        elif cause != before.cause:
            self.away = before._replace(cause=cause, advice=advice)
        self.calls += calls
        self.tell()

    def missed(self) -> None:
        """A call went without it."""
        self.calls += 1

    def back(self) -> None:
        """It is there."""
        self.seen = True
        if self.away is not None:
            self.back_at = self._clock.monotonic()
            self.away = None
        if self._said is not None:
            self.tell()

    def fades(self, seconds: float) -> None:
        """Something else went well: it is back if nothing was amiss for so long."""
        if self.away is not None and self._clock.monotonic() >= self.troubled_at + seconds:
            self.back()

    def tell(self) -> None:
        """Say what is to be said now."""
        while self._due() and self._saying.acquire(blocking=False):
            try:
                if self._due():
                    self._one_line()
            finally:
                self._saying.release()

    def _due(self) -> bool:
        now, away = self._clock.monotonic(), self.away
        if away is None:
            return self._said is not None and self._may_turn(now)
        causes = list(self._because())
        if any(cause.away is not None for cause in causes):
            return False
        if self._said is not None:
            return self._reminds and now >= self._said_at + AGAIN
        begun = max([away.at, *(cause.back_at for cause in causes)])
        return now >= begun + self._patience and self._may_turn(now)

    @property
    def _reminds(self) -> bool:
        return self._expected or self.seen

    def _may_turn(self, now: float) -> bool:
        return len(self._turns) < MOST or now >= self._turns[0] + AGAIN

    def _one_line(self) -> None:
        now, away, said = self._clock.monotonic(), self.away, self._said
        if (away is None) is not (said is None):
            self._turns.append(now)
        self._said, self._said_at = away, now
        if away is None:
            lasted = 0.0 if said is None else self.back_at - said.at
            self._say("info", self._lines.back, {**self._tell_less(), "seconds": round(lasted, 1), **self._numbers()})
            return
        fields: dict[str, Any] = {"cause": away.cause, **({"advice": away.advice} if away.advice else {})}
        if said is not None:
            fields |= {"seconds": round(now - away.at), **self._numbers()}
        self._say("warning" if self._reminds else "info", self._lines.gone, {**self._tell(), **fields})

    def _numbers(self) -> dict[str, int]:
        return {"calls": self.calls} if self.calls else {}

    def _tell_less(self) -> dict[str, Any]:
        """Where, but not what went on meanwhile."""
        return {name: value for name, value in self._tell().items() if name != "meanwhile"}


def outages_of(breakers: Iterable[Breaker]) -> list[Outage]:
    """Those that watch the breakers."""
    return [breaker.watcher for breaker in breakers if isinstance(breaker.watcher, Outage)]
