"""The law of markers: who has heard of one is shown no copy of a row that began to be read before it was set.

Processes set markers, hear of them late (each in the order of the numbers), read rows, fill with what they read however
late, and read copies of each other's. Only a few markers are kept, by each process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from strata.protocol import markers
from strata.protocol.markers import Markers, SchemaMarkers

PROCESSES, TAGS = 3, ["a", "b", "c", "d", "e"]


@dataclass
class Process:
    markers: Markers = field(default_factory=Markers)
    heard: int = 0  # how many of all markers

    @property
    def schema(self) -> SchemaMarkers:
        return SchemaMarkers(self.markers, "things", lambda record: record)


@dataclass
class Copy:
    tags: tuple[str, ...]
    since: int | None
    began: int  # how many markers had been set when it began to be read


numbers = st.integers(0, PROCESSES - 1)
events = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(["", *TAGS])),
    st.tuples(st.just("hear"), numbers, st.integers(1, 4)),
    st.tuples(st.just("begin"), numbers, st.frozensets(st.sampled_from(TAGS), max_size=2)),
    st.tuples(st.just("fill")),
)


@given(st.lists(events, max_size=60), st.integers(1, 4))
def test_who_has_heard_of_a_marker_is_shown_nothing_from_before_it(happened: list[tuple[Any, ...]], most: int) -> None:
    processes = [Process() for _ in range(PROCESSES)]
    every: list[str] = []  # tags in the order in which they were set; "" is the schema as a whole
    begun: list[Copy] = []
    filled: list[Copy] = []
    with mock.patch.object(markers, "MOST", most):
        for what, *args in happened:
            match what, args:
                case "set", [tag]:
                    every.append(tag)
                case "hear", [number, count]:
                    process = processes[number]
                    for place in range(process.heard, min(len(every), process.heard + count)):
                        tag = every[place]
                        if tag:
                            process.markers.tag(tag, place + 1, 0.0)
                        else:
                            process.markers.schema("things", place + 1)
                        process.heard = place + 1
                case "begin", [number, tags]:
                    begun.append(Copy(tuple(sorted(tags)), processes[number].schema.since, len(every)))
                case _ if begun:
                    filled.append(begun.pop(0))
            for process in processes:
                for copy in filled:
                    too_old = any(tag in ("", *copy.tags) for tag in every[copy.began : process.heard])
                    shown = not process.schema.outdated(copy.tags, copy.since)
                    assert not (too_old and shown)


@given(st.lists(st.sampled_from(TAGS), max_size=30), st.integers(0, 30))
def test_what_was_read_after_all_markers_that_count_is_shown(every: list[str], known: int) -> None:
    reader, other = Process(), Process()
    for number, tag in enumerate(every, 1):
        reader.markers.tag(tag, number, 0.0)
        if number <= known:
            other.markers.tag(tag, number, 0.0)
    free = next((tag for tag in TAGS if tag not in every[known:]), None)
    if free is not None:
        assert not reader.schema.outdated((free,), other.schema.since)
