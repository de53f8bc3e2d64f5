"""The asynchronous face: loops, threads, forks, hooks, and what goes on while servers stand still."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import redis
import uvloop

import strata
from strata import (
    AsyncCollection,
    AsyncDataStore,
    ClosedError,
    Config,
    DataStore,
    HookError,
    L2PoolConfig,
    L3PoolConfig,
    Q,
    SchemaHooks,
    StrataError,
    WriteMode,
)
from strata.embedded import EmbeddedPostgres
from strata.testing import inspect
from tests.models import Note
from tests.paced import paced
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(autouse=True)
def no_loop_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test's, which runs in a thread for as long as the process, is none that hooks are awaited by."""
    monkeypatch.setattr("strata.aio.loop._last", [])


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[Any]], Any]:
    """Runs a coroutine on a loop of its own, of either kind."""

    def run(awaitable: Any) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(awaitable)

    return run


Run = Callable[[Awaitable[Any]], Any]


def registered(store: DataStore, **options: Any) -> AsyncCollection[Note, int]:
    made = store.aio.register(schema(Note, name="notes", **options))
    store.migrate()
    sure(store)
    return made


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_BEHIND])
def test_calls_go_through_all_tiers(make: MakeStore, run: Run, mode: WriteMode) -> None:
    notes = registered(make(), write_mode=mode)

    async def use() -> None:
        await notes.set_many({n: Note(n, str(n)) for n in range(1, 3000)})
        await notes.set(1, Note(1, "one"))
        assert (await notes.get(1)).text == "one"
        assert (await notes.get(1, force_l2=True)).text == "one"
        assert len(await notes.get_many(range(1, 3000))) == 2999
        found = await asyncio.gather(*(notes.get(n, force_l2=True) for n in range(2, 300)))
        assert [note.text for note in found] == [str(n) for n in range(2, 300)]
        found = [note async for note in notes.search_iter(Q().order_by("id"), chunk=700)]
        assert [note.id for note in found] == list(range(1, 3000))
        await notes.delete(2)
        assert await notes.get(2, default=None) is None

    run(use())


def test_a_store_of_its_own_is_made_and_closed_by_async_with(dsn: str, redis_addr: str, run: Run) -> None:
    async def use() -> None:
        async with AsyncDataStore(Config(postgres_dsn=dsn, redis_addr=redis_addr)) as store:
            notes = await store.register(schema(Note, name="notes"))
            await store.migrate()
            async with store.tx() as tx:
                tx.set(Note, 1, Note(1, "in a transaction"))
                await tx.set(Note, 2, Note(2, "awaited"))
            assert {note.text for note in (await notes.get_many([1, 2])).values()} == {"in a transaction", "awaited"}
            assert (await store.stats()).sets == store.stats().sets == 2
            assert (await store.health()).l2.state == strata.TierState.UP
        with pytest.raises(strata.ClosedError):
            await notes.get(1)

    run(use())


def test_one_loop_after_another_uses_a_store(make: MakeStore, run: Run) -> None:
    notes = registered(make())
    for n in range(3):
        run(notes.set(1, Note(1, str(n))))
        assert run(notes.get(1, force_l2=True)).text == str(n)


def test_loops_in_threads_and_synchronous_callers_share_one_store(make: MakeStore, run: Run) -> None:
    store = make(l3_pool=L3PoolConfig(max_conns=3))
    notes = registered(store, l1=None)

    async def write(first: int) -> None:
        async def each(n: int) -> None:
            await notes.set(n, Note(n, str(n)))
            assert (await notes.get(n)).text == str(n)

        await asyncio.gather(*(each(n) for n in range(first, first + 100)))

    def by_threads(first: int) -> None:
        for n in range(first, first + 100):
            store.set("notes", n, Note(n, str(n)))
            assert store.get("notes", n).text == str(n)

    failed: list[BaseException] = []

    def guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    calls = [lambda first=first: run(write(first)) for first in (0, 100, 200)]
    calls += [lambda first=first: by_threads(first) for first in (300, 400)]
    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert store.count("notes") == 500
    assert inspect(store).database.counts().open <= 3


def _in_child(store: DataStore) -> None:
    async def use() -> None:
        await store.aio.set("notes", 2, Note(2, "child"))
        assert (await store.aio.get("notes", 1, force_l2=True)).text == "parent"

    asyncio.run(use())
    store.close()


def _run(child: Any) -> None:
    child.start()
    child.join(30)


def test_the_child_of_a_fork_has_a_loop_and_connections_of_its_own(make: MakeStore, run: Run) -> None:
    store = make()
    notes = registered(store)

    async def use() -> None:
        await notes.set(1, Note(1, "parent"))
        child = multiprocessing.get_context("fork").Process(target=_in_child, args=(store,))
        thread = threading.Thread(target=partial(_run, child))  # not in the midst of the loop
        thread.start()
        while thread.is_alive():
            assert (await notes.get(1, force_l2=True)).text == "parent"
        assert child.exitcode == 0
        assert (await notes.get(2)).text == "child"

    run(use())


def test_a_frozen_server_does_not_stop_the_loop(redis_addr: str, own_postgres: EmbeddedPostgres, run: Run) -> None:
    pool = L3PoolConfig(statement_timeout=1, acquire_timeout=1, connect_timeout=2)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    async def use() -> None:
        async with AsyncDataStore(Config(postgres_dsn=own_postgres.dsn, redis_addr=redis_addr, l3_pool=pool)) as store:
            notes = store.register(schema(Note, name="notes"))
            await store.migrate()
            await notes.set(1, Note(1, "before"))
            ticking = asyncio.create_task(tick())
            own_postgres.freeze()
            before = ticks
            with pytest.raises(strata.L3UnavailableError):
                await notes.get(2)
            assert ticks > before + 20
            assert (await notes.get(1)).text == "before"
            own_postgres.thaw()
            ticking.cancel()

    run(use())


def test_a_load_goes_on_for_others_when_the_task_that_began_it_is_cancelled(
    make: MakeStore, run: Run, dsn: str
) -> None:
    notes = registered(make())

    async def use() -> None:
        await notes.set(1, Note(1, "shared"))
        await notes.invalidate(1)
        tasks = [asyncio.create_task(notes.get(1)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        assert [(await task).text for task in tasks[1:]] == ["shared", "shared"]
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    run(use())


def test_a_call_whose_task_is_thrown_away_gives_its_connection_back(make: MakeStore) -> None:
    store = make()
    notes = registered(store)
    store.get("notes", 1, default=None)

    async def begin() -> Any:
        call = notes.get(1, default=None, force_l3=True)
        call.send(None)  # it waits for PostgreSQL
        return call

    call = asyncio.run(begin())
    assert inspect(store).database.counts().open > inspect(store).database.counts().idle
    call.close()
    counts = inspect(store).database.counts
    wait_until(lambda: counts().open == counts().idle, what="the connection")
    assert store.get("notes", 1, default=None) is None


def test_hooks_may_be_coroutine_functions(make: MakeStore, run: Run) -> None:
    seen: list[str] = []

    async def before_set(note: Note) -> Note:
        await asyncio.sleep(0.001)
        seen.append(f"before {note.text}")
        return Note(note.id, f"{note.text}!")

    async def after_set(note: Note) -> None:
        await asyncio.sleep(0.001)
        seen.append(f"after {note.text}")

    async def after_get(note: Note) -> Note:
        await asyncio.sleep(0)
        return Note(note.id, note.text.upper())

    hooks: SchemaHooks[Note] = SchemaHooks(before_set=before_set, after_set=after_set, after_get=after_get)
    store = make()
    notes = registered(store, hooks=hooks)
    with pytest.raises(HookError):
        store.set("notes", 1, Note(1, "by a thread"))  # where there is no loop

    async def use() -> None:
        assert (await notes.set(1, Note(1, "a"))).text == "a!"
        assert (await notes.get(1)).text == "A!"
        async with store.aio.tx() as tx:
            tx.set("notes", 2, Note(2, "b"))
        assert (await notes.get_many([2]))[2].text == "B!"
        # A thread's call has it awaited here.
        stored = await asyncio.to_thread(store.set, "notes", 3, Note(3, "c"))
        assert stored.text == "c!"

    run(use())
    assert seen == ["before a", "after a!", "before b", "after b!", "before c", "after c!"]


def test_a_hook_may_call_the_store_that_calls_it(make: MakeStore, run: Run) -> None:
    async def after_get(note: Note) -> None:
        if note.id == 1:
            assert (await notes.get(2)).text == "other"
            assert await notes.exists(1)

    notes = registered(make(), hooks=SchemaHooks[Note](after_get=after_get))

    async def use() -> None:
        await notes.set_many({1: Note(1, "one"), 2: Note(2, "other")})
        assert (await asyncio.wait_for(notes.get(1, force_l2=True), 10)).text == "one"

    run(use())


def test_what_makes_progress_may_be_told_by_a_coroutine_function(make: MakeStore, run: Run) -> None:
    notes = registered(make())
    told: list[int] = []

    async def progress(count: int) -> None:
        await asyncio.sleep(0)
        told.append(count)

    async def use() -> None:
        await notes.set_many({n: Note(n) for n in range(5)})
        assert await notes.warm_cache(progress=progress) == 5

    run(use())
    assert told and told[-1] == 5


def test_a_connection_to_redis_that_breaks_is_made_anew(make: MakeStore, run: Run, redis_addr: str) -> None:
    notes = registered(make(), l1=None)

    async def use() -> None:
        await notes.set(1, Note(1, "kept"))
        for _ in range(3):
            with redis.Redis.from_url(f"redis://{redis_addr}") as client:
                client.client_kill_filter(_type="normal", skipme=True)
            found = await asyncio.gather(*(notes.get(1) for _ in range(50)))
            assert {note.text for note in found} == {"kept"}
            assert (await notes.get(1)).text == "kept"

    run(use())


def test_greenlets_are_kept_and_no_call_takes_a_thread(make: MakeStore, run: Run) -> None:
    notes = registered(make(), l1=None)

    async def use() -> None:
        await notes.set(1, Note(1, "a"))
        await asyncio.gather(*(notes.get(1) for _ in range(20)))
        before = {thread.ident for thread in threading.enumerate()}
        for _ in range(5):
            await asyncio.gather(*(notes.get(1) for _ in range(20)), notes.set(1, Note(1, "b")))
        assert {thread.ident for thread in threading.enumerate()} <= before | {None}

    run(use())


def test_a_synchronous_read_does_not_wait_for_a_load_that_its_own_thread_stops(make: MakeStore, run: Run) -> None:
    notes = registered(make())

    async def read_while_it_is_loaded() -> tuple[Note, Note]:
        await notes.set(1, Note(1, "there"))
        await notes.invalidate(1)
        load = asyncio.create_task(notes.get(1))
        await asyncio.sleep(0)  # it waits for Redis by now
        return notes.sync.get(1), await load

    assert run(read_while_it_is_loaded()) == (Note(1, "there"), Note(1, "there"))


HELD: dict[str, Callable[[AsyncCollection[Note, int]], Awaitable[Any]]] = {
    "set": lambda notes: notes.set(1, Note(1, "late")),
    "delete": lambda notes: notes.delete(1),
    "set_many": lambda notes: notes.set_many({1: Note(1, "late"), 2: Note(2, "late")}),
    "modify": lambda notes: notes.modify(1, lambda note: Note(1, "late")),
}


@pytest.mark.parametrize("name", HELD)
def test_a_cancelled_write_waits_for_no_lock_and_another_may_follow(make: MakeStore, run: Run, name: str) -> None:
    store = make(l3_pool=L3PoolConfig(lock_timeout=60))
    notes = registered(store)
    store.set("notes", 1, Note(1, "first"))

    async def cancelled() -> None:
        with inspect(store).database.transaction() as conn:
            conn.command("SELECT FROM notes WHERE id = 1 FOR UPDATE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await HELD[name](notes)
            await asyncio.to_thread(wait_until, lambda: _statements(store) == 0)
        assert await notes.get(1) == await notes.get(1, force_l3=True) == Note(1, "first")
        await notes.set(1, Note(1, "second"))

    run(cancelled())
    assert store.get("notes", 1) == store.get("notes", 1, force_l3=True) == Note(1, "second")


def _statements(store: DataStore) -> int:
    """How many of this test's PostgreSQL are under way, but for those that look."""
    with inspect(store).database.session() as conn:
        found = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
            " AND pid <> pg_backend_pid()"
        )
        return int(found.fetchone()[0])  # type: ignore[index]


def test_postgres_gives_up_what_a_cancelled_search_asked(make: MakeStore, run: Run) -> None:
    store = make()
    notes = registered(store)
    store.set("notes", 1, Note(1))

    async def one() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await notes.search(Q().where("pg_sleep(60) IS NOT NULL"))

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(6)))
        await asyncio.to_thread(wait_until, lambda: _statements(store) == 0)

    run(many())
    assert store.get("notes", 1, force_l3=True) == Note(1)


def test_calls_that_a_closed_loop_has_left_harm_nobody(make: MakeStore) -> None:
    notes = registered(make(), l1=None)

    async def many() -> None:
        for id in range(200):
            asyncio.get_running_loop().create_task(notes.get(id, default=None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def use() -> Note:
        await notes.set(1, Note(1, "there"))
        return await notes.get(1)

    for _ in range(5):
        left = asyncio.new_event_loop()
        left.set_exception_handler(lambda loop, context: None)  # which tells of the tasks that were left
        left.run_until_complete(many())
        left.close()
        assert asyncio.run(use()) == Note(1, "there")


def test_a_coroutine_hook_of_a_thread_is_awaited_by_the_last_loop_that_still_runs(make: MakeStore, run: Run) -> None:
    seen: list[tuple[str, bool]] = []

    async def before_set(note: Note) -> None:
        seen.append((note.text, asyncio.get_running_loop().is_running()))

    notes = registered(make(), hooks=SchemaHooks(before_set=before_set))

    async def use() -> None:
        await notes.set(1, Note(1, "by the loop"))
        await asyncio.to_thread(lambda: asyncio.run(other()))
        await asyncio.to_thread(notes.sync.set, 2, Note(2, "by a thread"))
        with pytest.raises(HookError, match=r"cannot be awaited: a coroutine was returned.*`aio`"):
            notes.sync.set(3, Note(3, "by the loop's thread"))

    async def other() -> None:
        await notes.set(4, Note(4, "by a loop that ends"))

    run(use())
    assert [text for text, _ in seen] == ["by the loop", "by a loop that ends", "by a thread"]


def test_the_other_face_of_a_store_and_of_a_collection_is_at_hand(make: MakeStore, run: Run) -> None:
    store = make()
    notes = store.register(schema(Note, name="notes"))
    store.migrate()
    run(notes.aio.set(1, Note(1, "by aio")))
    assert notes.get(1) == store.aio.sync.get("notes", 1) == Note(1, "by aio")
    assert notes.aio.sync is notes and inspect(store.aio).redis is inspect(store).redis


def test_mistakes_with_a_store_are_told(make: MakeStore, run: Run) -> None:
    store = make()
    with pytest.raises(StrataError, match="AsyncDataStore is entered by `async with`"):
        with store.aio:  # type: ignore[attr-defined]
            pass
    with pytest.raises(StrataError, match="AsyncTx is entered by `async with`"):
        with store.aio.tx():  # type: ignore[attr-defined]
            pass

    async def again() -> None:
        async with store.aio:
            await store.aio.tx().rollback()
        with pytest.raises(ClosedError):
            async with store.aio:
                pass

    run(again())


@pytest.mark.parametrize("where", ["in this thread", "in a thread that ends"])
def test_what_a_closed_loop_has_left_under_way_holds_nobody_up(make: MakeStore, where: str) -> None:
    store = make(l3_pool=L3PoolConfig(max_conns=2, acquire_timeout=1, lock_timeout=60, statement_timeout=60))
    notes = registered(store, l1=None)
    store.set("notes", 1, Note(1, "there"))

    async def begin() -> None:
        await notes.invalidate(1)
        task = asyncio.get_running_loop().create_task(notes.get(1))
        while inspect(store).database.counts().open == inspect(store).database.counts().idle:
            await asyncio.sleep(0.01)
        task.add_done_callback(lambda task: None)

    def leave() -> None:
        left = asyncio.new_event_loop()
        left.set_exception_handler(lambda loop, context: None)  # which tells of the task that was left
        left.run_until_complete(begin())
        if where == "in this thread":
            left.close()

    for _ in range(3):
        with inspect(store).database.transaction() as conn:
            conn.command("LOCK TABLE notes")
            if where == "in this thread":
                leave()
            else:
                thread = threading.Thread(target=leave)
                thread.start()
                thread.join()
        assert store.get("notes", 1) == Note(1, "there")
    assert asyncio.run(notes.get(1, force_l3=True)) == Note(1, "there")
    wait_until(lambda: inspect(store).database.counts().open <= 2)


@pytest.mark.parametrize("close", [False, True], ids=["stopped", "closed"])
def test_a_thread_does_not_wait_for_a_hook_whose_loop_was_stopped(make: MakeStore, close: bool) -> None:
    began = threading.Event()

    async def before_set(note: Note) -> None:
        began.set()
        await asyncio.sleep(60)

    store = make()
    registered(store, hooks=SchemaHooks(before_set=before_set))
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    runs = threading.Thread(target=loop.run_forever)
    runs.start()
    asyncio.run_coroutine_threadsafe(store.aio.exists("notes", 1), loop).result()
    failed: list[Exception] = []

    def write() -> None:
        try:
            store.set("notes", 1, Note(1))
        except HookError as error:
            failed.append(error)

    writes = threading.Thread(target=write)
    writes.start()
    assert began.wait(10)
    loop.call_soon_threadsafe(loop.stop)
    runs.join()
    if close:
        loop.close()
    writes.join(10)
    assert not writes.is_alive() and "was stopped" in str(failed[0])
    if not close:
        loop.run_until_complete(asyncio.sleep(0))  # the task that was cancelled ends
        loop.close()


@pytest.mark.parametrize("way", ["a record", "many records"])
def test_an_answer_may_take_longer_than_the_time_out_while_it_gets_on(
    make: MakeStore, redis_addr: str, run: Run, way: str
) -> None:
    size = 1_000_000 if way == "a record" else 40_000
    with paced(redis_addr, 0.1) as addr:
        store = make(redis_addr=addr, l2_pool=L2PoolConfig(read_timeout=0.8))
        notes = registered(store, l1=None, l3=None)
        store.set_many("notes", {id: Note(id, "x" * size) for id in range(25)})

        async def read() -> None:
            if way == "a record":
                assert len((await notes.get(1)).text) == size
            else:
                assert len(await notes.get_many(list(range(25)))) == 25

        run(read())
        assert inspect(store).redis.breaker.closed
        store.close()
