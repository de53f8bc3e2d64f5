"""What goes into L2, as everybody knows it: no driver is imported for it. What comes out is in `strata.l2.content`."""

from __future__ import annotations

from typing import Any

import msgspec


class Put(msgspec.Struct, frozen=True, eq=False):
    """A record, or with None its deletion, on its way into L2. `absent`: L3 was asked, and has no such record. `life`:
    seconds, where it has a life of its own. `unread`: nobody read what L3 has now, so that what is older is taken away,
    and nothing is stored. `since`: that of the schema's markers before it was read, or its commit was announced."""

    key_text: str
    version: int
    record: Any
    message: bytes = b""
    pending: bool = False
    absent: bool = False
    life: float | None = None
    unread: bool = False
    since: int | None = None


def text_of(key: bytes) -> str | None:
    """A key's text; None of what is none, and so not Strata's."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None
