"""What is there at once, in a face where calls are awaited."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Self


class Ready:
    """May be awaited, as what the other calls return; there is nothing to wait for, so it need not be."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Self]:
        return self
        yield
