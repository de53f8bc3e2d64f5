"""What a query takes for a placeholder is what PostgreSQL takes for one, however quotes and comments meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import pq

from strata.errors import QueryError
from strata.query import Query, scan

# Strings of every kind, with anything in them; names, numbers and parameters that stand close to what follows.
PARTS = (
    "'%s'", "E'%s'", "e'%s'", "$$%s$$", "$a$%s$a$", "$·$%s$·$", "$é1$%s$é1$", "N'%s'", "U&'%s'", "u&'%s' UESCAPE '!'",
    "B'%s'", "x'%s'", '"%s"', 'U&"%s"', "/*%s*/'x'", "/*/*%s*/*/'x'", "--%s\n'x'", "'x'--%s\n", "$1::text", "$2::text",
    "$1", "a$1", "é$1", "1$1", "$1$2", "$1a", "_e'%s'", "(E'%s')", "(%s)", "ARRAY[$1]", "1 +--%s\n 2", "1 */*%s*/ 2",
    "'1'::int", "$1 ::int[]", "CAST($1 AS text)", "$1->>'%s'", "1 <@ $2", "1e'%s'", "0x1E'%s'", "1.e'%s'", "%s",
)  # fmt: skip
PIECES = (
    "'", "''", "\\", "\\'", "\\\\", "$1", "$2", '"', "--", "/*", "*/", "\n", "\r", " ", "·", "E", "$", "$$", "$a$",
    "$·$", "a", "\t", "x'", ";", "(", ")", "é", "1", "_", "\f", "\v", "\u00a0", "&", "!", "+", "@", "::", "💥",
)  # fmt: skip
BETWEEN = (
    "||", " || ", "\n", " ", "--c\n", "/*c*/", "\r", "\n--c\n", "||\n", "\f", "", "\n--c", " \n /**/ ", "\t\n\n",
    "\v\n",
)  # fmt: skip

inside = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
part = st.builds(lambda shape, text: shape.replace("%s", text), st.sampled_from(PARTS), inside)
rest = st.lists(st.builds(str.__add__, st.sampled_from(BETWEEN), part), max_size=4).map("".join)
conditions = st.builds(str.__add__, part, rest)


@pytest.fixture(scope="module")
def server(postgres_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(postgres_dsn, autocommit=True)) as conn:
        yield conn


def accepted(where: str) -> int | None:
    """The highest placeholder of a condition that may be sent, None for one that may not."""
    try:
        highest = max((int(text) for kind, text, _ in scan(where) if kind == "placeholder"), default=0)
        Query(where=where, args=(None,) * highest)
    except QueryError:
        return None
    return highest


@settings(max_examples=800, suppress_health_check=list(HealthCheck))
@given(conditions)
@example("id = $·$ ' $·$); DELETE FROM p; SELECT (1 --'")
@example("id <> E'a'\n'\\'' ) OR (n > -1 --'")
@example("U&'\\' || $1 || '")
@example("/* /* ; */ ; */ true")
def test_what_is_accepted_has_the_placeholders_that_the_server_sees_and_stays_one_condition(
    server: psycopg.Connection[Any], where: str
) -> None:
    highest = accepted(where)
    if highest is None:
        return
    answer = server.pgconn.prepare(b"", f"SELECT (\n{where}\n)".encode())
    if answer.status != pq.ExecStatus.COMMAND_OK:
        message = answer.error_message.decode()
        assert "unterminated" not in message and "multiple commands" not in message
        return
    told = server.pgconn.describe_prepared(b"")
    assert (told.nparams, told.nfields) == (highest, 1)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(conditions)
def test_what_the_server_can_read_as_one_condition_is_accepted(server: psycopg.Connection[Any], where: str) -> None:
    """As far as placeholders without a gap let it be: Strata asks for one argument each."""
    if server.pgconn.prepare(b"", f"SELECT (\n{where}\n)".encode()).status != pq.ExecStatus.COMMAND_OK:
        return
    told = server.pgconn.describe_prepared(b"")
    if told.nfields != 1 or (told.nparams == 2 and "$1" not in where):
        return
    placeholders = {int(text) for kind, text, _ in scan(where) if kind == "placeholder"}
    assert max(placeholders, default=0) == told.nparams
    if placeholders == set(range(1, told.nparams + 1)):
        Query(where=where, args=(None,) * told.nparams)


def test_the_shapes_are_such_that_many_can_be_read(server: psycopg.Connection[Any]) -> None:
    read = 0
    for first in PARTS:
        for text in ("", "a", "$1", "''", "1"):
            where = first.replace("%s", text)
            if accepted(where) is not None:
                read += server.pgconn.prepare(b"", f"SELECT (\n{where}\n)".encode()).status == pq.ExecStatus.COMMAND_OK
    assert read > 60
