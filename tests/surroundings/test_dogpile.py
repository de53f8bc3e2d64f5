"""The backend for dogpile.cache: what dogpile's own tests, which ./ops/peers runs, do not ask."""

from __future__ import annotations

import importlib
import itertools
import os
import pickle
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import make_region, register_backend
from dogpile.cache.api import NO_VALUE

from strata import DataStore, EncodeError, InvalidConfigError, L2UnavailableError
from strata.embedded import EmbeddedValkey
from strata.integrations.dogpile import StrataBackend
from strata.testing import inspect
from tests.behind import client
from tests.stores import MakeStore
from tests.support import wait_until

ENTRY_POINT = "strata.integrations.dogpile:StrataBackend"
MakeRegion = Callable[..., Any]

register_backend("strata", *ENTRY_POINT.split(":"))  # type: ignore[no-untyped-call]  # as an installation does


@pytest.fixture
def region(make: MakeStore) -> Iterator[MakeRegion]:
    """Regions on the same Redis, each of a process of its own."""

    def made(expiration_time: float | None = None, region: Any = None, **arguments: Any) -> Any:
        given = {"store": make(postgres_dsn=""), "secret_key": "secret"} | arguments
        return (region or make_region()).configure("strata", expiration_time=expiration_time, arguments=given)

    yield made


def test_the_installation_names_the_backend_to_dogpile() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert project["entry-points"]["dogpile.cache"] == {"strata": ENTRY_POINT}
    module, name = ENTRY_POINT.split(":")
    assert getattr(importlib.import_module(module), name) is StrataBackend


def test_what_one_process_does_the_other_ones_see(region: MakeRegion) -> None:
    one, other = region(), region()
    for each in (one, other):
        each.get("key")
        wait_until(lambda each=each: inspect(each.backend._store).sure)  # type: ignore[misc]
    steps: list[tuple[Callable[[], object], object]] = [
        (lambda: one.set("key", [1]), [1]),
        (lambda: one.delete("key"), NO_VALUE),
        (lambda: one.set_multi({"key": 2, "more": 3}), 2),
        (lambda: one.delete_multi(["key", "more"]), NO_VALUE),
        (lambda: one.get_or_create("key", lambda: 4), 4),
    ]
    for change, seen in steps:
        other.get("key")
        change()
        assert one.get("key") == seen
        wait_until(lambda: other.get("key") == seen)  # noqa: B023


def test_with_a_distributed_lock_one_of_all_processes_makes_a_value(region: MakeRegion) -> None:
    regions = [region(distributed_lock=True, lock_sleep=0.01) for _ in range(3)]
    counter = itertools.count(1)
    with ThreadPoolExecutor(9) as pool:
        made = list(pool.map(lambda n: regions[n % 3].get_or_create("key", lambda: next(counter)), range(9)))
    assert made == [1] * 9


def test_a_value_is_gone_after_the_redis_expiration_time(region: MakeRegion) -> None:
    short, long = region(redis_expiration_time=0.1, key_prefix="short"), region(key_prefix="long")
    for each in (short, long):
        each.set_multi({"a": 1, "b": 2})
    wait_until(lambda: short.get_multi(["a", "b"]) == [NO_VALUE, NO_VALUE])
    assert long.get_multi(["a", "b", "c"]) == [1, 2, NO_VALUE]


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/nowhere/that/could/be",)


def test_a_pickle_that_somebody_else_wrote_is_not_run(region: MakeRegion, redis_addr: str) -> None:
    region(secret_key="another").set("key", Bomb())
    with client(redis_addr) as conn:
        conn.set("strata:dogpile:raw", b'{"v":2,"ct":1}|' + pickle.dumps(Bomb()))
    mine = region()
    assert mine.get_multi(["key", "raw"]) == [NO_VALUE, NO_VALUE]
    assert mine.get_or_create("key", lambda: 1) == 1


class Gone:
    """A class of an earlier release."""


def test_a_value_whose_class_is_gone_is_made_anew(region: MakeRegion, monkeypatch: pytest.MonkeyPatch) -> None:
    region().set("key", Gone())
    monkeypatch.delattr(f"{__name__}.Gone")
    assert region().get_or_create("key", lambda: "anew") == "anew"


def test_without_a_secret_what_json_has_is_kept_or_what_a_serializer_of_the_region_makes(
    region: MakeRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STRATA_SECRET_KEY", raising=False)
    plain = region(secret_key=None)
    plain.set("key", {"a": [1, None]})
    assert plain.get("key") == {"a": [1, None]}
    with pytest.raises(EncodeError, match="STRATA_SECRET_KEY"):
        plain.set("key", {1: 2})
    own = region(None, make_region(serializer=str.encode, deserializer=bytes.decode), secret_key=None)
    own.set("text", "x")
    assert own.get("text") == "x"


def test_in_an_outage_calls_raise(region: MakeRegion, make: MakeStore) -> None:
    with EmbeddedValkey(password="") as server:
        mine = region(store=make(redis_addr=server.addr, postgres_dsn=""), distributed_lock=True)
        mine.set("key", 1)
    for call in (mine.get, mine.delete, lambda key: mine.set(key, 1), lambda key: mine.get_or_create(key, lambda: 1)):
        with pytest.raises(L2UnavailableError):
            call("new")


def test_arguments_that_cannot_be_are_refused_and_unknown_ones_are_ignored(make: MakeStore) -> None:
    given = {"store": make(postgres_dsn=""), "foo": "bar"}
    StrataBackend(given)
    assert set(given) == {"store", "foo"} and isinstance(given["store"], DataStore)
    for wrong in ({"secret_key": 7}, {"lock_timeout": -1}, {"redis_expiration_time": "soon"}):
        with pytest.raises(InvalidConfigError, match=next(iter(wrong))):
            StrataBackend({"redis_addr": "127.0.0.1:1"} | wrong)
