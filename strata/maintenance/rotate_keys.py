"""`rotate_keys`: every ciphertext under the current key, so that an old key can be taken away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from strata.bound import Bound
from strata.encryption_keys import key_id_of
from strata.engine.rows import text_of
from strata.engine.search import rows_of
from strata.errors import DecodeError, InvalidConfigError, L3RefusedError

if TYPE_CHECKING:
    from strata.crypto import TableCipher
    from strata.l3.secrets import Sealed

CHUNK = 200  # rows of a transaction: its row locks last some milliseconds
TRIES = 5  # of a batch that met other writers in a circle


class Undecrypted(NamedTuple):
    """Ciphertexts that no key of the configuration opens; they were left as they are.

    Attributes:
        column: The column that they stand in.
        key_id: The id of the key that they were made with; None for what is no ciphertext.
        rows: How many.
    """

    column: str
    key_id: str | None
    rows: int


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """What `rotate_keys` did to one schema.

    Attributes:
        schema: Its name.
        rows: Rows that were encrypted anew.
        left: What could not be decrypted, and was left.
    """

    schema: str
    rows: int = 0
    left: tuple[Undecrypted, ...] = ()


class Rotator:
    """Encrypts anew what is not under the current key. Thread-safe: it keeps no state of its own.

    No value changes, so versions stay and no cache is told: a cached record is as right as before. A row that is
    written meanwhile is under its writer's key, and is left alone. What was done stays done, whatever ends the run.
    """

    def rotate(self, bound: Bound, progress: Callable[[int], object] | None = None) -> KeyRotation:
        """All rows of a schema, in the order of their keys; `progress` is told the number looked at so far.

        Raises `InvalidConfigError` without keys, `L3UnavailableError` without L3, or where it does not answer.
        """
        if not bound.plan.has_encrypted:
            return KeyRotation(bound.name)
        l3 = rows_of(bound)
        table, database = l3.table, l3.primary
        cipher = bound.cipher
        if cipher is None:
            raise InvalidConfigError(f"schema {bound.name!r} has Encrypted fields; set Config.encryption_key")
        left: Counter[tuple[str, str | None]] = Counter()
        seen = done = 0
        after: Any = None
        while True:
            with database.connection() as conn:
                rows = table.sealed(conn, after, CHUNK, cipher.prefix)
            stale = [row for row in rows if any(row.texts)]
            fresh = [_Fresh(bound, cipher, table.sealed_names, left).of(row) for row in stale]
            done += self._replace(bound, [pair for pair in zip(stale, fresh, strict=True) if any(pair[1])])
            seen += len(rows)
            if progress is not None:
                progress(seen)
            after = rows[-1].key if len(rows) == CHUNK else None
            if after is None:
                break
        found = sorted(left.items(), key=lambda item: (item[0][0], item[0][1] or ""))
        return KeyRotation(bound.name, done, tuple(Undecrypted(*which, count) for which, count in found))

    def _replace(self, bound: Bound, rows: Sequence[tuple[Sealed, Sequence[str | None]]]) -> int:
        if not rows:
            return 0
        l3 = rows_of(bound)
        table, database = l3.table, l3.primary
        for tries_left in reversed(range(TRIES)):
            try:
                with database.session() as conn:
                    return table.replace_sealed(conn, rows)
            except L3RefusedError as error:
                # A circle of row locks, or a row that moved to another partition: nothing was done.
                if not tries_left or error.sqlstate not in ("40P01", "40001"):
                    raise
        raise AssertionError  # the last try returned or raised


class _Fresh:
    """The new ciphertexts of one row."""

    def __init__(
        self, bound: Bound, cipher: TableCipher, names: Sequence[str], left: Counter[tuple[str, str | None]]
    ) -> None:
        self._bound = bound
        self._cipher = cipher
        self._names = names
        self._left = left

    def of(self, row: Sealed) -> list[str | None]:
        """One for each old ciphertext that could be decrypted; the others are counted."""
        key_text = text_of(self._bound, row.key)
        return [self._again(name, key_text, text) for name, text in zip(self._names, row.texts, strict=True)]

    def _again(self, name: str, key_text: str, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            return self._cipher.encrypt(name, key_text, self._cipher.decrypt(name, key_text, text))
        except DecodeError:
            self._left[name, key_id_of(text)] += 1
            return None
