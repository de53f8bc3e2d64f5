"""What PostgreSQL's errors mean, and what of them may be told."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors

from strata.errors import (
    ConstraintError,
    EncodeError,
    L3RefusedError,
    L3TimeoutError,
    L3UnavailableError,
    MigrationError,
    QueryError,
    TxTimeoutError,
    UnavailableError,
)
from strata.l3 import failures, sqlstates
from strata.l3.diagnosis import BatchError, Diagnosis
from strata.l3.sqlstates import Failure, classify


@pytest.mark.parametrize(
    ("states", "failure"),
    [
        (
            ["", "08006", "08001", "53100", "53300", "57P01", "57P03", "25006", "25P03", "28P01", "3D000"],
            Failure.OUTAGE,
        ),
        (["40001", "40P01"], Failure.CONTENTION),
        (["55P03", "57014", "25P04"], Failure.TIMEOUT),
        (["23503", "23505", "23P01"], Failure.ORDER),
        (["22001", "22003", "22P05", "23502", "23514"], Failure.PERMANENT),
        (["42P01", "42703", "42501", "3F000"], Failure.NOT_READY),
        (["XX000", "P0001", "42601", "0A000", "99999"], Failure.UNKNOWN),
    ],
)
def test_every_sqlstate_has_its_class(states: list[str], failure: Failure) -> None:
    assert {state: classify(state) for state in states} == dict.fromkeys(states, failure)


def server_error(sqlstate: str, text: str = "hush-hush") -> psycopg.Error:
    """An error with an SQLSTATE and a text that nobody may see."""
    return errors.lookup(sqlstate)(text)


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("23505", ConstraintError), ("23502", ConstraintError), ("23514", ConstraintError), ("23503", ConstraintError),
        ("P0001", ConstraintError), ("22003", EncodeError), ("22P02", EncodeError), ("42P01", MigrationError),
        ("42703", MigrationError), ("42501", L3RefusedError), ("57014", L3TimeoutError),
        ("40P01", L3RefusedError), ("53300", L3UnavailableError), ("XX000", L3RefusedError),
    ],
)  # fmt: skip
def test_a_statements_error_is_one_of_the_family_and_tells_nothing_of_the_row(sqlstate: str, kind: Any) -> None:
    driver = server_error(sqlstate)
    error = failures.statement_error(driver)
    assert type(error) is kind
    assert sqlstate in str(error) and error.__cause__ is driver
    assert "hush" not in f"{error}{error!r}{driver}{driver!r}{driver.diag.message_primary}"


# All that the driver knows, which are those of PostgreSQL's appendix.
ALL_STATES = sorted(state for state in errors._sqlcodes if len(state) == 5)
OUTAGES = {
    *(state for state in ALL_STATES if state[:2] in ("08", "28", "3D", "53", "57")),  # nobody is served, or let in
    "25006",
    "25P03",
    "HV00N",  # a standby; a session that the server ended; a server behind this one
} - {"53400", "57014"}  # limits of one statement: its temporary files, its time
KINDS = (
    ConstraintError, EncodeError, MigrationError, L3RefusedError, L3TimeoutError, L3UnavailableError,
)  # fmt: skip


def test_every_class_of_sqlstates_is_in_the_table() -> None:
    assert {state[:2] for state in ALL_STATES} <= set(sqlstates.CLASSES)
    assert all(len(state) in (0, 5) and state[:2] in (*sqlstates.CLASSES, "") for state in sqlstates.STATES)


@pytest.mark.parametrize("sqlstate", ALL_STATES)
def test_only_an_outage_is_told_as_one(sqlstate: str) -> None:
    error = failures.statement_error(server_error(sqlstate))
    assert type(error) in KINDS
    assert isinstance(error, UnavailableError) is (sqlstate in OUTAGES)
    assert (classify(sqlstate) is Failure.OUTAGE) is (sqlstate in OUTAGES)
    assert getattr(error, "sqlstate", sqlstate) == sqlstate
    refused = failures.unavailable(server_error(sqlstate))
    assert isinstance(refused, UnavailableError) is (sqlstate in OUTAGES)


@pytest.mark.parametrize("sqlstate", ["57014", "55P03", "25P04"])
def test_a_time_out_is_a_timeout_error(sqlstate: str) -> None:
    assert isinstance(failures.statement_error(server_error(sqlstate)), TimeoutError)


def test_a_state_that_nobody_knows_is_refused_and_no_outage() -> None:
    for sqlstate in ("ZZ999", "99999", "X"):
        assert sqlstates.meaning(sqlstate).error is L3RefusedError


def test_a_copy_names_its_column_and_nothing_of_the_row() -> None:
    for context, column in [
        ('COPY s, line 3, column name: "hush"', "'name'"),
        ("COPY s, Zeile 3, Spalte name", "'name'"),
        ('COPY s, line 3: "hush, x name: y"', None),
        ('COPY s, line 3, column x: "a"\nSQL function 1', "'x'"),
    ]:
        found = failures._COPY_LINE.search(context)
        assert found is not None and found[1] == "3"
        assert found[2] == (None if column is None else column.strip("'"))


def test_only_a_lost_connection_leaves_the_outcome_open() -> None:
    gone = errors.OperationalError("server closed the connection unexpectedly\n\tThis probably means")
    assert failures.lost(gone)
    error = failures.statement_error(gone, outcome_unknown=True)
    assert isinstance(error, L3UnavailableError) and error.outcome_unknown
    assert "server closed the connection unexpectedly This probably means" in str(error)
    assert not failures.lost(server_error("57014"))


def test_a_value_that_the_driver_refuses_is_permanent_and_not_shown() -> None:
    error = failures.statement_error(errors.DataError("cannot dump hush-hush"))
    assert isinstance(error, EncodeError) and "hush" not in str(error)
    assert failures.diagnose(errors.ProgrammingError("cannot adapt hush")).failure is Failure.PERMANENT


@pytest.mark.parametrize(
    ("sqlstate", "blamed"),
    [
        ("42601", True), ("42703", True), ("22012", True), ("42883", True), ("P0001", True), ("53400", True),
        ("42P01", False), ("42501", False), ("57014", False),
    ],
)  # fmt: skip
def test_a_query_is_to_blame_for_what_its_author_wrote(sqlstate: str, blamed: bool) -> None:
    assert failures.blames_query(server_error(sqlstate)) is blamed
    assert not failures.blames_query(errors.OperationalError("gone"))
    assert isinstance(failures.query_error(server_error("42601"), 0), QueryError)


def test_a_batch_names_its_change_in_the_order_it_was_given() -> None:
    error = failures.row_error(errors.DataError("hush"), 1).at([2, 0, 1])
    assert (error.index, error.diagnosis.failure) == (0, Failure.PERMANENT)
    assert BatchError(Diagnosis(Failure.ORDER)).at([0]).index is None


def test_a_deadline_is_told_with_its_length() -> None:
    error = failures.deadline_error(0.25)
    assert isinstance(error, TxTimeoutError) and "0.25 s" in str(error)
