"""The encrypted columns of a table, read and replaced without touching anything else of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from strata.errors import ConstraintError
from strata.l3.connection import Connection
from strata.l3.diagnosis import swallowed
from strata.l3.layout import Layout, quote
from strata.l3.outside import own
from strata.l3.statement import ARRAYS, INT8, TEXT


class Sealed(NamedTuple):
    """A row's ciphertexts in the order of `Secrets.names`; None where there is none, or where it is current."""

    key: Any
    texts: tuple[str | None, ...]


class Secrets:
    """Thread-safe: it keeps no state of its own. Methods raise `psycopg.Error`, as those of `Reads` do."""

    def __init__(self, layout: Layout) -> None:
        self.names = tuple(field.name for field in layout.plan.columns if field.encrypted)
        key, table, order = layout.key, layout.table, layout.key.ordered(layout.table)
        # Only what does not begin like a current one is sent: a page costs little where there is nothing to do.
        stale = "".join(
            f", CASE WHEN NOT starts_with({quote(name)}, $1) THEN {quote(name)} END::text" for name in self.names
        )
        page = f"SELECT {layout.shown_key()}{stale} FROM {table}"
        self._first = layout.statement(f"{page} ORDER BY {order} LIMIT $2", TEXT, INT8)
        self._next = layout.statement(
            f"{page} WHERE {key.of()} > {key.given(3)} ORDER BY {order} LIMIT $2", TEXT, INT8, *key.oids
        )
        columns = [(quote(name), f"_strata_o{place}", f"_strata_n{place}") for place, name in enumerate(self.names)]
        given = key.unnested("s", 1, *(old for _, old, _ in columns), *(new for _, _, new in columns))
        types = (*key.arrays, *(ARRAYS[TEXT] for _ in range(2 * len(columns))))
        sets = ", ".join(f"{name} = COALESCE(s.{new}, r.{name})" for name, _, new in columns)
        same = "".join(f" AND (s.{new} IS NULL OR r.{name} = s.{old})" for name, old, new in columns)
        self._replace = layout.statement(
            f"UPDATE {table} AS r SET {sets} FROM {given} WHERE {key.same('r', 's')}{same}{own(layout.name)}",
            *types,
        )
        fresh = " OR ".join(f"s.{new} IS NOT NULL" for *_, new in columns) or "false"
        self._kept = layout.statement(
            f"SELECT 1 FROM {given} JOIN {table} AS r ON {key.same('r', 's')}{same} WHERE {fresh} LIMIT 1",
            *types,
        )
        self._name, self._key = layout.name, key

    def page(self, conn: Connection, after: Any, limit: int, current: str) -> list[Sealed]:
        """Up to `limit` rows in the order of their keys, from the first one beyond `after` (None: from the start).

        Ciphertexts that begin with `current` are left out.
        """
        values = (current, limit) if after is None else (current, limit, *self._key.parts(after))
        statement = self._first if after is None else self._next
        return statement.rows(conn, values, self._sealed)

    def _sealed(self, row: Sequence[Any]) -> Sealed:
        key, texts = self._key.split(row)
        return Sealed(key, texts)

    def replace(self, conn: Connection, rows: Sequence[tuple[Sealed, Sequence[str | None]]]) -> int:
        """Put each row's new ciphertexts (None: none) in the place of the old ones; returns how many rows had them.

        A row that was written meanwhile is left alone, since every write makes another ciphertext. Versions stay.
        Raises `ConstraintError` where a trigger keeps a row as it was.
        """
        old = [[sealed.texts[place] for sealed, _ in rows] for place in range(len(self.names))]
        new = [[texts[place] for _, texts in rows] for place in range(len(self.names))]
        values = (*self._key.columns(sealed.key for sealed, _ in rows), *old, *new)
        count = self._replace.execute(conn, values)
        if count < len(rows) and self._kept.row(conn, values) is not None:
            raise ConstraintError(f"{swallowed(self._name)}; it is still under its old key")
        return count
