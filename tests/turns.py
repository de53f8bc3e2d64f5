"""What is looked at one day in some, since all of it takes too long for each: `-m long` runs all."""

from __future__ import annotations

import zlib
from datetime import date


def is_today(name: str, turns: int) -> bool:
    """Whether it is the turn of the test, or rule, of this name, which it is on one of so many days in a row."""
    return (zlib.crc32(name.encode()) + date.today().toordinal()) % turns == 0
