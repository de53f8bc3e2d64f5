"""The compiled part and its plain twins: what is a hit, and what is none, is so by both, and so is what is shown."""

from __future__ import annotations

import gc
import inspect
import os
import subprocess
import sys
import threading
import traceback
import typing
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

import strata
from strata import (
    ClosedError,
    Collection,
    Config,
    DataStore,
    EncodeError,
    MemPolicy,
    NotFoundError,
    PrimaryKey,
    Schema,
    SchemaHooks,
    SchemaNotFoundError,
    _compiled,
)
from strata.cli.doctor.compiled import compiled as finding
from strata.cli.doctor.finding import FindingState
from strata.l1.entry import GONE, L1Entry

ROOT = Path(__file__).parents[2]
HIT_PATH = [
    "tests/unit/test_compiled.py", "tests/unit/test_l1_store.py", "tests/unit/test_l1_policies.py",
    "tests/unit/test_l1_sweeper.py", "tests/unit/test_memory.py", "tests/unit/test_versions.py",
    "tests/unit/test_writebehind_buffer.py", "tests/property/test_l1_eviction.py",
]  # fmt: skip

Get = Callable[..., Any]


@dataclass(frozen=True)
class Seat:
    """An immutable record."""

    id: Annotated[str, PrimaryKey]
    row: int = 7


@dataclass
class Tray:
    """One that its caller may change."""

    id: Annotated[int, PrimaryKey]
    dishes: list[str]


@dataclass(frozen=True)
class Place:
    """One of a key of two fields."""

    hall: Annotated[int, PrimaryKey]
    name: Annotated[str, PrimaryKey]


class Ways:
    """The ways to a hit: of the store and of the collection, as they are, and in plain Python."""

    def __init__(self, store: DataStore) -> None:
        self.store = store
        self.seats = store.register(Schema(Seat, name="seats", l1=MemPolicy(ttl=60)))
        self.trays = store.register(Schema(Tray, name="trays", l1=MemPolicy(ttl=60)))
        self.places = store.register(Schema(Place, name="places", l1=MemPolicy(ttl=60)))

    def of(self, way: str, handle: Collection[Any, Any]) -> Get:
        owner: Any = self.store if "store" in way else handle
        get = inspect.getattr_static(type(owner), "get")
        first = (owner, handle.name) if "store" in way else (owner,)
        function = inspect.unwrap(get) if "plain" in way else get
        return lambda *args, **named: function(*first, *args, **named)

    def entry(self, handle: Collection[Any, Any], id: Any) -> L1Entry:
        """What L1 holds under the id."""
        return handle._hot.bound.l1.entries[id]


@pytest.fixture
def ways() -> Iterator[Ways]:
    with DataStore(Config()) as store:
        yield Ways(store)


@pytest.fixture(params=["the store's", "the collection's", "the store's plain one", "the collection's plain one"])
def way(request: pytest.FixtureRequest) -> str:
    named: str = request.param
    return named


def test_the_compiled_part_runs_where_it_was_built_and_is_not_left_out() -> None:
    assert strata.compiled is (not _compiled.lacking)
    if os.environ.get("STRATA_PURE") == "1":
        assert not strata.compiled


def test_the_environment_leaves_it_out_and_the_doctor_says_so() -> None:
    program = "import strata; from strata import _compiled; print(strata.compiled, _compiled.lacking)"
    for pure, said in [("1", "False STRATA_PURE is set"), ("0", str(True)), ("", str(True))]:
        env = {**os.environ, "STRATA_PURE": pure}
        shown = subprocess.run([sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True)
        assert shown.stdout.startswith(said) or (pure != "1" and "not built" in shown.stdout), shown
    [found] = finding()
    assert found.state is FindingState.OK
    assert found.found == ("yes" if strata.compiled else f"no: {_compiled.lacking}")


def test_a_hit_is_stamped_and_counted(ways: Ways, way: str) -> None:
    given = ways.seats.set("a", Seat("a"))
    entry = ways.entry(ways.seats, "a")
    entry.used = entry.queued = entry.used - 1
    get = ways.of(way, ways.seats)
    assert get("a") == given and get("a") is get("a")
    assert entry.hits == 3 and entry.used > entry.queued
    assert ways.store.stats().l1_hits == 3


def test_what_may_be_changed_is_the_caller_s(ways: Ways, way: str) -> None:
    ways.trays.set(1, Tray(1, ["rice"]))
    get = ways.of(way, ways.trays)
    get(1).dishes.append("beans")
    assert get(1) == Tray(1, ["rice"]) and get(1) is not get(1)


def test_what_only_compares_equal_to_an_id_is_none(ways: Ways, way: str) -> None:
    ways.trays.set(1, Tray(1, []))
    ways.places.set((1, "x"), Place(1, "x"))
    trays, places = ways.of(way, ways.trays), ways.of(way, ways.places)
    others: list[tuple[Get, Any]] = [(trays, True), (trays, 1.0), (places, (True, "x")), (places, [1, "x"])]
    for get, other in others:
        with pytest.raises(EncodeError):
            get(other)
    assert places((1, "x")) == Place(1, "x")
    assert ways.store.stats().l1_hits == 1


def test_what_has_no_hash_or_one_that_raises_is_no_key(ways: Ways, way: str) -> None:
    class Odd:
        def __hash__(self) -> int:
            raise RuntimeError

    odds: list[Any] = [[], {}, Odd(), None]
    for odd in odds:
        with pytest.raises(EncodeError):
            ways.of(way, ways.seats)(odd)


@pytest.mark.parametrize("outside", [TimeoutError, KeyboardInterrupt])
def test_what_comes_from_outside_while_a_key_is_compared_is_the_caller_s(
    ways: Ways, way: str, outside: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = uuid.UUID(int=7)
    monkeypatch.setattr(uuid.UUID, "__hash__", lambda self: (_ for _ in ()).throw(outside))
    with pytest.raises(outside):
        ways.of(way, ways.seats)(key)


def test_a_schema_that_is_not_there_or_has_no_hash_is_not_found(ways: Ways) -> None:
    gets: list[Get] = [DataStore.get, inspect.unwrap(DataStore.get)]
    others: list[Any] = ["others", Ways, [], None]
    for get in gets:
        for schema in others:
            with pytest.raises(SchemaNotFoundError):
                get(ways.store, schema, "a")


def test_what_is_out_of_date_gone_or_not_trusted_is_no_hit(ways: Ways, way: str) -> None:
    get = ways.of(way, ways.seats)
    ways.seats.set("a", Seat("a"))
    entry = ways.entry(ways.seats, "a")
    until = entry.expires
    for expires in (GONE, entry.loaded - 1):
        entry.expires = entry.ends = expires
        assert get("a", default=None) is None
        entry.expires = entry.ends = until
    assert get("a", default=None) == Seat("a")
    assert entry.hits == 1


def test_what_is_asked_for_past_l1_is_no_hit(ways: Ways, way: str) -> None:
    ways.seats.set("a", Seat("a"))
    get = ways.of(way, ways.seats)
    assert get("a", default=None, force_l2=True) is None
    assert ways.entry(ways.seats, "a").hits == 0
    assert get("a", force_l2=False, force_l3=0, whole=None) == Seat("a")
    assert ways.entry(ways.seats, "a").hits == 1


def test_a_miss_raises_or_gives_the_default(ways: Ways, way: str) -> None:
    get = ways.of(way, ways.seats)
    assert get("b", default=None) is None and get("b", default=3) == 3
    with pytest.raises(NotFoundError):
        get("b")
    with pytest.raises(TypeError):
        get()
    with pytest.raises(TypeError):
        get("b", nothing=1)


def test_a_closed_store_refuses_what_was_a_hit(ways: Ways, way: str) -> None:
    ways.seats.set("a", Seat("a"))
    ways.store.close()
    with pytest.raises(ClosedError):
        ways.of(way, ways.seats)("a")


def test_a_hook_sees_every_read(way: str) -> None:
    seen: list[str] = []
    with DataStore(Config()) as store:
        hooks = SchemaHooks[Seat](after_get=lambda record: seen.append(record.id))
        seats = store.register(Schema(Seat, name="seats", l1=MemPolicy(ttl=60), hooks=hooks))
        seats.set("a", Seat("a"))
        made = Ways.__new__(Ways)
        made.store = store
        made.of(way, seats)("a")
        made.of(way, seats)("a")
    assert seen == ["a", "a"]


def test_hits_of_many_threads_are_all_counted(ways: Ways, way: str) -> None:
    ways.seats.set("a", Seat("a"))
    get, interval = ways.of(way, ways.seats), sys.getswitchinterval()

    def read() -> None:
        for _ in range(2000):
            get("a")

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert ways.store.stats().l1_hits == 16_000


def test_entries_are_none_of_the_collector_s(ways: Ways) -> None:
    ways.seats.set("a", Seat("a"))
    assert not gc.is_tracked(ways.entry(ways.seats, "a"))


def test_a_version_may_be_beyond_what_c_holds() -> None:
    entry = L1Entry("value", 1 << 80, True, 1.0, 0.0, 0.0)
    assert (entry.version, entry.pending, entry.own, entry.key) == (1 << 80, True, False, None)
    assert (entry.ends, entry.queued, entry.hits, entry.seen, entry.count) == (float("inf"), 0.0, 0, 0, 0)


def test_a_store_may_be_referred_to_weakly_and_be_derived_from() -> None:
    class Mine(DataStore):
        def get(self, *args: Any, **named: Any) -> Any:
            return ("mine", super().get(*args, **named))

    with Mine(Config()) as store:
        assert weakref.ref(store)() is store
        seats = store.register(Schema(Seat, name="seats", l1=MemPolicy()))
        seats.set("a", Seat("a"))
        assert store.get("seats", "a") == ("mine", Seat("a"))
        assert store.get("seats", "b", default=None) == ("mine", None)


@pytest.mark.parametrize("kind", [DataStore, Collection])
def test_get_is_shown_as_it_is_written(kind: Any) -> None:
    signature = inspect.signature(kind.get)
    assert list(signature.parameters)[-5:] == ["id", "default", "force_l2", "force_l3", "whole"]
    assert repr(signature.parameters["default"].default) == "<raise NotFoundError>"
    assert signature.return_annotation == "Any"
    assert kind.get.__doc__.startswith("The record, from L1, L2 or L3")
    assert (kind.get.__name__, kind.get.__qualname__) == ("get", f"{kind.__name__}.get")
    assert kind.get.__module__ == inspect.unwrap(kind.get).__module__
    assert "def get(" in inspect.getsource(kind.get)
    assert len(typing.get_overloads(inspect.unwrap(kind.get))) >= 2


def test_the_traceback_of_a_miss_shows_the_lines_of_python_behind_it(ways: Ways, way: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        ways.of(way, ways.seats)("b")
    frames = [(Path(frame.filename).name, frame.name) for frame in traceback.extract_tb(caught.tb)]
    assert frames[-1] == ("datastore.py", "_get_slowly")
    assert all(frame.line for frame in traceback.extract_tb(caught.tb))


@pytest.mark.slow
@pytest.mark.skipif(not strata.compiled, reason="they are run so already")
def test_the_tests_of_what_has_a_compiled_twin_pass_without_it() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *HIT_PATH]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    told = subprocess.run(command, cwd=ROOT, env={**env, "STRATA_PURE": "1"}, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
