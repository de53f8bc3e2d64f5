"""What a query takes for a placeholder is what PostgreSQL takes for one, however quotes and comments meet."""

from __future__ import annotations

import random

import psycopg
import pytest
from psycopg import pq

from strata.errors import QueryError
from strata.query import Query, scan

PARTS = (
    "'%s'", "E'%s'", "e'%s'", "$$%s$$", "$a$%s$a$", "$·$%s$·$", "N'%s'", "U&'%s'", "/*%s*/'x'", "--%s\n'x'",
    "'x'--%s\n", "$1::text", "$2::text", "a$1", "(E'%s')", "_e'%s'",
)  # fmt: skip
PIECES = (
    "'", "''", "\\", "\\'", "$1", "$2", '"', "--", "/*", "*/", "\n", "\r", " ", "·", "E", "$", "$$", "$a$", "$·$", "a",
    "\t", "x'", ";", "(", ")", "é", "1", "_", "\f",
)  # fmt: skip
BETWEEN = ("||", " || ", "\n", " ", "--c\n", "/*c*/", "\r", "\n--c\n", "||\n", "\f")


def condition(chance: random.Random) -> str:
    """Some strings and placeholders in a row, which PostgreSQL may or may not be able to read."""
    made = ""
    for number in range(chance.randrange(1, 5)):
        inside = "".join(chance.choices(PIECES, k=chance.randrange(5)))
        made += (chance.choice(BETWEEN) if number else "") + chance.choice(PARTS).replace("%s", inside)
    return made


def accepted(where: str) -> int | None:
    """The highest placeholder of a condition that may be sent, None for one that may not."""
    try:
        highest = max((int(text) for kind, text, _ in scan(where) if kind == "placeholder"), default=0)
        Query(where=where, args=(None,) * highest)
    except QueryError:
        return None
    return highest


@pytest.mark.parametrize("seed", range(3))
def test_what_is_accepted_has_the_placeholders_that_the_server_sees_and_stays_one_condition(
    postgres_dsn: str, seed: int
) -> None:
    chance, read = random.Random(seed), 0
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:
        for _ in range(1500):
            where = condition(chance)
            highest = accepted(where)
            if highest is None:
                continue
            answer = conn.pgconn.prepare(b"", f"SELECT (\n{where}\n)".encode())
            if answer.status != pq.ExecStatus.COMMAND_OK:
                message = answer.error_message.decode()
                assert "unterminated" not in message and "multiple commands" not in message, where
                continue
            told = conn.pgconn.describe_prepared(b"")
            assert (told.nparams, told.nfields) == (highest, 1), where
            read += 1
    assert read > 200
