"""Versions follow the reference's clock, and no faulty reading of it."""

from __future__ import annotations

import pytest

from strata.protocol.versions import L3_NODE, LATE_NODES, LEASED, MERGED_NODES, NODE_BITS, ROW_NODE, VersionClock, above


class Still:
    """A clock that stands at 1,000 s, `off` by its wall, and has slept for some."""

    off = slept = 0.0

    def wall(self) -> float:
        return 1000.0 + self.off

    def monotonic(self) -> float:
        return 1000.0

    def steady(self) -> float:
        return 1000.0 + self.slept


def seconds(clock: VersionClock) -> float:
    return (clock.stamp() >> NODE_BITS) / 1e6


LAID = [(MERGED_NODES, LEASED[-1]), (LATE_NODES, LEASED[-1]), (LATE_NODES, ROW_NODE), (LATE_NODES, L3_NODE)]


@pytest.mark.parametrize(("nodes", "node"), LAID)
def test_a_version_of_what_was_laid_together_is_below_each_that_is_stamped_after_its_newest(
    nodes: range, node: int
) -> None:
    newest = 1000 << NODE_BITS | node
    version = newest
    for _ in nodes:
        raised = above(version, nodes)
        assert raised > version
        version = raised
    assert version < 1001 << NODE_BITS < above(version, nodes) < above(version, nodes, 32) < 1002 << NODE_BITS
    clock = VersionClock(Still())
    clock.observe(newest)
    assert clock.stamp() > version


def test_no_two_kinds_of_nodes_meet() -> None:
    kinds = [*LEASED, *MERGED_NODES, L3_NODE, ROW_NODE, *LATE_NODES]
    assert kinds == list(range(1 << NODE_BITS))


@pytest.mark.parametrize("offset", [-5.0, 0.0, 5.0])
def test_a_stamp_has_the_time_of_the_reference(offset: float) -> None:
    clock = VersionClock(Still())
    clock.discipline(1000.0005 + offset, 1000.0, 1000.001)
    assert seconds(clock) == pytest.approx(1000 + offset, abs=0.002)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_reading_that_took_long_moves_no_clock_that_may_be_right(share: float) -> None:
    clock = VersionClock(Still())
    clock.discipline(1000.0 + 3 * share, 1000.0, 1003.0)
    assert seconds(clock) == 1000.0
    assert clock.reference_ms() == 1_000_000


def test_a_reading_that_took_long_still_corrects_what_it_proves_wrong() -> None:
    clock = VersionClock(Still())
    clock.discipline(1060.0, 1000.0, 1003.0)
    assert 1057 <= seconds(clock) <= 1060


@pytest.mark.parametrize("off", [-5.0, 5.0])
def test_what_the_wall_clock_is_set_to_counts_until_the_reference_was_read(off: float) -> None:
    still = Still()
    clock = VersionClock(still)
    still.off = off
    assert seconds(clock) == 1000 + off
    clock.discipline(1000.0, 1000.0, 1000.0)
    still.off = 2 * off
    assert seconds(clock) == pytest.approx(max(1000.0, 1000 + off), abs=0.001)
    assert clock.reference_ms() == 1_000_000


def test_what_the_machine_has_slept_counts_once() -> None:
    still = Still()
    clock = VersionClock(still)
    clock.awoke()
    assert seconds(clock) == 1000.0
    still.slept = 5.0
    clock.discipline(1000.0, 1000.0, 1000.0)
    still.slept = 7.0
    for _ in range(2):
        clock.awoke()
        assert seconds(clock) == pytest.approx(1002.0, abs=0.001)


def at(seconds: float) -> int:
    return int(seconds * 1e6) << NODE_BITS


def test_a_version_more_than_a_minute_ahead_is_nobody_s_and_moves_no_clock() -> None:
    clock = VersionClock(Still())
    clock.discipline(1000.0, 1000.0, 1000.0)
    assert clock.believed(at(1059)) and not clock.believed(at(1061)) and not clock.believed((1 << 63) - 1)
    clock.observe(at(1061))
    assert seconds(clock) == 1000.0
    clock.observe(at(1059))
    assert seconds(clock) > 1059


def test_a_clock_that_ran_ahead_stamps_right_again_once_it_is_corrected() -> None:
    clock = VersionClock(Still())
    clock.discipline(2000.0, 1000.0, 1000.0)
    ahead = clock.stamp()
    clock.discipline(1000.0, 1000.0, 1000.0)
    assert seconds(clock) == pytest.approx(1000.0)
    assert not clock.plausible(ahead)


def test_a_stamp_that_is_interrupted_by_another_is_above_or_below_it_and_never_the_same() -> None:
    class Handled(Still):
        """As a clock during whose reading a signal's handler stamps."""

        inner = 0

        def wall(self) -> float:
            if not self.inner:
                self.inner = -1
                self.inner = clock.stamp()
            return 1000.0

    ticking = Handled()
    clock = VersionClock(ticking)
    with clock._lock:  # the interrupted frame may hold it
        outer = clock.stamp()
    assert ticking.inner > 0 and outer > ticking.inner
    assert clock.stamp() > outer
