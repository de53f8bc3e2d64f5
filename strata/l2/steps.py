"""Exchanges with a Redis, taken in step: what several of them ask at the same time is one round trip."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from strata.l2.script import Script

if TYPE_CHECKING:
    from strata.l2.client import Call, RedisServer

T = TypeVar("T")

Looked: TypeAlias = tuple[str, bytes | None, int]  # a key's text, what it holds, and the ms that it has left

CHUNK = 250  # keys a command: longer ones keep a single-threaded Redis from everybody else
MOST = 2_000  # keys in one round trip: more would only fill buffers


class Asked(NamedTuple):
    """A script with its calls, which are made as they are sent; or no script, and plain keys, whose values are asked
    for."""

    script: Script | None
    calls: Iterable[Any]
    size: int


Steps: TypeAlias = Generator[Asked, list[Any], T]


def in_step(server: RedisServer, works: Sequence[Steps[T]]) -> list[T]:
    """What each of them returns. Raises `L2UnavailableError` or `L2RefusedError`, and none of them goes on then."""
    ended: dict[int, T] = {}
    left = dict(enumerate(works))
    answers: dict[int, Any] = dict.fromkeys(left)  # a generator is begun by None
    while left:
        asked: dict[int, Asked] = {}
        for number, work in list(left.items()):
            try:
                asked[number] = work.send(answers[number])
            except StopIteration as end:
                ended[number] = end.value
                del left[number]
        answers = _answers(server, asked)
    return [ended[number] for number in range(len(works))]


def _answers(server: RedisServer, asked: Mapping[int, Asked]) -> dict[int, list[Any]]:
    by_script: dict[Script | None, list[int]] = {}
    for number, ask in asked.items():
        by_script.setdefault(ask.script, []).append(number)
    answers: dict[int, list[Any]] = {}
    for script, numbers in by_script.items():
        calls = chain.from_iterable(asked[number].calls for number in numbers)
        given = iter(server.values(list(calls), CHUNK) if script is None else _run(server, script, calls))
        for number in numbers:
            answers[number] = list(islice(given, asked[number].size))
    return answers


def _run(server: RedisServer, script: Script, calls: Iterable[Call]) -> Iterator[Any]:
    some: list[Call] = []
    keys = 0
    for call in calls:
        if some and keys + len(call[0]) > MOST:
            yield from server.run_many(script, some)
            some, keys = [], 0
        some.append(call)
        keys += len(call[0])
    yield from server.run_many(script, some)
