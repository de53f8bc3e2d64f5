"""Isolation: the bad records of a batch are found, and all others are written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st

from strata.errors import ConstraintError, InvalidConfigError, L3UnavailableError
from strata.l3.diagnosis import BatchError, Diagnosis
from strata.l3.sqlstates import Failure
from strata.writebehind.persist.isolate import CONTENDED, diagnosis_of, isolate

PERMANENT = Diagnosis(Failure.PERMANENT, "23514")
UNIQUE = Diagnosis(Failure.ORDER, "23505")


class Database:
    """Writes numbers, all or nothing; refuses a part that holds a bad one. `named`: it says which one."""

    def __init__(self, bad: set[int], *, named: bool = False, found: Diagnosis = PERMANENT) -> None:
        self.bad = bad
        self.named = named
        self.found = found
        self.statements = 0
        self.written: list[int] = []

    def write(self, places: Sequence[int]) -> list[str]:
        self.statements += 1
        for index, place in enumerate(places):
            if place in self.bad:
                raise BatchError(self.found, index if self.named else None)
        self.written += places
        return [f"wrote {place}" for place in places]


batches = st.integers(1, 60).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1))))


@given(batches, st.booleans())
def test_exactly_the_bad_records_are_refused_and_all_others_are_written_once(
    case: tuple[int, set[int]], named: bool
) -> None:
    count, bad = case
    database = Database(bad, named=named)
    outcome = isolate(database.write, count)
    assert set(outcome.refused) == bad
    assert sorted(database.written) == sorted(set(range(count)) - bad) == sorted(outcome.written)
    assert all(outcome.written[place] == f"wrote {place}" for place in outcome.written)
    assert not outcome.left and outcome.stopped is None


def test_many_bad_records_that_are_named_do_not_have_the_whole_batch_written_for_each() -> None:
    database = Database(set(range(0, 1000, 2)), named=True)
    sizes: list[int] = []

    def write(places: Sequence[int]) -> list[str]:
        sizes.append(len(places))
        return database.write(places)

    assert len(isolate(write, 1000).refused) == 500
    assert sum(sizes) < 12_000


def test_a_record_that_postgresql_names_costs_one_more_statement() -> None:
    database = Database({700}, named=True)
    isolate(database.write, 1000)
    assert database.statements == 2


def test_one_bad_record_of_a_thousand_is_found_by_bisection() -> None:
    database = Database({700})
    isolate(database.write, 1000)
    assert database.statements <= 21


def test_an_outage_blames_nobody_and_stops_the_batch() -> None:
    def write(places: Sequence[int]) -> list[str]:
        raise L3UnavailableError("PostgreSQL did not answer")

    outcome = isolate(write, 5)
    assert outcome.stopped is not None and outcome.stopped.failure is Failure.OUTAGE
    assert set(outcome.left) == set(range(5)) and not outcome.refused


def test_an_outage_in_the_middle_keeps_what_was_written() -> None:
    database = Database({1})

    def write(places: Sequence[int]) -> list[str]:
        if database.statements == 2:
            raise L3UnavailableError("PostgreSQL did not answer")
        return database.write(places)

    outcome = isolate(write, 4)
    assert set(outcome.written) | set(outcome.left) | set(outcome.refused) == set(range(4))
    assert outcome.stopped is not None


def test_a_batch_that_met_others_is_sent_again() -> None:
    tries = []

    def write(places: Sequence[int]) -> list[str]:
        tries.append(places)
        if len(tries) < CONTENDED:
            raise BatchError(Diagnosis(Failure.CONTENTION, "40P01"))
        return ["done"] * len(places)

    assert set(isolate(write, 3).written) == {0, 1, 2}


def test_a_batch_that_takes_too_long_is_halved() -> None:
    def write(places: Sequence[int]) -> list[str]:
        if len(places) > 2:
            raise BatchError(Diagnosis(Failure.TIMEOUT, "57014"))
        return ["done"] * len(places)

    assert len(isolate(write, 16).written) == 16


def test_what_meets_a_lock_comes_last_the_largest_part_first_and_is_left_once_that_takes_too_long() -> None:
    tried: list[tuple[int, int]] = []
    timed_out = 0

    def write(places: Sequence[int]) -> list[str]:
        nonlocal timed_out
        tried.append((places[0], len(places)))
        if 0 in places:
            timed_out += 1
            raise BatchError(Diagnosis(Failure.TIMEOUT, "55P03"))
        return ["done"] * len(places)

    outcome = isolate(write, 16, lambda: timed_out == 3)
    assert tried == [(0, 16), (0, 8), (8, 8), (0, 4)]
    assert set(outcome.written) == set(range(8, 16)) and set(outcome.left) == set(range(8))
    assert not outcome.refused and outcome.stopped is None


def test_a_batch_too_large_for_memory_is_halved() -> None:
    def write(places: Sequence[int]) -> list[str]:
        if len(places) > 2:
            raise MemoryError
        return ["done"] * len(places)

    assert len(isolate(write, 8).written) == 8


def test_records_that_exchange_a_unique_value_succeed_together_beside_one_that_cannot() -> None:
    def write(places: Sequence[int]) -> list[str]:
        if 4 in places or (1 in places) != (3 in places):
            raise BatchError(UNIQUE)
        return ["done"] * len(places)

    outcome = isolate(write, 6)
    assert set(outcome.refused) == {4}
    assert set(outcome.written) == {0, 1, 2, 3, 5}


def test_a_record_that_makes_the_driver_stumble_is_isolated_and_says_nothing_of_itself() -> None:
    def write(places: Sequence[int]) -> list[str]:
        if 2 in places:
            raise TypeError("cannot adapt 'a secret'")
        return ["done"] * len(places)

    outcome = isolate(write, 4)
    assert set(outcome.refused) == {2}
    assert "secret" not in outcome.refused[2].message


def test_a_time_limit_of_the_task_is_nobody_s_fault() -> None:
    def write(places: Sequence[int]) -> list[str]:
        raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        isolate(write, 4)


def test_a_way_to_the_server_that_cannot_work_is_no_records_fault() -> None:
    assert diagnosis_of(InvalidConfigError("a pooler in between")).failure is Failure.NOT_READY


def test_a_refusal_without_a_sqlstate_is_no_outage() -> None:
    assert diagnosis_of(ConstraintError("a trigger kept the row")).failure is Failure.UNKNOWN
    assert diagnosis_of(L3UnavailableError("away")).failure is Failure.OUTAGE
