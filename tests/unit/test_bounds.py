"""What users' code makes without end does not stay without end."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import make_dataclass
from typing import Annotated, Any

import msgspec
import pytest

from strata import JSON, Config, DataStore, L1PoolConfig, MemPolicy, MsgPack, NotFoundError, PrimaryKey, Schema
from strata.l3 import failures
from strata.model import compile_model
from strata.observe import labels

FIELDS = [("id", Annotated[int, PrimaryKey]), ("name", str), ("tags", list[str])]


def made(kind: str) -> Any:
    if kind == "struct":
        return msgspec.defstruct("Made", FIELDS)
    return make_dataclass("Made", FIELDS, slots=kind == "slots", frozen=kind == "frozen")


@pytest.mark.parametrize("kind", ["dataclass", "frozen", "slots", "struct"])
def test_a_model_made_in_a_function_ends_with_its_store(kind: str) -> None:
    def use() -> weakref.ref[Any]:
        model = made(kind)
        for codec in (JSON(), MsgPack()):
            with DataStore(Config(codec=codec)) as store:
                store.register(Schema(model, name="made", l1=MemPolicy()))
                store.set("made", 1, model(1, "one", ["a"]))
                assert store.get("made", 1) == model(1, "one", ["a"])
            assert codec.decode(codec.encode(model(1, "one", ["a"]), model), model) == model(1, "one", ["a"])
        return weakref.ref(model)

    model = use()
    gc.collect()
    assert model() is None


def test_a_model_has_one_plan_whoever_comes_first_and_its_subclass_another() -> None:
    model = made("dataclass")
    plans: list[Any] = []
    threads = [threading.Thread(target=lambda: plans.append(compile_model(model))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(plans) == 8 and len(set(map(id, plans))) == 1
    child = type("Child", (model,), {})
    assert compile_model(child).model is child
    assert compile_model(model) is plans[0]


def test_l1_of_a_schema_that_says_nothing_is_bounded_and_one_that_says_0_is_not() -> None:
    model = made("dataclass")
    most = 256 * L1PoolConfig().max_entries
    assert most == 102_400
    with DataStore(Config()) as store:
        store.register(Schema(model, name="silent", l1=MemPolicy()))
        store.register(Schema(model, name="endless", l1=MemPolicy(max_entries=0)))
        for name in ("silent", "endless"):
            for number in range(most + 10):
                store.set(name, number, model(number, "", []))
        kept = store.stats().by_schema
        assert kept["silent"]["l1_entries"] == most
        assert kept["silent"]["evictions"] == 10
        assert kept["endless"]["l1_entries"] == most + 10


def test_labels_of_metrics_are_words_that_are_known_beforehand() -> None:
    own = type("Surprise", (Exception,), {})
    assert labels.of_error(NotFoundError) == "NotFoundError"
    assert {labels.of_error(own), labels.of_error(KeyboardInterrupt)} == {"other"}
    assert [failures.label_of(state) for state in ("23505", "P0001", "", "AB123", "x")] == [
        "23505", "P0001", "", "other", "other",
    ]  # fmt: skip
