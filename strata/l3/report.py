"""What a migration says that it did, and what it leaves to a person."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import NamedTuple


class ManualChange(NamedTuple):
    """A difference that `migrate` leaves alone.

    Attributes:
        text: What differs, in words.
        sql: The SQL to write by hand; empty where there is none.
    """

    text: str
    sql: str


class BlockingChange(ManualChange):
    """One without which records of the schemas, or some of them, cannot be written, or a promise is not kept."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What `migrate` did.

    Attributes:
        applied: The statements that were run, in order; empty where nothing had changed.
        manual: What is left to be done by hand.
    """

    applied: tuple[str, ...] = ()
    manual: tuple[ManualChange, ...] = ()

    @property
    def blocking(self) -> tuple[ManualChange, ...]:
        """Those of `manual` without which records of the schemas, or some of them, cannot be written, or changes made
        outside are not seen."""
        return tuple(change for change in self.manual if isinstance(change, BlockingChange))


class MigrationRecord(NamedTuple):
    """What was applied once: one row of `_strata_migrations`.

    Attributes:
        file_name: The file's name, or how a migration that was made from the schemas is called.
        applied_at: When (aware).
        checksum: SHA-256 of what was applied, in hexadecimal.
    """

    file_name: str
    applied_at: datetime.datetime
    checksum: str
