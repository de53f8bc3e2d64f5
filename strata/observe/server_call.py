"""What is told of each call of a server, once it has ended."""

from __future__ import annotations

from typing import NamedTuple


class ServerCall(NamedTuple):
    """How long it took, which command or script it was ("" where there may have been several), and what it raised."""

    seconds: float
    operation: str = ""
    error: BaseException | None = None
