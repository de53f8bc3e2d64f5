"""The dirty buffer: one write a key, none lost, reads get the newest."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strata.errors import ClosedError
from strata.waits.clock import ManualClock
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.owner import Counted, Limits
from strata.writebehind.dirty.slot import Addition, Buffered, OwnWrite, Slot
from strata.writebehind.ledger.shard import home_of

BEGAN = ManualClock().monotonic()


def own(
    version: int, record: dict[str, int] | None, partial: bool, *, newest: bool = True, oldest: int = 0
) -> OwnWrite:
    """What is read of a write that was made before the clock moved."""
    return OwnWrite(version, record, partial, newest, BEGAN, oldest or version)


class Buffer:
    """A buffer whose records are dicts of columns; a version is whatever the test says."""

    def __init__(self, most: int = 100, threshold: int = 10) -> None:
        self.clock = ManualClock()
        self.wakes = 0
        self.refused = 0  # of these first calls
        self.uncovered: list[tuple[Any, OwnWrite | None]] = []
        self.stamps = itertools.count(1000)
        self.buffer = DirtyBuffer(Limits(most, threshold, 1.0), self.clock, self)

    def put(self, key: str, version: int, record: dict[str, int] | None, *, partial: bool = False) -> Any:
        return self.buffer.put("things", key, key, Buffered(version, record, partial))

    def hand_off(self) -> list[tuple[str, int]]:
        batch = self.buffer.take(1000)
        for slot, item in batch:
            self.buffer.sent([(slot, item.version)], self.clock.monotonic())
        return [(slot.key_text, item.version) for slot, item in batch]

    # What the buffer asks of its owner.

    source = "me"

    def stamp(self) -> int:
        return next(self.stamps)

    def count(self, schema: str, key: str, what: Addition, known: dict[str, int] | None) -> Counted:
        found = None if known is None else {name: held + what.deltas.get(name, 0) for name, held in known.items()}
        return Counted(found, found)

    def counted(self, schema: str, record: dict[str, int], deltas: Mapping[str, int], part: Any) -> dict[str, int]:
        both: dict[str, int] = record | (part or {})
        return {name: held + deltas.get(name, 0) for name, held in both.items()}

    def age(self, version: int) -> float:
        return 0.0

    def merge(self, schema: str, base: dict[str, int], over: dict[str, int]) -> dict[str, int]:
        return base | over

    def carried(self, schema: str, record: dict[str, int]) -> tuple[str, ...]:
        return tuple(record)

    def uncover(self, schema: str, key: Any) -> None:
        self.uncovered.append((key, self.buffer.peek(schema, key)))

    def gone(self, slot: Slot) -> None:
        """Nobody keeps a journal of it."""

    def wake(self) -> bool:
        self.wakes += 1
        return self.wakes > self.refused


@pytest.fixture
def dirty() -> Buffer:
    return Buffer()


def test_keys_that_are_written_again_and_again_are_no_reason_to_hand_off_early() -> None:
    dirty = Buffer(threshold=3)
    for version in range(1, 4):
        dirty.put("abc"[version - 1], version, {"x": version})
    assert (dirty.buffer.fresh, dirty.wakes) == (3, 2)  # the first of them, and the third
    dirty.hand_off()
    for version in range(4, 7):
        dirty.put("abc"[version - 4], version, {"x": version})
    assert (dirty.buffer.fresh, dirty.wakes, dirty.buffer.unsent) == (0, 3, 3)
    for version in range(7, 10):
        dirty.put("def"[version - 7], version, {"x": version})
    assert (dirty.buffer.fresh, dirty.wakes) == (3, 4)


def test_a_key_written_often_is_one_write_of_its_newest_version(dirty: Buffer) -> None:
    for version in range(1, 6):
        dirty.put("a", version, {"x": version})
    assert len(dirty.buffer) == 1
    assert dirty.hand_off() == [("a", 5)]


def test_a_key_that_is_written_all_the_time_keeps_its_place_in_the_queue(dirty: Buffer) -> None:
    dirty.put("hot", 1, {})
    dirty.put("cold", 2, {})
    dirty.put("hot", 3, {})
    assert [slot.key_text for slot, _ in dirty.buffer.take(1)] == ["hot"]


def test_an_older_version_never_takes_the_place_of_a_newer_one(dirty: Buffer) -> None:
    dirty.put("a", 5, {"x": 5})
    dirty.put("a", 4, {"x": 4})
    assert dirty.buffer.peek("things", "a") == own(5, {"x": 5}, False)


def test_a_write_stays_until_l3_has_it(dirty: Buffer) -> None:
    dirty.put("a", 1, {"x": 1})
    dirty.hand_off()
    assert dirty.buffer.peek("things", "a") == own(1, {"x": 1}, False)
    assert dirty.buffer.confirm("things", [("a", 1)]) == []
    assert len(dirty.buffer) == 0


def test_the_outcome_of_an_older_version_does_not_remove_a_newer_write(dirty: Buffer) -> None:
    dirty.put("a", 1, {"x": 1})
    dirty.hand_off()
    dirty.put("a", 2, {"x": 2})
    dirty.buffer.confirm("things", [("a", 1)])
    assert dirty.hand_off() == [("a", 2)]


def test_a_write_that_came_while_the_older_one_was_handed_off_is_handed_off_too(dirty: Buffer) -> None:
    dirty.put("a", 1, {"x": 1})
    [(slot, item)] = dirty.buffer.take(10)
    dirty.put("a", 2, {"x": 2})
    dirty.buffer.sent([(slot, item.version)], 0.0)
    assert dirty.hand_off() == [("a", 2)]


def test_a_superseded_write_is_read_only_where_the_newer_one_cannot_be(dirty: Buffer) -> None:
    dirty.put("a", 1, {"x": 1})
    dirty.buffer.supersede("things", "a", 2)
    assert dirty.buffer.peek("things", "a") == own(1, {"x": 1}, False, newest=False)
    assert len(dirty.buffer) == 1
    dirty.put("a", 3, {"x": 3})
    assert dirty.buffer.peek("things", "a") == own(3, {"x": 3}, False)


def test_partial_writes_merge_by_column(dirty: Buffer) -> None:
    dirty.put("a", 1, {"x": 1, "y": 1}, partial=True)
    dirty.put("a", 2, {"y": 2}, partial=True)
    assert dirty.buffer.peek("things", "a") == own(2, {"x": 1, "y": 2}, True, oldest=1)
    [(_, item)] = dirty.buffer.take(10)
    assert item.ages == (("x", 1),)  # what another process wrote to x at 1.5 is not undone by the write of y


def test_a_partial_write_over_a_whole_one_is_whole(dirty: Buffer) -> None:
    dirty.put("a", 1, {"x": 1, "y": 1})
    dirty.hand_off()
    dirty.put("a", 2, {"y": 2}, partial=True)
    assert dirty.buffer.peek("things", "a") == own(2, {"x": 1, "y": 2}, False, oldest=1)
    dirty.buffer.supersede("things", "a", 2)
    assert dirty.buffer.peek("things", "a") == own(2, {"x": 1, "y": 2}, False, newest=False, oldest=1)


def test_a_partial_write_over_a_pending_deletion_is_refused(dirty: Buffer) -> None:
    dirty.put("a", 1, None)
    assert dirty.put("a", 2, {"y": 2}, partial=True).orphan
    assert dirty.buffer.peek("things", "a") == own(1, None, False)


def test_a_whole_write_that_was_stamped_before_a_partial_one_is_its_base_whichever_comes_first(dirty: Buffer) -> None:
    dirty.put("a", 2, {"y": 2}, partial=True)
    dirty.hand_off()
    dirty.put("a", 1, {"x": 1, "y": 1})
    item = dirty.buffer.peek("things", "a")
    assert item == own(1000, {"x": 1, "y": 2}, False, oldest=1)  # a new version: the ledger has the partial one
    assert dirty.hand_off() == [("a", 1000)]


def test_a_full_buffer_lets_go_of_what_is_safe_in_the_ledger_and_goes_on_waiting_for_it() -> None:
    dirty = Buffer(most=2)
    dirty.put("a", 1, {})
    dirty.put("b", 2, {})
    assert not dirty.put("c", 3, {}).room
    dirty.hand_off()
    assert dirty.put("c", 3, {}).room
    assert dirty.buffer.left() == {home_of("things", "a"): 1}
    assert len(dirty.buffer) == 3
    dirty.buffer.drained(home_of("things", "a"), 1)
    assert dirty.buffer.left() == {} and len(dirty.buffer) == 2


def test_a_full_buffer_still_takes_newer_writes_of_its_keys() -> None:
    dirty = Buffer(most=1)
    dirty.put("a", 1, {"x": 1})
    assert dirty.put("a", 2, {"x": 2}).room


def test_when_the_ledger_was_lost_everything_kept_is_handed_off_again(dirty: Buffer) -> None:
    dirty.put("a", 1, {})
    dirty.put("b", 2, {})
    dirty.hand_off()
    dirty.buffer.confirm("things", [("a", 1)])
    assert dirty.buffer.lost(home_of("things", "b")) == 1
    assert dirty.hand_off() == [("b", 2)]


def test_what_was_given_up_is_dropped_up_to_its_version(dirty: Buffer) -> None:
    dirty.put("a", 1, {})
    dirty.put("b", 5, {})
    dirty.buffer.drop("things", "a", 1)
    dirty.buffer.drop("things", "b", 4)
    assert dirty.hand_off() == [("b", 5)]


def test_the_first_write_and_the_threshold_wake_the_flusher(dirty: Buffer) -> None:
    for number in range(25):
        dirty.put(f"k{number}", number + 1, {})
    assert dirty.wakes == 2


def test_a_flusher_that_could_not_start_is_woken_by_the_next_write(dirty: Buffer) -> None:
    dirty.refused = 3
    for number in range(6):
        dirty.put(f"k{number}", number + 1, {})
    assert dirty.wakes == 4


def test_writes_asked_after_go_to_the_end_of_the_queue(dirty: Buffer) -> None:
    dirty.put("a", 1, {})
    dirty.put("b", 2, {})
    dirty.hand_off()
    dirty.clock.advance(10)
    now = dirty.clock.monotonic()
    waiting = dirty.buffer.kept(now, 1)
    assert [slot.key_text for slot, _ in waiting] == ["a"]
    dirty.buffer.tried([slot for slot, _ in waiting], now)
    assert [slot.key_text for slot, _ in dirty.buffer.kept(now - 1, 10)] == ["b"]


def test_a_write_that_was_given_up_is_not_read_any_more_and_counts_until_that_was_told(dirty: Buffer) -> None:
    dirty.put("a", 1, {"x": 1})
    dirty.hand_off()
    dirty.buffer.give_up("things", "a", 1)
    assert dirty.buffer.peek("things", "a") is None and len(dirty.buffer) == 1
    dirty.put("a", 2, {"x": 2})
    assert dirty.buffer.peek("things", "a") == own(2, {"x": 2}, False)


def test_reads_that_began_while_a_write_covered_the_key_are_void_before_it_stops_to_do_so(dirty: Buffer) -> None:
    endings: dict[str, Callable[[], object]] = {
        "confirmed": lambda: dirty.buffer.confirm("things", [("confirmed", 1)]),
        "superseded": lambda: dirty.buffer.supersede("things", "superseded", 2),
        "given up": lambda: dirty.buffer.give_up("things", "given up", 1),
        "dropped": lambda: dirty.buffer.drop("things", "dropped", 1),
    }
    for key, end in endings.items():
        dirty.put(key, 1, {"x": 1})
        end()
        assert dirty.uncovered.pop() == (key, own(1, {"x": 1}, False))
        left = dirty.buffer.peek("things", key)
        assert left is None or not left.newest


def test_a_new_write_is_stamped_in_the_same_step_as_it_is_taken(dirty: Buffer) -> None:
    assert dirty.buffer.write("things", "a", "a", Buffered(0, {"x": 1}, False)).version == 1000
    assert dirty.buffer.peek("things", "a") == own(1000, {"x": 1}, False)


@given(st.lists(st.tuples(st.sampled_from(["put", "send", "confirm", "supersede", "drop", "wait"]), st.integers(0, 4))))
def test_the_oldest_write_and_those_overtaken_are_found_without_a_look_at_each(steps: list[tuple[str, int]]) -> None:
    dirty = Buffer(most=3)
    buffer, version = dirty.buffer, 0
    for step, number in steps:
        key, version = f"k{number}", version + 1
        if step == "put":
            dirty.put(key, version, {"a": version})
        elif step == "send":
            dirty.hand_off()
        elif step == "confirm":
            buffer.confirm("things", [(key, version - number)])
        elif step == "supersede":
            buffer.supersede("things", key, version + 1 - number)
        elif step == "drop":
            buffer.drop("things", key, version - number)
        dirty.clock.advance(1.0)
        now, slots = dirty.clock.monotonic(), [slot for slot, _ in buffer.pending()]
        assert buffer.age(now) == now - min([slot.born for slot in slots], default=now)
        assert {slot.key for slot, _ in buffer.overtaken()} == {slot.key for slot in slots if slot.overtaken}


class Released:
    """A lock, after whose release by one thread something else happens first."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.late: threading.Thread | None = None
        self.released, self.go = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if threading.current_thread() is self.late:
            self.released.set()
            assert self.go.wait(15)


def test_a_write_that_makes_the_threshold_while_another_wakes_the_flusher_wakes_it_too() -> None:
    dirty = Buffer(threshold=2)
    lock: Any = Released(dirty.buffer._lock)
    dirty.buffer._lock = lock
    late = lock.late = threading.Thread(target=lambda: dirty.put("b", 2, {}))
    wake = dirty.wake

    def woken() -> bool:
        if late.ident is None:
            late.start()
            assert lock.released.wait(15)  # it has put its write, and is about to look whether to wake
        return wake()

    dirty.wake = woken  # type: ignore[method-assign]
    dirty.put("a", 1, {})
    lock.go.set()
    late.join()
    assert dirty.wakes == 2


def test_when_the_process_is_about_to_end_only_what_is_safe_elsewhere_is_taken(dirty: Buffer) -> None:
    dirty.put("a", 1, {"x": 1})
    dirty.buffer.shut(5)
    with pytest.raises(ClosedError):  # the very thread that the others wait for
        dirty.buffer.write("things", "b", "b", Buffered(0, {}, False))
    assert dirty.put("c", 3, {}).room
    dirty.clock.advance(6)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ClosedError):
        pool.submit(dirty.buffer.write, "things", "b", "b", Buffered(0, {}, False)).result(10)
    assert [slot.key_text for slot, _ in dirty.buffer.pending()] == ["a", "c"]


def test_a_write_that_waited_for_the_end_is_taken_where_the_process_goes_on(dirty: Buffer) -> None:
    dirty.buffer.shut(5)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(dirty.buffer.write, "things", "b", "b", Buffered(0, {}, False))
        assert not dirty.buffer.pending()
        dirty.buffer.gate.open()
        assert waiting.result(10).room
    assert [slot.key_text for slot, _ in dirty.buffer.pending()] == ["b"]


def test_an_increment_of_a_pending_write_that_a_clock_stamped_which_was_put_back_since_is_kept_after_it() -> None:
    dirty = Buffer()
    dirty.put("a", 5000, {"x": 1})
    dirty.buffer.add("things", "a", "a", Addition({"x": 1}, part={}, known={"x": 1}))
    ((slot, item),) = dirty.buffer.take(10)
    (series,) = item.added
    assert (slot.key_text, item.record) == ("a", {"x": 1})
    assert [point for _, point in series.points] == [0, 1]
    assert dict(item.ages)["x"] < series.last == item.version < 5000


@pytest.mark.parametrize(("stood_still", "known"), [(0.5, True), (40.0, False)])
def test_a_record_that_was_read_before_its_process_stood_still_is_not_known_after_it(
    stood_still: float, known: bool
) -> None:
    dirty = Buffer()
    seen = dirty.buffer.tallies.seen(("things", "a"))
    dirty.clock.advance(stood_still)
    first = dirty.buffer.add("things", "a", "a", Addition({"x": 1}, part={}, known={"x": 1}, seen=seen))
    assert first.known == {"x": 2}  # to the call that has read it
    assert dirty.buffer.tallies.knows(("things", "a")) is known


@pytest.mark.parametrize("partial", [False, True])
def test_a_write_over_a_pending_one_that_a_clock_stamped_which_was_put_back_since_is_newer_in_every_column(
    partial: bool,
) -> None:
    dirty = Buffer()
    dirty.put("a", 5000, {"x": 1, "y": 1})
    dirty.buffer.write("things", "a", "a", Buffered(0, {"x": 2} if partial else {"x": 2, "y": 2}, partial))
    ((_, item),) = dirty.buffer.take(10)
    assert (item.record, item.partial) == ({"x": 2, "y": 1 if partial else 2}, False)
    assert item.version < 5000
    assert all(age < item.version for _, age in item.ages)
