"""Migration files: their names, their order, and the statements in them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from strata.errors import MigrationError, QueryError
from strata.query import scan

_NAME = re.compile(r"(\d{3,})_[A-Za-z0-9][A-Za-z0-9_.-]*\.sql\Z", re.ASCII)
_ALONE = "-- strata: no-transaction"
_CONTROL = re.compile(r"(BEGIN|START\s+TRANSACTION|COMMIT|END|ROLLBACK(?!\s+TO\b)|ABORT|PREPARE\s+TRANSACTION)\b", re.I)


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One file. `alone` ones run outside a transaction, statement by statement."""

    name: str
    checksum: str
    text: str
    alone: bool
    statements: tuple[str, ...]


def read_files(directory: Path) -> list[MigrationFile]:
    """The `.sql` files of a directory by their numbers.

    Raises `MigrationError` for a bad name, a number used twice, or a text that cannot be run as one migration.
    """
    if not directory.is_dir():
        raise MigrationError(f"{directory} is not a directory; name the one that holds the NNN_description.sql files")
    numbered: dict[int, MigrationFile] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _NAME.match(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not a migration's name; it must be like 001_create_users.sql")
        number = int(match[1])
        if number in numbered:
            raise MigrationError(f"{path.name} and {numbered[number].name} have the same number; give one another")
        numbered[number] = _read(path)
    return [numbered[number] for number in sorted(numbered)]


def _read(path: Path) -> MigrationFile:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MigrationError(f"{path.name} is not UTF-8; save it as UTF-8") from None
    statements = split(text, path.name)
    alone = text.startswith(_ALONE)
    for statement in statements:
        if not alone and _CONTROL.match(statement):
            raise MigrationError(
                f"{path.name} begins or ends a transaction, but runs in one of its own; leave that out, "
                f"or let its first line be {_ALONE!r}"
            )
    return MigrationFile(path.name, hashlib.sha256(content).hexdigest(), text, alone, tuple(statements))


def split(text: str, name: str) -> list[str]:
    """The statements of a text, without their semicolons and comments. Raises `MigrationError` for an open quote."""
    statements, current, start = [], "", 0
    try:
        for kind, mark, place in scan(text, name):
            if kind == "comment":
                current, start = f"{current}{text[start:place]} ", place + len(mark)
            elif mark == ";":
                statements.append(current + text[start:place])
                current, start = "", place + 1
    except QueryError as error:
        raise MigrationError(str(error)) from None
    statements.append(current + text[start:])
    return [statement.strip() for statement in statements if statement.strip()]
