"""What an operator has to mend is said aloud, and not more than once a minute."""

from __future__ import annotations

import math
from typing import Any

from strata.clock import Clock
from strata.observe.log import SafeLogger

AGAIN = 60.0  # seconds after which what goes on is said once more


class Complaints:
    """Thread-safe: `_said` is written by any thread, and saying a thing twice is harmless. It has an entry for each
    message that the code can say."""

    def __init__(self, log: SafeLogger, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[tuple[str, str], float] = {}

    def say(self, msg: str, reason: str, **fields: Any) -> None:
        """A warning, unless it was given within the last minute."""
        now = self._clock.monotonic()
        if now >= self._said.get((msg, reason), -math.inf) + AGAIN:
            self._said[msg, reason] = now
            self._log.warning(msg, reason=reason, **fields)
