"""Migration files: their names, their order, and the statements in them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from strata.errors import MigrationError, QueryError, shown
from strata.query import scan

_NAME = re.compile(r"(\d{3,})_[A-Za-z0-9][A-Za-z0-9_.-]*\.sql\Z", re.ASCII)
_ALONE = "-- strata: no-transaction"
_BLANK = " \t\n\r\f\v"  # PostgreSQL's
_CONTROL = re.compile(
    r"(BEGIN|START\s+TRANSACTION|COMMIT|END|ROLLBACK(?!(\s+(WORK|TRANSACTION))?\s+TO\b)|ABORT|PREPARE\s+TRANSACTION)\b",
    re.IGNORECASE,
)
# A routine's body may be statements of its own, each with its semicolon, of which the last thing is END.
_ATOMIC = re.compile(
    r"CREATE\s+(OR\s+REPLACE\s+)?(FUNCTION|PROCEDURE)\b.*\bBEGIN\s+ATOMIC\b", re.IGNORECASE | re.DOTALL
)
_END = re.compile(r"(.*\bATOMIC\s+)?END\Z", re.IGNORECASE | re.DOTALL)


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
    try:
        found = sorted(directory.glob("*.sql")) if directory.is_dir() else None
    except (OSError, ValueError):  # a name that no directory can have
        found = None
    if found is None:
        wanted = "name the one that holds the NNN_description.sql files"
        raise MigrationError(f"{shown(str(directory))} is not a directory that can be read; {wanted}")
    numbered: dict[int, MigrationFile] = {}
    for path in found:
        match = _NAME.match(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not a migration's name; it must be like 001_create_users.sql")
        number = int(match[1])
        if number in numbered:
            raise MigrationError(f"{path.name} and {numbered[number].name} have the same number; give one another")
        numbered[number] = _read(path)
    return [numbered[number] for number in sorted(numbered)]


def _read(path: Path) -> MigrationFile:
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MigrationError(f"{path.name} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise MigrationError(f"{path.name} cannot be read ({type(error).__name__}); let this process read it") from None
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
    """The statements of a text, without their semicolons and comments. Raises `MigrationError` for an open quote.

    What is taken for one statement and is several to the server is refused by it: see `Connection.single`.
    """
    statements, whole, piece, start = [], "", "", 0
    try:
        for kind, mark, place in scan(text, name):
            if kind == "comment":
                piece, start = f"{piece}{text[start:place]} ", place + len(mark)
            elif mark == ";":
                piece, start = piece + text[start:place], place + 1
                whole += piece
                if _ATOMIC.match(whole.strip(_BLANK)) and not _END.match(piece.strip(_BLANK)):
                    whole += ";"
                else:
                    statements.append(whole)
                    whole = ""
                piece = ""
    except QueryError as error:
        raise MigrationError(str(error)) from None
    statements.append(whole + piece + text[start:])
    return [statement.strip(_BLANK) for statement in statements if statement.strip(_BLANK)]
