"""What a store says: each line once a minute at most, with the numbers since; outages as a story of two lines."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from strata import StandardLogger
from strata.observe.log import KEPT, SafeLogger
from strata.observe.outages import AGAIN, MOST, Outage
from strata.runtime.breaker import Breaker
from strata.waits.clock import ManualClock

Said = tuple[str, str, dict[str, Any]]


class Lines:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.all: list[Said] = []

    def debug(self, msg: str, **fields: Any) -> None:
        self.all.append(("debug", msg, fields))

    def info(self, msg: str, **fields: Any) -> None:
        self.all.append(("info", msg, fields))

    def warning(self, msg: str, **fields: Any) -> None:
        self.all.append(("warning", msg, fields))

    def error(self, msg: str, **fields: Any) -> None:
        self.all.append(("error", msg, fields))

    @property
    def story(self) -> list[tuple[str, str]]:
        return [(level, msg) for level, msg, _ in self.all]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def log(lines: Lines, clock: ManualClock) -> SafeLogger:
    return SafeLogger(lines, clock)


# -- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_the_same_line_is_given_once_a_minute_with_the_numbers_since(
    log: SafeLogger, lines: Lines, clock: ManualClock, level: str
) -> None:
    for _ in range(3000):
        getattr(log, level)("a write was refused", schema="notes", count=2)
    assert lines.all == [(level, "a write was refused", {"schema": "notes", "count": 2})]
    clock.advance(AGAIN)
    getattr(log, level)("a write was refused", schema="notes", count=2)
    assert lines.all[1:] == [(level, "a write was refused", {"schema": "notes", "count": 6000, "times": 3000})]


def test_what_was_held_back_is_given_when_its_minute_is_over_although_nothing_follows(
    log: SafeLogger, lines: Lines, clock: ManualClock
) -> None:
    for age in range(5):
        log.warning("slow", age=age)
    log.remind()
    assert len(lines.all) == 1
    clock.advance(AGAIN)
    log.remind()
    log.remind()
    assert lines.all[1:] == [("warning", "slow", {"age": 4, "times": 4})]
    log.warning("slow", age=9)
    log.remind(now=True)  # as at the end
    assert lines.all[2:] == [("warning", "slow", {"age": 9})]


def test_lines_about_other_things_do_not_wait_for_each_other_and_debug_waits_for_nobody(
    log: SafeLogger, lines: Lines
) -> None:
    for _ in range(2):
        for schema in ("notes", "players"):
            log.error("hook raised", schema=schema)
        log.debug("detail")
    assert [fields.get("schema") for _, _, fields in lines.all] == ["notes", "players", None, None]


def test_what_is_remembered_of_lines_is_bounded(log: SafeLogger) -> None:
    for number in range(3 * KEPT):
        log.warning("a file is odd", file=str(number))
    assert len(log._lines) <= KEPT


def test_a_logger_that_raises_or_logs_through_the_store_stops_nothing(clock: ManualClock) -> None:
    class Recursive(Lines):
        def warning(self, msg: str, **fields: Any) -> None:
            super().warning(msg, **fields)
            log.warning("odd")
            outage.gone("again")
            raise ValueError("broken")

    lines = Recursive()
    log = SafeLogger(lines, clock)
    outage = log.outage("gone", "back")
    log.warning("odd")
    outage.gone("why")
    assert sorted(lines.story) == [("warning", "gone"), ("warning", "odd")]


def test_a_child_of_a_fork_says_nothing_of_what_its_parent_held_back(
    log: SafeLogger, lines: Lines, clock: ManualClock
) -> None:
    outage = log.outage("gone", "back")
    for _ in range(2):
        log.warning("odd")
        outage.gone("why")
    log.reset()
    clock.advance(AGAIN)
    log.remind()
    assert len(lines.all) == 2 and outage.away is None
    outage.gone("why")
    assert lines.story[2:] == [("warning", "gone")]


def test_the_standard_logger_writes_fields_and_leaves_handlers_and_levels_to_the_application(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("strata")
    assert logger.level == logging.NOTSET and logger.propagate
    with caplog.at_level(logging.WARNING):
        SafeLogger(StandardLogger()).warning("odd", schema="notes", count=3)
        SafeLogger(StandardLogger()).info("unheard")
    assert caplog.messages == ["odd schema='notes' count=3"]


# -- outages ----------------------------------------------------------------------------------------------------------


def test_going_and_coming_back_is_a_line_each_with_where_why_how_long_and_how_many(
    log: SafeLogger, lines: Lines, clock: ManualClock
) -> None:
    meanwhile = {"address": "cache:6379", "meanwhile": "reads go on"}
    outage = log.outage("Redis cannot be used", "Redis can be used again", tell=lambda: meanwhile)
    outage.back()
    for _ in range(40):
        outage.gone("timed out")
        outage.missed()
        clock.advance(1)
    outage.back()
    outage.back()
    assert lines.all == [
        ("warning", "Redis cannot be used", {**meanwhile, "cause": "timed out"}),
        ("info", "Redis can be used again", {"address": "cache:6379", "seconds": 40.0, "calls": 80}),
    ]


def test_an_outage_that_lasts_is_said_once_a_minute_with_its_newest_cause(
    log: SafeLogger, lines: Lines, clock: ManualClock
) -> None:
    outage = log.outage("gone", "back")
    outage.gone("refused")
    since = outage.away
    for second in range(1, 150):
        clock.advance(1)
        outage.gone("refused" if second < 100 else "NOAUTH", "set the password")
    assert [fields.get("seconds") for _, _, fields in lines.all] == [None, 60, 120]
    assert lines.all[-1][2] == {"cause": "NOAUTH", "advice": "set the password", "seconds": 120, "calls": 121}
    assert since is not None and outage.away is not None and outage.away.since == since.since


def test_nothing_is_said_of_a_mere_consequence_nor_of_what_passes_soon(
    log: SafeLogger, lines: Lines, clock: ManualClock
) -> None:
    cause = log.outage("Redis gone", "Redis back")
    other = log.outage("bus gone", "bus back", because=lambda: [cause], patience=3.0)
    other.gone("cut")  # a moment before the cause is known
    cause.gone("refused")
    clock.advance(20)
    other.gone("cut")
    cause.back()
    clock.advance(2)
    other.gone("cut")
    other.back()
    assert lines.story == [("warning", "Redis gone"), ("info", "Redis back")]
    other.gone("NOPERM")
    clock.advance(3)
    log.remind()
    other.back()
    assert lines.story[2:] == [("warning", "bus gone"), ("info", "bus back")]


def test_what_comes_and_goes_all_the_time_fills_no_log_and_its_end_is_said(
    log: SafeLogger, lines: Lines, clock: ManualClock
) -> None:
    outage = log.outage("gone", "back")
    for _ in range(500):
        outage.gone("cut")
        clock.advance(0.1)
        outage.back()
        clock.advance(0.1)
    assert len(lines.all) <= 2 * (MOST + 1)
    clock.advance(AGAIN)
    log.remind()
    assert lines.story[-1] == ("info", "back")


def test_what_may_be_absent_from_the_start_is_said_once_and_is_no_warning(
    log: SafeLogger, lines: Lines, clock: ManualClock
) -> None:
    outage = log.outage("no worker is seen", "a worker is seen", expected=False)
    for _ in range(300):
        outage.gone("none")
        clock.advance(1)
    outage.back()
    outage.gone("none")
    assert lines.story == [
        ("info", "no worker is seen"), ("info", "a worker is seen"), ("warning", "no worker is seen"),
    ]  # fmt: skip


def test_a_partial_trouble_is_over_when_nothing_was_amiss_for_a_while(
    log: SafeLogger, lines: Lines, clock: ManualClock
) -> None:
    outage = log.outage("Redis refuses calls", "Redis refuses no calls any more")
    outage.gone("NOPERM")
    clock.advance(9)
    outage.fades(10)
    outage.gone("NOPERM")
    clock.advance(9)
    outage.fades(10)
    assert len(lines.all) == 1
    clock.advance(1)
    outage.fades(10)
    assert lines.story[1:] == [("info", "Redis refuses no calls any more")]


def test_a_thousand_threads_that_find_it_away_say_so_once(log: SafeLogger, lines: Lines, clock: ManualClock) -> None:
    breaker = Breaker(clock)
    breaker.watcher = outage = log.outage("gone", "back")
    start = threading.Barrier(8)

    def find(away: bool) -> None:
        start.wait()
        for _ in range(125):
            if away:
                breaker.failed("refused", "refused")
            else:
                breaker.succeeded(clock.monotonic())

    for away in (True, False):
        threads = [threading.Thread(target=find, args=[away]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (outage.away is not None) is away
    assert lines.story == [("warning", "gone"), ("info", "back")]


def test_whatever_threads_find_at_once_the_last_word_is_what_is_so(lines: Lines, clock: ManualClock) -> None:
    breaker = Breaker(clock, threshold=1)
    breaker.watcher = outage = SafeLogger(lines, clock).outage("gone", "back")
    for _ in range(30):
        start = threading.Barrier(2)
        threads = [
            threading.Thread(target=lambda act=act, start=start: [start.wait(), act()])
            for act in (lambda: breaker.failed("refused"), lambda: breaker.succeeded(clock.monotonic()))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (outage.away is None) is breaker.closed


def test_a_breaker_tells_its_watcher_of_calls_that_it_turns_away(log: SafeLogger, clock: ManualClock) -> None:
    breaker = Breaker(clock)
    breaker.watcher = outage = log.outage("gone", "back")
    assert isinstance(outage, Outage) and breaker.answered_at is None
    for _ in range(2):
        breaker.failed("no answer at the address", "timed out", "see to it")
    assert outage.away is not None and outage.away[:2] == ("timed out", "see to it")
    assert [breaker.allow() for _ in range(3)] == [False] * 3
    assert outage.calls == 4
    breaker.succeeded(clock.monotonic())
    assert outage.away is None and breaker.answered_at == clock.monotonic()


def test_an_answer_to_what_was_asked_before_the_server_went_does_not_bring_it_back(
    log: SafeLogger, lines: Lines, clock: ManualClock
) -> None:
    breaker = Breaker(clock, threshold=1)
    breaker.watcher = log.outage("gone", "back")
    asked = clock.monotonic()
    clock.advance(0.1)
    breaker.failed("refused", "refused")
    breaker.succeeded(asked)
    assert not breaker.closed and lines.story == [("warning", "gone")]
    clock.advance(0.1)
    breaker.succeeded(clock.monotonic())
    assert breaker.closed and lines.story == [("warning", "gone"), ("info", "back")]
