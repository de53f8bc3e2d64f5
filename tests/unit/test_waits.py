"""Waiting: who carries it out, and whose turn it is."""

from __future__ import annotations

import threading

from strata import waits
from strata.waits import hub
from strata.waits.nudge import Nudge
from strata.waits.seats import Seats, Turn, Turns
from tests.hubs import OneThread


def taken(turns: Turns, seconds: float = 0.0) -> bool:
    turn = Turn()
    try:
        return turns.take(turn, seconds)
    finally:
        turns.leave(turn)


def test_a_turn_is_one_threads_at_a_time() -> None:
    turns, mine, found = Turns(), Turn(), []
    assert turns.take(mine)
    other = threading.Thread(target=lambda: found.append(taken(turns)))
    other.start()
    other.join()
    assert found == [False]
    turns.leave(mine)
    other = threading.Thread(target=lambda: found.append(taken(turns)))
    other.start()
    other.join()
    assert found == [False, True]


def test_whoever_has_the_turn_may_take_it_once_more_as_a_handler_does() -> None:
    turns, mine = Turns(), Turn()
    assert turns.take(mine)
    assert taken(turns)
    found: list[bool] = []
    other = threading.Thread(target=lambda: found.append(taken(turns)))
    other.start()
    other.join()
    assert found == [False], "the inner one has given the outer one's turn away"


def test_a_turn_ends_with_the_call_that_was_broken_off_before_it_could_leave() -> None:
    turns = Turns()

    def broken_off() -> None:
        turns.take(Turn())

    broken_off()
    found: list[bool] = []
    other = threading.Thread(target=lambda: found.append(taken(turns)))
    other.start()
    other.join()
    assert found == [True]


def test_operations_of_one_thread_take_turns_and_the_thread_goes_on(one_thread: OneThread) -> None:
    turns, order = Turns(), []

    def operation(name: str) -> None:
        turn = Turn()
        try:
            assert turns.take(turn)
            order.append(f"{name} in")
            waits.sleep(0)
            assert taken(turns)
            order.append(f"{name} out")
        finally:
            turns.leave(turn)

    one_thread.run(lambda: operation("a"), lambda: operation("b"), lambda: order.append("c"))
    assert order[0] == "a in" and order.index("c") < order.index("a out")
    assert [step for step in order if step != "c"] == ["a in", "a out", "b in", "b out"]


def test_one_operation_wakes_another_of_its_thread(one_thread: OneThread) -> None:
    nudge = Nudge()
    assert one_thread.run(nudge.wait, nudge.give) == [True, None]
    assert one_thread.run(lambda: nudge.wait(0)) == [False]


def test_seats_are_given_on_within_one_thread(one_thread: OneThread) -> None:
    seats, most = Seats(2), []

    class User:
        pass

    def operation() -> None:
        user = User()
        try:
            assert seats.take(user, 10)
            most.append(seats.used)
            waits.sleep(0)
        finally:
            seats.leave(user)

    one_thread.run(*[operation] * 6)
    assert len(most) == 6 and max(most) == 2


def test_what_is_not_run_by_a_hub_has_its_thread(one_thread: OneThread) -> None:
    assert hub.current() is hub.THREADS
    assert waits.ident() == threading.get_ident()
    idents = one_thread.run(waits.ident, waits.ident)
    assert len({*idents, waits.ident()}) == 3


def test_an_exception_out_of_a_wait_is_the_operation_s(one_thread: OneThread) -> None:
    def fails() -> None:
        raise TimeoutError("away")

    def operation() -> str:
        try:
            waits.call(fails)
        except TimeoutError as error:
            return str(error)
        return ""

    assert one_thread.run(operation, lambda: 7) == ["away", 7]
