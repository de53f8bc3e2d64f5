"""`get_or_set`: a record that is made where there is none, by one call in a process, over every set of tiers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from strata import (
    DataStore,
    EncodeError,
    HookError,
    L2PoolConfig,
    L2UnavailableError,
    MemPolicy,
    PostgresPolicy,
    RedisPolicy,
    Schema,
    SchemaHooks,
    StrataError,
    WriteMode,
)
from strata.aio.operations import current
from strata.testing import Proxy, inspect
from tests.models import Note, Player
from tests.stores import MakeStore, stores, sure
from tests.support import wait_until

pytestmark = pytest.mark.both_faces

L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
TIERS: dict[str, dict[str, Any]] = {
    "L1+L2+L3": {"l1": L1, "l2": L2, "l3": L3},
    "L1+L3": {"l1": L1, "l3": L3},
    "L3": {"l3": L3},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": WriteMode.WRITE_BEHIND},
    "L1+L2": {"l1": L1, "l2": L2},
    "L2": {"l2": L2},
    "L1": {"l1": L1},
}
SHARED = [name for name in TIERS if name != "L1"]  # among processes
WITHOUT_L3 = ("L1+L2", "L2", "L1")


@pytest.fixture(params=TIERS)
def tiers(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TIERS[request.param]


def among(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tiers", [TIERS[name] for name in names], ids=names)


def store_of(make: MakeStore, tiers: dict[str, Any], model: type = Note, **options: Any) -> DataStore:
    store = make()
    store.register(Schema(model, name="notes", **(tiers | options)))
    store.migrate()
    if any(name in tiers for name in ("l2", "l3")):
        sure(store)
    return store


class Factory:
    """Makes a note, once it may; `calls` counts. In an event loop a coroutine does so."""

    def __init__(self, text: str = "made", *, held: bool = False, error: BaseException | None = None) -> None:
        self.calls = 0
        self.begun, self.free = threading.Event(), threading.Event()
        self._text = text
        self._error = error
        if not held:
            self.free.set()

    def __call__(self) -> Any:
        return self._made() if current() is None else self._awaited()

    def _made(self) -> Note:
        self.calls += 1
        self.begun.set()
        assert self.free.wait(30)
        if self._error is not None:
            raise self._error
        return Note(1, self._text)

    async def _awaited(self) -> Note:
        return await asyncio.to_thread(self._made)


def waiting(store: DataStore, id: Any = 1, name: str = "notes") -> int:
    """How many wait for the call that makes a record."""
    known = inspect(store).schemas[name].l1.claims._calls.get(id)
    call = None if known is None else known()
    return 0 if call is None else len(call._waiting)


def callers(store: DataStore) -> int:
    """How many are to have the result of the call that makes a record: in a loop it is a task of its own, for which all
    of them wait."""
    known = inspect(store).schemas["notes"].l1.claims._calls.get(1)
    call = None if known is None else known()
    return 0 if call is None else len(call._waiting) + (call.stop is None)


def nothing_is_left(store: DataStore, name: str = "notes") -> bool:
    claims = inspect(store).schemas[name].l1.claims
    return not (claims._calls or claims._claims or claims._flights)


def failing() -> Note:
    raise AssertionError("it is there")


def test_it_is_made_where_there_is_none_and_found_after_that(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers)
    assert store.get_or_set("notes", 1, Factory()) == Note(1, "made")
    assert store.get_or_set("notes", 1, failing) == store.get("notes", 1) == Note(1, "made")
    store.set("notes", 2, Note(2, "set"))
    assert store.get_or_set("notes", 2, failing) == Note(2, "set")
    assert nothing_is_left(store)


def test_many_who_miss_at_once_share_one_call_and_each_has_a_record_of_its_own(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    store, factory = store_of(make, tiers), Factory(held=True)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(store.get_or_set, "notes", 1, factory)
        assert factory.begun.wait(15)
        others = [pool.submit(store.get_or_set, "notes", 1, factory) for _ in range(19)]
        wait_until(lambda: waiting(store) >= 19)
        factory.free.set()
        made = [one.result() for one in (first, *others)]
    assert factory.calls == 1 and made == [Note(1, "made")] * 20
    assert len({id(note) for note in made}) == 20
    made[0].text = "changed"
    assert store.get("notes", 1).text == made[1].text == "made"


def test_a_get_does_not_wait_for_what_is_being_made(make: MakeStore, tiers: dict[str, Any]) -> None:
    store, factory = store_of(make, tiers), Factory(held=True)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(store.get_or_set, "notes", 1, factory)
        assert factory.begun.wait(15)
        assert store.get("notes", 1, default=None) is None
        factory.free.set()
        assert making.result() == store.get("notes", 1)


@among(*SHARED)
def test_of_processes_that_make_it_at_once_the_first_that_stores_it_is_right(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    pair = [store_of(make, tiers) for _ in range(2)]
    factories = [Factory("one", held=True), Factory("other", held=True)]
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(pair[n].get_or_set, "notes", 1, factories[n]) for n in range(2)]
        for factory in factories:
            assert factory.begun.wait(15)
        factories[1].free.set()
        assert made[1].result().text == "other"
        factories[0].free.set()
        assert made[0].result().text == "other"
    assert {store.get("notes", 1).text for store in pair} == {"other"}


@among("L1+L2+L3", "behind", "L1+L2", "L2")
def test_with_lease_wait_one_process_makes_it_and_the_others_wait(make: MakeStore, tiers: dict[str, Any]) -> None:
    tiers = tiers | {"l2": RedisPolicy(ttl=600, lease_wait=30)}
    one, other = (store_of(make, tiers) for _ in range(2))
    factory = Factory(held=True)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.get_or_set, "notes", 1, factory)
        assert factory.begun.wait(15)
        second = pool.submit(other.get_or_set, "notes", 1, failing)
        wait_until(lambda: other.stats().lease_waits == 1)
        factory.free.set()
        assert first.result() == second.result() == Note(1, "made")
    assert inspect(one).redis.execute("KEYS", "*call:*") == []


@among("L1+L2+L3", "L2")
def test_those_who_wait_for_a_process_that_died_make_it_themselves(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers | {"l2": RedisPolicy(ttl=600, lease_wait=0.05)})
    l2 = inspect(store).schemas["notes"].l2
    assert l2 is not None and l2.calls.begin("1", 600)
    assert store.get_or_set("notes", 1, Factory()) == Note(1, "made")
    assert store.stats().lease_waits == 1


@among("L1+L2+L3", "behind", "L1+L2", "L1")
def test_an_exception_reaches_all_who_wait_and_nothing_is_stored(make: MakeStore, tiers: dict[str, Any]) -> None:
    store, factory = store_of(make, tiers), Factory(held=True, error=ZeroDivisionError("the user's"))
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(store.get_or_set, "notes", 1, factory) for _ in range(5)]
        wait_until(lambda: factory.calls == 1 and callers(store) == 5)
        factory.free.set()
        errors = [call.exception() for call in calls]
    assert factory.calls == 1
    assert [str(error) for error in errors] == ["the user's"] * 5 and len({id(error) for error in errors}) == 5
    assert all(isinstance(error, ZeroDivisionError) for error in errors)
    assert store.get("notes", 1, default=None) is None and nothing_is_left(store)
    assert store.get_or_set("notes", 1, Factory()) == Note(1, "made")


def test_where_the_one_who_makes_it_is_interrupted_another_does(dsn: str, redis_addr: str) -> None:
    with stores(dsn, redis_addr) as make:
        store, factory = store_of(make, TIERS["L1+L2+L3"]), Factory(held=True, error=KeyboardInterrupt())
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(store.get_or_set, "notes", 1, factory)
            assert factory.begun.wait(15)
            second = pool.submit(store.get_or_set, "notes", 1, Factory("the second's"))
            wait_until(lambda: waiting(store) == 1)
            factory.free.set()
            assert isinstance(first.exception(), KeyboardInterrupt)
            assert second.result().text == "the second's"


BAD: dict[str, tuple[Any, str]] = {
    "nothing": (lambda: None, "stores Note, not NoneType"),
    "another model": (lambda: Player("p1", "a"), "stores Note, not Player"),
    "another key": (lambda: Note(2), "must agree"),
    "a wrong value": (lambda: Note(1, text=5), "Note.text"),  # type: ignore[arg-type]
    "no function": (5, "takes a function that makes the record"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_record_of_the_key_is_refused(make: MakeStore, case: str) -> None:
    factory, said = BAD[case]
    store = store_of(make, TIERS["L1+L2+L3"])
    with pytest.raises(EncodeError, match=said):
        store.get_or_set("notes", 1, factory)
    assert store.get("notes", 1, default=None) is None


def test_the_factory_may_call_the_store_but_not_for_its_own_record(make: MakeStore, tiers: dict[str, Any]) -> None:
    store = store_of(make, tiers)

    def from_the_second() -> Note:
        return Note(1, store.get_or_set("notes", 2, lambda: Note(2, "second")).text)

    assert store.get_or_set("notes", 1, from_the_second) == Note(1, "second")

    def from_itself() -> Any:
        return store.get_or_set("notes", 3, from_itself)

    with pytest.raises(StrataError, match="asked for that very record"):
        store.get_or_set("notes", 3, from_itself)
    assert nothing_is_left(store)


def test_two_that_ask_for_each_other_s_record_do_not_wait_for_ever(dsn: str, redis_addr: str) -> None:
    both, begun = threading.Barrier(2), set()

    with stores(dsn, redis_addr) as make, ThreadPoolExecutor(2) as pool:
        store = store_of(make, TIERS["L1"])

        def made(mine: int, other: int) -> Note:
            if mine not in begun:
                begun.add(mine)
                both.wait(15)
            return Note(mine, asked(other, mine).text)

        def asked(mine: int, other: int) -> Note:
            return store.get_or_set(Note, mine, lambda: made(mine, other))

        errors = [call.exception(30) for call in [pool.submit(asked, 1, 2), pool.submit(asked, 2, 1)]]
        assert all(isinstance(error, StrataError) for error in errors)
        assert nothing_is_left(store)


@among("L1+L2+L3", "behind", "L1+L2", "L1")
def test_what_is_written_meanwhile_wins(make: MakeStore, tiers: dict[str, Any]) -> None:
    store, factory = store_of(make, tiers), Factory(held=True)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(store.get_or_set, "notes", 1, factory)
        assert factory.begun.wait(15)
        store.set("notes", 1, Note(1, "set"))
        factory.free.set()
        assert making.result() == store.get("notes", 1) == Note(1, "set")


@among(*WITHOUT_L3)
def test_without_l3_what_was_deleted_meanwhile_is_not_stored_for_it_may_be_made_of_what_was_before(
    make: MakeStore, tiers: dict[str, Any]
) -> None:
    told: list[Note] = []
    store, factory = store_of(make, tiers, hooks=SchemaHooks(after_set=told.append)), Factory("old", held=True)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(store.get_or_set, "notes", 1, factory)
        assert factory.begun.wait(15)
        store.delete("notes", 1)
        assert store.get_or_set("notes", 1, Factory("new")).text == "new"
        store.delete("notes", 1)
        factory.free.set()
        assert making.result().text == "old"
    assert store.get("notes", 1, default=None) is None
    assert store.get_or_set("notes", 1, Factory("newest")).text == "newest"
    assert [note.text for note in told] == ["new", "newest"]


@among("L1+L2", "L2")
@pytest.mark.parametrize("remembered", [True, False], ids=["while L2 remembers it", "when L2 has forgotten it"])
def test_what_another_process_deletes_meanwhile_is_not_stored(
    make: MakeStore, tiers: dict[str, Any], remembered: bool
) -> None:
    store, other = (store_of(make, tiers) for _ in range(2))
    factory = Factory("old", held=True)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(store.get_or_set, "notes", 1, factory)
        assert factory.begun.wait(15)
        other.delete("notes", 1)
        if not remembered:
            wait_until(lambda: not inspect(store).schemas["notes"].l1.claims._calls)  # it was heard of
            inspect(store).redis.execute("DEL", "strata:notes:1")
        factory.free.set()
        assert making.result().text == "old"
    assert [one.get("notes", 1, default=None) for one in (store, other)] == [None, None]


def test_a_deletion_in_l3_comes_before_the_record_that_is_made(make: MakeStore) -> None:
    store, factory = store_of(make, TIERS["L1+L2+L3"]), Factory(held=True)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(store.get_or_set, "notes", 1, factory)
        assert factory.begun.wait(15)
        store.delete("notes", 1)
        factory.free.set()
        assert making.result() == store.get("notes", 1, force_l3=True) == Note(1, "made")


def test_a_deferred_write_that_is_pending_is_found(make: MakeStore) -> None:
    store = store_of(make, TIERS["behind"])
    store.set("notes", 1, Note(1, "deferred"))
    assert store.get_or_set("notes", 1, failing).text == "deferred"
    store.delete("notes", 1)
    assert store.get_or_set("notes", 1, Factory()).text == "made"
    store.flush_dirty()
    assert store.get("notes", 1, force_l3=True).text == "made"


def test_hooks_are_called_as_by_get_and_by_set(make: MakeStore, tiers: dict[str, Any]) -> None:
    told: list[Any] = []

    def before_set(note: Note) -> Note:
        told.append(("before_set", note.text))
        return Note(note.id, note.text.strip())

    def before_get(id: int) -> None:
        told.append(("before_get", id))
        if id == 13:
            raise ValueError

    hooks = SchemaHooks(
        before_get=before_get,
        before_set=before_set,
        after_set=lambda note: told.append(("after_set", note.text)),
        after_get=lambda note: Note(note.id, f"{note.text}, seen"),
    )
    store = store_of(make, tiers, hooks=hooks)
    assert store.get_or_set("notes", 1, Factory(" made ")).text == "made, seen"
    assert told == [("before_get", 1), ("before_set", " made "), ("after_set", "made")]
    assert store.get_or_set("notes", 1, failing).text == "made, seen"
    with pytest.raises(HookError):
        store.get_or_set("notes", 13, failing)


def test_a_hit_that_is_due_is_refreshed_in_the_background(make: MakeStore) -> None:
    due = {"l1": MemPolicy(ttl=60, eager_refresh=0.5), "l3": L3}
    store = store_of(make, due)
    store.get_or_set("notes", 1, Factory())
    entry = inspect(store).schemas["notes"].l1.entries[1]
    entry.expires = entry.loaded  # as half of its life later
    assert store.get_or_set("notes", 1, failing) == Note(1, "made")
    wait_until(lambda: store.stats().eager_refreshes == 1)


def test_where_l2_is_the_lowest_tier_and_away_nothing_is_made(redis_addr: str) -> None:
    quick = L2PoolConfig(dial_timeout=0.2, read_timeout=0.2, write_timeout=0.2)
    with Proxy(redis_addr) as proxy, stores("", proxy.addr) as make:
        store = make(l2_pool=quick)
        store.register(Schema(Note, name="notes", l1=L1, l2=L2))
        proxy.stop()
        with pytest.raises(L2UnavailableError):
            store.get_or_set("notes", 1, failing)


# -- asyncio ---------------------------------------------------------------------------------------------------------


class Making:
    """A coroutine function that makes a note, once it may, in any loop."""

    def __init__(self) -> None:
        self.calls = self.cancelled = 0
        self.free = asyncio.Event()

    async def __call__(self) -> Note:
        self.calls += 1
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Note(1, "awaited")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.001)


def run(store: DataStore, main: Callable[[], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        await main()
        await until(lambda: nothing_is_left(store))

    asyncio.run(all_of_it())


@pytest.fixture
def store(dsn: str, redis_addr: str, tiers: dict[str, Any]) -> Any:
    with stores(dsn, redis_addr) as make:
        yield store_of(make, tiers)


def test_the_factory_may_be_a_coroutine_function_which_many_tasks_share(store: DataStore) -> None:
    async def main() -> None:
        making = Making()
        tasks = [asyncio.create_task(store.aio.get_or_set("notes", 1, making)) for _ in range(50)]
        await until(lambda: waiting(store) == 50)
        making.free.set()
        assert await asyncio.gather(*tasks) == [Note(1, "awaited")] * 50
        assert making.calls == 1

    run(store, main)


def test_who_is_cancelled_does_not_end_the_call_for_the_others(store: DataStore) -> None:
    async def main() -> None:
        making = Making()
        tasks = [asyncio.create_task(store.aio.get_or_set("notes", 1, making)) for _ in range(3)]
        await until(lambda: waiting(store) == 3 and making.calls)
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.wait(tasks[:2])
        making.free.set()
        assert await tasks[2] == Note(1, "awaited")
        assert [task.cancelled() for task in tasks] == [True, True, False]
        assert (making.calls, making.cancelled) == (1, 0)

    run(store, main)


def test_the_call_ends_with_the_last_who_waits_for_it(store: DataStore) -> None:
    async def main() -> None:
        making = Making()
        tasks = [asyncio.create_task(store.aio.get_or_set("notes", 1, making)) for _ in range(2)]
        await until(lambda: waiting(store) == 2 and making.calls)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert nothing_is_left(store)
        assert (making.calls, making.cancelled) == (1, 1)
        making.free.set()
        assert await store.aio.get_or_set("notes", 1, making) == Note(1, "awaited")

    run(store, main)


def test_threads_and_loops_share_one_call(store: DataStore) -> None:
    async def main() -> None:
        making, loop = Making(), asyncio.get_running_loop()
        awaited = asyncio.create_task(store.aio.get_or_set("notes", 1, making))
        await until(lambda: making.calls)
        threads = [loop.run_in_executor(None, store.get_or_set, "notes", 1, failing) for _ in range(3)]
        other: Future[Any] = Future()

        def elsewhere() -> None:
            other.set_result(asyncio.run(store.aio.get_or_set("notes", 1, failing)))

        threading.Thread(target=elsewhere).start()
        await until(lambda: waiting(store) == 5)
        making.free.set()
        found = await asyncio.gather(awaited, *threads, asyncio.wrap_future(other))
        assert found == [Note(1, "awaited")] * 5

    run(store, main)


def test_a_coroutine_that_asks_for_what_it_is_to_make_is_told_so(store: DataStore) -> None:
    async def of_itself() -> Any:
        return await asyncio.gather(store.aio.get_or_set("notes", 1, of_itself))  # in a task of its own

    async def main() -> None:
        with pytest.raises(StrataError, match="asked for that very record"):
            await store.aio.get_or_set("notes", 1, of_itself)

    run(store, main)


def test_a_coroutine_that_ends_as_if_it_were_cancelled_is_called_once(store: DataStore) -> None:
    calls: list[int] = []

    async def ends() -> Note:
        calls.append(1)
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await store.aio.get_or_set("notes", 1, ends)
        assert calls == [1]

    run(store, main)
