"""What of a table, as it is, concerns the statements that write to it.

Tables that Strata made take what is written to them as it is. Other tables may round or pad a value, compute one, or
have a trigger that changes it: there the statements return what the row holds. Or they have columns of which the model
knows nothing and without which PostgreSQL inserts no row: there rows that exist are updated by an UPDATE, which needs
none of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actual:
    """A table as it is.

    `inexact` columns may hold another value than was written, `generated` ones take none; `fixed` ones (GENERATED
    ALWAYS AS IDENTITY) take one at the insert only. `restless` says that a write may change columns that it does not
    carry. `insert_refused` says that PostgreSQL may refuse a row for an INSERT, or do more than insert it, even where
    it exists. `casts` are the types to which a value must be cast. `narrower` columns are of another type than the
    model's, or of a limited one, so that PostgreSQL may refuse them a value that the model allows. `assigned` is the
    expression that makes a Generated key, empty where there is none; `sequence` is what it counts by, where it does.
    """

    inexact: frozenset[str] = frozenset()
    generated: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    restless: bool = False
    insert_refused: bool = False
    casts: tuple[tuple[str, str], ...] = ()
    narrower: frozenset[str] = frozenset()
    assigned: str = ""
    sequence: str = ""

    @property
    def computed(self) -> frozenset[str]:
        """Columns of which a value is left out: of all writes, or of all but the first."""
        return self.generated | self.fixed


AS_MADE = Actual()
"""A table as Strata makes it."""
