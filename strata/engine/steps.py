"""Reads of several schemas, taken in step: what they ask of a server at the same time is one round trip.

A read is a generator. It yields what it waits for, is sent the answer, and has thrown into it what came instead.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from strata.bound import Bound
from strata.engine.context import Context
from strata.errors import StrataError, twin
from strata.l2.content import Answers
from strata.l2.steps import in_step
from strata.l2.values import Put

if TYPE_CHECKING:
    from strata.l2.tier import L2Tier

T = TypeVar("T")


class Ask(Protocol):
    """What a read waits for. Of all that wait, those of the lowest `turn` are answered first: who is behind catches up,
    and asks together with the others. `place` is the server."""

    turn: int

    @property
    def place(self) -> object: ...

    def alone(self) -> Any:
        """The answer."""
        ...

    @staticmethod
    def together(asks: Sequence[Any]) -> Sequence[Any]:
        """The answers to several of one kind and place, in one round trip."""
        ...


Steps: TypeAlias = Generator[Any, Any, T]


class Look:
    """What L2 has of some keys; where it has nothing, and `lease`, a lease is left."""

    turn = 0

    def __init__(self, l2: L2Tier, key_texts: Sequence[str], *, lease: bool) -> None:
        self.l2, self.key_texts, self.lease = l2, key_texts, lease
        self.place = l2.server

    def alone(self) -> Answers:
        return self.l2.look(self.key_texts, lease=self.lease)

    @staticmethod
    def together(asks: Sequence[Look]) -> list[Answers]:
        tokens = [ask.l2.token() for ask in asks]
        try:
            pairs = zip(asks, tokens, strict=True)
            works = [ask.l2.looking(ask.key_texts, token, ask.lease) for ask, token in pairs]
            return in_step(asks[0].place, works)
        except BaseException as error:
            for ask, token in zip(asks, tokens, strict=True):
                ask.l2.broken_off(error, token, ask.key_texts)
            raise


class Handed:
    """What any process has handed off of some keys; None where the ledger does not answer."""

    turn = 1

    def __init__(self, context: Context, bound: Bound, key_texts: Sequence[str]) -> None:
        self.place, self.bound, self.key_texts = context, bound, key_texts

    def alone(self) -> Any:
        return self.place.handed_off(self.bound, self.key_texts)

    @staticmethod
    def together(asks: Sequence[Handed]) -> Sequence[Any]:
        return asks[0].place.handed_off_together([(ask.bound, ask.key_texts) for ask in asks])


class RowsOf:
    """The rows of some keys."""

    turn = 2

    def __init__(self, bound: Bound, keys: Sequence[Any]) -> None:
        self.bound, self.keys = bound, keys
        self.place = bound.rows.primary

    def alone(self) -> Mapping[Any, Any]:
        table, keys = self.bound.rows.table, self.keys
        with self.place.connection() as conn:
            return table.get_many(conn, keys) if len(keys) > 1 else {keys[0]: table.get(conn, keys[0])}

    @staticmethod
    def together(asks: Sequence[RowsOf]) -> Sequence[Mapping[Any, Any]]:
        with asks[0].place.connection() as conn:
            return asks[0].bound.rows.table.together(conn, [(ask.bound.rows.table, ask.keys) for ask in asks])


class Fill:
    """Whether L2 takes what was loaded under a lease: the key texts of those whose lease stood."""

    turn = 3

    def __init__(self, l2: L2Tier, token: str, puts: Sequence[Put]) -> None:
        self.l2, self.token, self.puts = l2, token, puts
        self.place = l2.server

    def alone(self) -> set[str]:
        return self.l2.fill(self.token, self.puts)

    @staticmethod
    def together(asks: Sequence[Fill]) -> list[set[str]]:
        return in_step(asks[0].place, [ask.l2.filling(ask.token, ask.puts) for ask in asks])


def alone(read: Steps[T]) -> T:
    """What a read comes to, by itself."""
    try:
        ask = next(read)
        while True:
            try:
                answer = ask.alone()
            except BaseException as error:  # noqa: BLE001 raised again by the read, when it has cleaned up
                ask = read.throw(error)
            else:
                ask = read.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        read.close()


def together(reads: Sequence[Steps[T]]) -> list[T]:
    """What each of them comes to. Each goes on to its end, whatever another one raises; then the first error is raised.
    What comes from outside ends all of them."""
    if len(reads) == 1:
        return [alone(reads[0])]
    step = _Step(reads)
    try:
        return step.run()
    finally:
        step.close()


class _Step:
    """Reads that are under way, by number; used once, by one thread."""

    def __init__(self, reads: Sequence[Steps[Any]]) -> None:
        self._reads = reads
        self._asked: dict[int, Any] = {}
        self._ended: dict[int, Any] = {}
        self._errors: dict[int, Exception] = {}

    def run(self) -> list[Any]:
        for number in range(len(self._reads)):
            self._go_on(number, None, None)
        while self._asked:
            turn = min(ask.turn for ask in self._asked.values())
            groups: dict[Any, list[int]] = {}
            for number, ask in self._asked.items():
                if ask.turn == turn:
                    groups.setdefault(id(ask.place), []).append(number)
            for numbers in groups.values():
                self._answer(numbers)
        if self._errors:
            raise self._errors[min(self._errors)]
        return [self._ended[number] for number in range(len(self._reads))]

    def _answer(self, numbers: Sequence[int]) -> None:
        asks = [self._asked.pop(number) for number in numbers]
        answers: Iterable[Any] = asks
        error: StrataError | None = None
        try:
            answers = [asks[0].alone()] if len(asks) == 1 else type(asks[0]).together(asks)
        except StrataError as raised:
            error = raised
        for number, answer in zip(numbers, answers, strict=True):
            self._go_on(number, answer, error if error is None else twin(error))

    def _go_on(self, number: int, answer: Any, error: Exception | None) -> None:
        read = self._reads[number]
        try:
            self._asked[number] = read.send(answer) if error is None else read.throw(error)
        except StopIteration as end:
            self._ended[number] = end.value
        except Exception as raised:  # noqa: BLE001 raised at the end, of whatever class
            self._errors[number] = raised

    def close(self) -> None:
        for read in self._reads:
            read.close()
