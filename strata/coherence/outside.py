"""What an instance does when it hears of rows that were changed outside of Strata.

Its own L1 drops them at once. L2, and instances that do not hear, are seen to by the repairs, from the rows that the
trigger left in L3. What is told is not trusted further than that, since anybody in the database can send
notifications: it can cost a cached copy, and never a write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from strata.bound import Bound
from strata.coherence.inbox import Deferred
from strata.coherence.repairs import Repairs
from strata.errors import StrataError
from strata.model.jsonb import UNREADABLE
from strata.protocol.versions import VersionClock
from strata.schema import Schema

if TYPE_CHECKING:
    from strata.l3.table import Table


class Notice(msgspec.Struct, frozen=True):
    """Keys of a table, as texts, with their versions, negative ones of rows that are gone; None: all of them."""

    table: str
    keys: dict[str, int] | None = None


_decode = msgspec.json.Decoder(Notice).decode


class Outside:
    """Called by the listener's thread only, which alone writes the counters."""

    def __init__(
        self,
        schemas: Mapping[str, Bound],
        repairs: Repairs,
        versions: VersionClock,
        deferred: Callable[[], Deferred | None],
    ) -> None:
        self._schemas = schemas
        self._repairs = repairs
        self._versions = versions
        self._deferred = deferred
        self.notices = 0
        self.unreadable = 0

    def changed(self, text: str) -> None:
        """One notification; what cannot be read is counted, and costs all of L1 that it could be about."""
        self.notices += 1
        try:
            notice = _decode(text)
        except UNREADABLE:
            self.unreadable += 1
            self.returned()
            return
        for bound in self._watching():
            if bound.l3 is not None and bound.rows.table.name == notice.table:
                self._apply(bound, notice.keys)
        self._repairs.wake()

    def returned(self) -> None:
        """Notifications may have been missed: L1 cannot be trusted; repairs that were left meanwhile are due."""
        for bound in self._watching():
            bound.l1.clear()
        self._repairs.wake()

    def tables(self) -> list[tuple[Table, Schema[Any]]]:
        """Of the schemas that have rows, and so may have repairs."""
        return [(bound.rows.table, bound.schema) for bound in list(self._schemas.values()) if bound.l3 is not None]

    def waiting(self) -> None:
        """There are repairs to do."""
        self._repairs.wake()

    def _watching(self) -> list[Bound]:
        return [bound for bound in list(self._schemas.values()) if bound.schema.l3 and bound.schema.l3.watch]

    def _apply(self, bound: Bound, keys: dict[str, int] | None) -> None:
        if keys is None:
            bound.l1.clear()
            return
        deferred = self._deferred() if bound.deferred else None
        for key_text, signed in keys.items():
            version = abs(signed)
            try:
                key = bound.plan.parse_key(key_text)
            except (StrataError, ValueError):
                self.unreadable += 1
                continue
            if not self._versions.believed(version):
                self.unreadable += 1
                bound.l1.forget(key)
                continue
            self._versions.observe(version)
            bound.l1.forget(key, below=version)
            if deferred is not None:
                # An own older write is not read any more; L3 judges it by its version when it arrives.
                deferred.supersede(bound, key, version)
