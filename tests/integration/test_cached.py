"""`@store.cached`: functions and coroutine functions whose results are kept, in memory and in Redis."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import inspect as signatures
import multiprocessing
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
import pytest

import strata
from strata import (
    AsyncDataStore,
    ClosedError,
    Config,
    DataStore,
    EncodeError,
    InvalidConfigError,
    InvalidModelError,
    L2PoolConfig,
    L2UnavailableError,
    MsgPack,
    SchemaDuplicateError,
    StrataError,
)
from strata.testing import Proxy, inspect
from tests.faces import awaited
from tests.models import Note, Player, Point
from tests.stores import MakeStore, stores, sure
from tests.support import wait_until

NAME = "squares"


class Calls:
    """Counts calls of a function, and holds them up where it is told to."""

    def __init__(self) -> None:
        self.count = 0
        self.begun, self.free = threading.Event(), threading.Event()
        self.free.set()
        self.error: BaseException | None = None

    def hold(self) -> None:
        self.begun.clear()
        self.free.clear()

    def __call__(self) -> int:
        self.count += 1
        self.begun.set()
        assert self.free.wait(30)
        if self.error is not None:
            raise self.error
        return self.count


class Kept:
    """A function of either kind, whose calls are counted, called by a thread."""

    def __init__(self, store: DataStore, asynchronous: bool, **options: Any) -> None:
        calls = self.calls = Calls()
        decorate = store.cached(name=NAME, **({"ttl": 60} | options))

        if asynchronous:

            @decorate
            async def square(number: int, plus: int = 0) -> int | None:
                await asyncio.to_thread(calls)
                return number * number + plus if number else None

            self.function: Any = square
        else:

            @decorate
            def square(number: int, plus: int = 0) -> int | None:
                calls()
                return number * number + plus if number else None

            self.function = square
        self.store = store

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return awaited(self.function(*args, **kwargs))

    def refresh(self, *args: Any) -> Any:
        return awaited(self.function.refresh(*args))

    def invalidate(self, *args: Any) -> None:
        assert awaited(self.function.invalidate(*args)) is None

    def waiting(self, *args: Any) -> int:
        known = inspect(self.store).schemas[NAME].l1.claims._calls.get(self.function.key(*args))
        call = None if known is None else known()
        return 0 if call is None else len(call._waiting)


@pytest.fixture(params=[False, True], ids=["function", "coroutine function"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def kept(make: MakeStore, asynchronous: bool) -> Callable[..., Kept]:
    """Makes the function, each time in a store of its own, as in another process."""

    def made(store: DataStore | None = None, **options: Any) -> Kept:
        store = store or make()
        known = Kept(store, asynchronous, **options)
        if inspect(store).schemas[NAME].l2 is not None:
            sure(store)
        return known

    return made


def test_a_result_is_kept_for_calls_of_the_same_arguments_however_they_are_passed(kept: Callable[..., Kept]) -> None:
    square = kept()
    assert [square(3), square(number=3), square(3, 0), square(plus=0, number=3)] == [9] * 4
    assert square.calls.count == 1
    assert (square(3, 1), square(4), square.calls.count) == (10, 16, 3)


def test_none_is_a_result_as_any_other(kept: Callable[..., Kept]) -> None:
    square = kept()
    assert [square(0), square(0)] == [None, None]
    assert square.calls.count == 1


def test_what_one_process_has_the_others_do_not_call_for(kept: Callable[..., Kept], redis_addr: str) -> None:
    one, other = kept(), kept()
    assert (one(3), other(3)) == (9, 9)
    assert (one.calls.count, other.calls.count) == (1, 0)
    assert inspect(one.store).redis.execute("KEYS", "strata:*=*") == [b"strata:squares:number=3,plus=0"]


def test_many_who_call_at_once_share_one_call(kept: Callable[..., Kept]) -> None:
    square = kept()
    square.calls.hold()
    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(square, 3) for _ in range(20)]
        assert square.calls.begun.wait(15)
        wait_until(lambda: square.waiting(3) >= 19)
        square.calls.free.set()
        assert [call.result() for call in calls] == [9] * 20
    assert square.calls.count == 1


def test_an_exception_reaches_all_who_wait_and_is_not_kept(kept: Callable[..., Kept]) -> None:
    square = kept()
    square.calls.hold()
    square.calls.error = ZeroDivisionError("the user's")
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(square, 3) for _ in range(5)]
        assert square.calls.begun.wait(15)
        wait_until(lambda: square.waiting(3) >= 4)
        square.calls.free.set()
        assert [str(call.exception()) for call in calls] == ["the user's"] * 5
    square.calls.error = None
    assert (square(3), square.calls.count) == (9, 2)


def test_with_lease_wait_one_process_calls_and_the_others_wait(kept: Callable[..., Kept]) -> None:
    one, other = kept(lease_wait=30), kept(lease_wait=30)
    one.calls.hold()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one, 3)
        assert one.calls.begun.wait(15)
        second = pool.submit(other, 3)
        wait_until(lambda: other.store.stats().lease_waits == 1)
        one.calls.free.set()
        assert (first.result(), second.result()) == (9, 9)
    assert (one.calls.count, other.calls.count) == (1, 0)


def test_invalidate_drops_a_result_everywhere(kept: Callable[..., Kept]) -> None:
    one, other = kept(), kept()
    assert (one(3), other(3), one(4)) == (9, 9, 16)
    one.invalidate(3)
    wait_until(lambda: not inspect(other.store).schemas[NAME].l1.entries)
    assert (one(3), one(4), other(3)) == (9, 16, 9)
    assert (one.calls.count, other.calls.count) == (3, 0)


def test_a_call_that_an_invalidation_overtakes_is_not_kept(kept: Callable[..., Kept]) -> None:
    one, other = kept(), kept()
    one.calls.hold()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(one, 3)
        assert one.calls.begun.wait(15)
        other.invalidate(3)
        one.calls.free.set()
        assert call.result() == 9
    assert (one(3), one.calls.count) == (9, 2)


def test_refresh_calls_now_and_keeps_what_comes_of_it_everywhere(kept: Callable[..., Kept]) -> None:
    one, other = kept(), kept()
    assert (one(3), other(3)) == (9, 9)
    assert (one.refresh(3), one(3), one.calls.count) == (9, 9, 2)
    wait_until(lambda: not inspect(other.store).schemas[NAME].l1.entries)
    assert (other(3), other.calls.count) == (9, 0)
    assert (other.refresh(5), one(5), one.calls.count) == (25, 25, 2)


def test_a_refresh_that_fails_leaves_what_is_kept(kept: Callable[..., Kept]) -> None:
    square = kept()
    square(3)
    square.calls.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        square.refresh(3)
    assert square(3) == 9


def test_a_refresh_does_not_share_a_call_that_began_before(kept: Callable[..., Kept]) -> None:
    square = kept()
    square.calls.hold()
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(square, 3)
        assert square.calls.begun.wait(15)
        late = pool.submit(square.refresh, 3)
        wait_until(lambda: square.calls.count == 2)
        square.calls.free.set()
        assert (early.result(), late.result()) == (9, 9)
    assert (square(3), square.calls.count) == (9, 2)


def test_without_a_redis_results_are_kept_in_memory(asynchronous: bool) -> None:
    with DataStore(Config()) as store:
        square = Kept(store, asynchronous)
        assert (square(3), square(3), square.refresh(4), square(4), square.calls.count) == (9, 9, 16, 16, 2)
        square.invalidate(3)
        assert (square(3), square.calls.count) == (9, 3)


def test_while_redis_is_away_the_function_is_called_and_memory_keeps_results_for_a_second(
    redis_addr: str, asynchronous: bool
) -> None:
    quick = L2PoolConfig(dial_timeout=0.2, read_timeout=0.2, write_timeout=0.2)
    with Proxy(redis_addr) as proxy, stores("", proxy.addr) as make:
        square = Kept(make(l2_pool=quick), asynchronous, lease_wait=5)
        proxy.stop()
        assert square(3) == 9
        entry = inspect(square.store).schemas[NAME].l1.entries["number=3,plus=0"]
        assert entry.ends == entry.loaded + 1
        for call in (square.refresh, square.invalidate):
            with pytest.raises(L2UnavailableError):
                call(3)


def test_a_result_is_never_older_than_its_ttl_in_whichever_tier_it_was(kept: Callable[..., Kept]) -> None:
    one, other = kept(ttl=3600), kept(ttl=3600)
    one(3)
    redis, key = inspect(one.store).redis, "strata:squares:number=3,plus=0"
    assert 3_590_000 < redis.execute("PTTL", key) <= 3_600_000
    redis.execute("PEXPIRE", key, 2_600_000)  # as if it were 1,000 seconds old
    assert (other(3), other.calls.count) == (9, 0)
    entry = inspect(other.store).schemas[NAME].l1.entries["number=3,plus=0"]
    assert 2590 < entry.ends - entry.loaded < 2600.001  # which floats do not hold exactly


def test_it_works_in_the_child_of_a_fork(make: MakeStore) -> None:
    store = make()
    calls: list[int] = []

    @store.cached(ttl=60)
    def square(number: int) -> int:
        calls.append(number)
        return number * number

    sure(store)
    square(3)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child() -> None:
        there.send((square(3), square(4), calls))
        store.close()

    process = context.Process(target=child)
    process.start()
    assert here.poll(30) and here.recv() == (9, 16, [3, 4])
    process.join(30)
    assert process.exitcode == 0
    assert (square(4), calls) == (16, [3])


def test_a_function_that_calls_itself_does_so_for_other_arguments(make: MakeStore) -> None:
    store = make()

    @store.cached(ttl=60)
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    @store.cached(ttl=60)
    def endless(n: int) -> int:
        return endless(n)

    assert fibonacci(20) == 6765

    @store.cached(ttl=60)
    def renewed(n: int) -> int:
        return renewed.refresh(n)

    for call in (endless, endless.refresh, renewed, renewed.refresh):
        with pytest.raises(StrataError, match="asked for that very record"):
            call(1)


# -- what users see of it ---------------------------------------------------------------------------------------------


def test_it_looks_like_the_function_that_it_is_of(make: MakeStore) -> None:
    store = make()

    @store.cached(ttl=60)
    def area(width: int, *, height: int = 1) -> int:
        """Of a rectangle."""
        return width * height

    @store.cached(ttl=60)
    async def later(width: int) -> int:
        return width

    assert (area.__name__, area.__doc__, area.__module__) == ("area", "Of a rectangle.", __name__)  # type: ignore[attr-defined]
    assert str(signatures.signature(area)) == "(width: 'int', *, height: 'int' = 1) -> 'int'"
    assert area.__wrapped__(2, height=3) == 6  # type: ignore[attr-defined]
    assert asyncio.iscoroutinefunction(later) and signatures.iscoroutinefunction(later)
    assert not signatures.iscoroutinefunction(area)
    for wrong in (lambda: area(), lambda: area(1, 2), lambda: area(1, depth=2)):  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="area"):
            wrong()  # type: ignore[no-untyped-call]


def every_kind(a: int, /, b: int = 2, *rest: int, c: int, d: int = 4, **more: int) -> list[list[int]]:
    return [[a, b, *rest], [c, d, *more.values()]]


def test_parameters_of_every_kind(make: MakeStore) -> None:
    function = make().cached(ttl=60)(every_kind)
    assert function(1, c=3) == [[1, 2], [3, 4]]
    assert function(1, 5, 6, 7, c=8, d=9, b1=10, type=11) == [[1, 5, 6, 7], [8, 9, 10, 11]]
    assert function.key(1, 5, 6, 7, c=8, x1=10) == 'a=1,b=5,rest=(6,7),c=8,d=4,more={"x1":10}'


def test_parameters_may_be_called_as_what_the_machinery_has(make: MakeStore) -> None:
    @make().cached(ttl=60)
    def odd(type: int, len: int, b0: int, b1: int, x1: int, x2: int, cached: int, self: int = 8) -> int:
        return type + len + b0 + b1 + x1 + x2 + cached + self

    assert [odd(1, 2, 3, 4, 5, 6, 7) for _ in range(2)] == [36, 36]


class Shop:
    """Methods: `self` is an argument as any other."""

    def __init__(self, town: str) -> None:
        self.town = town


def test_methods_take_a_key_of_their_own_where_self_is_no_value(make: MakeStore) -> None:
    store = make()
    called: list[str] = []

    class Corner(Shop):
        @store.cached(ttl=60, key=lambda self, article: (self.town, article))
        def price(self, article: int) -> str:
            called.append(self.town)
            return f"{article} in {self.town}"

        @store.cached(ttl=60)
        def stock(self, article: int) -> int:
            return article

    berlin, paris = Corner("Berlin"), Corner("Paris")
    assert (berlin.price(1), paris.price(1), Corner("Berlin").price(1)) == (
        "1 in Berlin", "1 in Paris", "1 in Berlin",
    )  # fmt: skip
    assert Corner.price.key(berlin, 1) == '("Berlin",1)'
    assert called == ["Berlin", "Paris"]
    Corner.price.invalidate(berlin, 1)
    assert (berlin.price(1), paris.price(1), called) == ("1 in Berlin", "1 in Paris", ["Berlin", "Paris", "Berlin"])
    with pytest.raises(EncodeError, match=r"argument 'self' of .*stock\(\) is of type Corner.*give cached a key="):
        berlin.stock(1)


STORE = DataStore(Config())


@dataclass(frozen=True)
class Town:
    name: str

    @STORE.cached(ttl=60)
    def greeting(self, who: str) -> str:
        return f"hello from {self.name}, {who}"

    @classmethod
    @STORE.cached(ttl=60)
    def called(cls, name: str) -> str:
        return f"{cls.__name__} {name}"

    @staticmethod
    @STORE.cached(ttl=60)
    def size(name: str) -> int:
        return len(name)


class Village(Town):
    pass


def test_a_method_of_a_value_and_of_a_class_and_of_neither() -> None:
    assert Town("Bonn").greeting("ann") == "hello from Bonn, ann"
    assert Town.greeting.key(Town("Bonn"), "ann") == f'self={__name__}.Town(name="Bonn"),who="ann"'
    called: Any = Town.called  # mypy takes it for one without a class
    assert (called("a"), Village.called("a"), Town.size("abc")) == ("Town a", "Village a", 3)  # type: ignore[arg-type, call-arg]
    assert called.__func__.key(Town, "a") == f'cls=type({__name__}.Town),name="a"'


def test_a_key_of_one_s_own_is_made_of_what_its_function_returns_with_defaults(make: MakeStore) -> None:
    calls: list[Any] = []

    @make().cached(ttl=60, key=lambda connection, limit: limit)
    def rows(connection: object, limit: int = 10) -> int:
        calls.append(connection)
        return limit

    assert [rows(object()), rows(object(), 10), rows(limit=10, connection=None), rows(None, 11)] == [10, 10, 10, 11]
    assert len(calls) == 2 and rows.key(None) == "10"
    with pytest.raises(ZeroDivisionError):
        make().cached(ttl=60, key=lambda n: 1 // n, name="other")(one_of)(0)


def one_of(n: int) -> int:
    return 1


def test_long_arguments_are_kept_under_a_digest(make: MakeStore) -> None:
    calls: list[int] = []

    @make().cached(ttl=60)
    def length(text: str) -> int:
        calls.append(1)
        return len(text)

    assert [length("x" * 5000), length("x" * 5000), length("x" * 5001)] == [5000, 5000, 5001]
    assert len(calls) == 2 and len(length.key("x" * 5000)) < 200


# -- results ----------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Sale(msgspec.Struct):
    price: Decimal
    at: dt.datetime
    colour: Colour | None = None


@dataclass
class Report:
    title: str
    sales: list[Sale] = field(default_factory=list)
    by_day: dict[dt.date, list[int]] = field(default_factory=dict)

    @cached_property
    def total(self) -> Decimal:
        return sum((sale.price for sale in self.sales), Decimal(0))


NOON = dt.datetime(2026, 5, 17, 12, tzinfo=dt.UTC)
RESULTS: dict[str, tuple[Any, Any]] = {
    "int": (int, 5), "str": (str, "five"), "float": (float, 5.0), "bool": (bool, True), "bytes": (bytes, b"\0five"),
    "Decimal": (Decimal, Decimal("5.00")), "UUID": (uuid.UUID, uuid.UUID(int=5)), "datetime": (dt.datetime, NOON),
    "timedelta": (dt.timedelta, dt.timedelta(5)), "enum": (Colour, Colour.RED), "literal": (Literal["a", "b"], "b"),
    "optional": (int | None, None), "list of records": (list[Note], [Note(1, "a", ["b"]), Note(2)]),
    "a record": (Player, Player("p1", "andrew", created_at=None)) , "frozen": (Point, Point("p", 1, 2)),
    "a struct": (Sale, Sale(Decimal("1.50"), NOON, Colour.RED)), "dict": (dict[str, Any], {"a": [1, None, "b"]}),
    "nested": (Report | None, Report("May", [Sale(Decimal(1), NOON)], {dt.date(2026, 5, 17): [1, 2]})),
    "tuple": (tuple[int, str], (1, "a")), "set": (set[int], {1, 2}), "annotated": (Annotated[int, "of cents"], 5),
}  # fmt: skip


@pytest.mark.parametrize("codec", [strata.JSON(), MsgPack()], ids=["json", "msgpack"])
@pytest.mark.parametrize("kind", [name for name in RESULTS if name != "a record"])
def test_results_of_all_that_a_field_may_hold_come_back_from_every_tier(make: MakeStore, kind: str, codec: Any) -> None:
    hint, result = RESULTS[kind]
    calls: list[int] = []

    def made(n: int) -> Any:
        calls.append(n)
        return result

    made.__annotations__["return"] = hint
    for _ in range(2):
        function = make(codec=codec).cached(ttl=60)(made)
        for _ in range(2):
            found = function(1)
            assert found == result and type(found) is type(result)
    assert len(calls) == 1


def test_a_result_is_the_caller_s_own(make: MakeStore) -> None:
    given = [1]

    @make().cached(ttl=60)
    def numbers() -> list[int]:
        return given

    first = numbers()
    first.append(2)
    given.append(3)
    assert numbers() == [1] and numbers() is not numbers()


def test_a_result_of_another_type_than_is_annotated_is_refused_and_not_kept(make: MakeStore) -> None:
    results: Iterator[Any] = iter(["text", None, 2**63, 7])

    @make().cached(ttl=60)
    def number() -> int:
        return next(results)  # type: ignore[no-any-return]

    for said in ("number.result is of type str", "number.result is None", "outside BIGINT"):
        with pytest.raises(EncodeError, match=said):
            number()
    assert number() == number() == 7


def test_a_result_that_is_kept_by_another_release_is_made_anew(make: MakeStore) -> None:
    def number() -> Any:
        return 5

    number.__annotations__["return"] = str
    with pytest.raises(EncodeError):
        make().cached(ttl=60)(number)()
    number.__annotations__["return"] = list[str]
    old = make()
    assert old.cached(ttl=60, name="same")(lambda_of(["a"], list[str]))() == ["a"]
    assert make().cached(ttl=60, name="same")(lambda_of(5, int))() == 5


def lambda_of(result: Any, hint: Any) -> Any:
    def made() -> Any:
        return result

    made.__annotations__["return"] = hint
    return made


# -- mistakes ---------------------------------------------------------------------------------------------------------


def bare(n):  # type: ignore[no-untyped-def]
    return n


def nothing(n: int) -> None: ...


def untold(n: int) -> Any: ...


def foreign(n: int) -> list[threading.Lock]: ...  # type: ignore[empty-body]


def unknown(n: int) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821


def secret(n: int) -> Annotated[str, strata.Encrypted]: ...  # type: ignore[empty-body]


def generated(n: int) -> Iterator[int]:
    yield n


UNFIT: dict[str, tuple[Any, str]] = {
    "no annotation": (bare, r"bare\(\) has no return annotation"),
    "nothing": (nothing, r"nothing\(\) returns None"),
    "anything": (untold, "untold.result has the type"),
    "what no field may have": (foreign, "foreign.result"),
    "a name that nobody knows": (unknown, "return annotation of unknown cannot be resolved"),
    "a marker": (secret, r"secret\(\) returns .*Encrypted"),
    "a generator": (generated, r"generated\(\) is a generator"),
    "no function": (5, "decorates a function, not 5"),
    "a class method": (classmethod(bare), "put it below classmethod"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_be_kept_is_refused_when_it_is_decorated(case: str) -> None:
    function, said = UNFIT[case]
    with DataStore(Config()) as store, pytest.raises(InvalidModelError, match=said):
        store.cached(ttl=60)(function)


def test_two_functions_of_one_name_need_another_one() -> None:
    with DataStore(Config()) as store:
        store.cached(ttl=60)(one_of)
        with pytest.raises(SchemaDuplicateError, match=r"one_of\(\) of tests.* would be kept as .*cached\(name="):
            store.cached(ttl=60)(one_of)
        assert store.cached(ttl=60, name="another")(one_of)(1) == 1
        assert list(inspect(store).schemas) == ["tests_integration_test_cached_one_of", "another"]


def test_a_long_name_ends_in_a_digest() -> None:
    def function_with_a_name_that_is_far_too_long_for_any_identifier(n: int) -> int:
        return n

    with DataStore(Config()) as store:
        store.cached(ttl=60)(function_with_a_name_that_is_far_too_long_for_any_identifier)
        (name,) = inspect(store).schemas
        assert len(name) == 63 and "too_long_for_any_identifier_" in name


def test_settings_that_cannot_work_are_refused() -> None:
    with DataStore(Config()) as store:
        for wrong in ({"ttl": -1}, {"ttl": one_of}, {"key": "id"}, {"lease_wait": "long"}):
            with pytest.raises(InvalidConfigError):
                store.cached(**wrong)
        with pytest.raises(InvalidConfigError, match=r"a function as ttl.*@store\.cached\(ttl="):
            store.cached(one_of)  # type: ignore[arg-type]
        with pytest.raises(InvalidModelError, match="name of cached"):
            store.cached(name="not an identifier")


def test_a_closed_store_calls_nothing(asynchronous: bool) -> None:
    store = DataStore(Config())
    square = Kept(store, asynchronous)
    square(3)
    store.close()
    for call in (square, square.refresh, square.invalidate):
        with pytest.raises(ClosedError):
            call(3)
    assert square.calls.count == 1


# -- asyncio ----------------------------------------------------------------------------------------------------------


Either = DataStore | AsyncDataStore


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(params=["DataStore", "AsyncDataStore"])
def either(request: pytest.FixtureRequest, make: MakeStore) -> Either:
    store = make()
    return store if request.param == "DataStore" else store.aio


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def awaiting() -> None:
        await main()

    asyncio.run(awaiting())


def test_a_coroutine_function_stays_one_and_a_function_too_with_either_store(either: Either) -> None:
    @either.cached(ttl=60)
    async def later(n: int) -> int:
        await asyncio.sleep(0)
        return n

    @either.cached(ttl=60)
    def now(n: int) -> int:
        return n

    async def main() -> None:
        assert [await later(1), await later(1), await later.refresh(2), await later(2)] == [1, 1, 2, 2]
        await later.invalidate(1)
        assert later.key(1) == "n=1"

    run(main)
    assert now(1) == 1


def test_who_is_cancelled_does_not_end_the_call_for_the_others_and_the_last_does(either: Either) -> None:
    free, calls, cancelled = asyncio.Event(), [], []

    @either.cached(ttl=60, name=NAME)
    async def later(n: int) -> int:
        calls.append(n)
        try:
            await free.wait()
        except asyncio.CancelledError:
            cancelled.append(n)
            raise
        return n

    claims = inspect(either).schemas[NAME].l1.claims

    async def main() -> None:
        tasks = [asyncio.create_task(later(n)) for n in (1, 1, 1, 2, 2)]
        await until(lambda: sorted(calls) == [1, 2])
        for task in (tasks[0], tasks[3], tasks[4]):
            task.cancel()
        await asyncio.wait([tasks[0], tasks[3], tasks[4]])
        assert cancelled == [2]
        free.set()
        assert await asyncio.gather(*tasks[1:3]) == [1, 1]
        await until(lambda: not claims._calls)
        assert sorted(calls) == [1, 2]

    run(main)


def test_the_call_has_the_context_of_who_began_it(either: Either) -> None:
    from contextvars import ContextVar

    said: ContextVar[str] = ContextVar("said", default="nothing")

    @either.cached(ttl=60)
    async def later(n: int) -> str:
        return said.get()

    async def main() -> None:
        said.set("something")
        assert await later(1) == "something"

    run(main)
