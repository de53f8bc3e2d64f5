"""Records of pydantic models are made without their validators, and are as those that the constructor makes."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pydantic
import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    PositiveInt,
    PrivateAttr,
    field_validator,
    model_validator,
)

from strata.codec import JSON, MsgPack
from strata.model import compile_model
from tests.pydantic_records import (
    NOW,
    Key,
    Player,
    player,
    refused,
    stored,
    ways,
)

calls: list[str] = []


class Guarded(BaseModel):
    """Whatever of it runs is noted."""

    model_config = ConfigDict(validate_assignment=True)
    id: Key
    level: PositiveInt = 1
    inner: Inside

    def model_post_init(self, context: Any) -> None:
        calls.append("post init")

    def __setattr__(self, name: str, value: Any) -> None:
        calls.append("setattr")
        super().__setattr__(name, value)

    @field_validator("level")
    @classmethod
    def seen(cls, level: int) -> int:
        calls.append("field")
        return level


class Inside(BaseModel):
    level: PositiveInt = 1

    @model_validator(mode="before")
    @classmethod
    def seen(cls, given: Any) -> Any:
        calls.append("inside")
        return given


def test_nothing_of_the_model_s_own_runs_on_the_way_out() -> None:
    plan = compile_model(Guarded)
    record = stored(Guarded(id="a", inner=Inside()))
    calls.clear()
    record = plan.copy(record)
    row = (*plan.to_row(record, None)[:1], -5, '{"level": -7}')  # as other programs leave it
    for back in (plan.thaw(plan.freeze(record)), plan.merge(record, record), plan.from_row(row, None)):
        assert type(back) is Guarded and type(back.inner) is Inside
    assert (back.level, back.inner.level) == (-5, -7)
    for codec in (JSON(), MsgPack()):
        assert plan.decoder(codec)(plan.encoder(codec)(back)) == back
    assert calls == []
    refused(back, "Guarded.inner", "Inside.level")


class Slotted(BaseModel):
    __slots__ = ("extra",)
    id: Key
    count: int = 0


def test_a_model_with_slots_of_its_own_is_made_too() -> None:
    record = Slotted(id="a", count=5)
    for way, back in ways(compile_model(Slotted), record).items():
        assert back == record and type(back) is Slotted, way


def test_what_comes_out_is_as_what_the_constructor_makes() -> None:
    plan, record = compile_model(Player), stored(player())
    again = Player(**{name: getattr(record, name) for name in Player.model_fields})
    for way, back in ways(plan, record).items():
        assert back == record == again and back is not record, way
        assert list(back.__dict__) == list(Player.model_fields), way
        assert back.model_dump() == again.model_dump() and back.model_dump_json() == again.model_dump_json(), way
        assert back.model_fields_set == set(Player.model_fields), way
        assert back.model_extra is None and repr(back) == repr(again), way
        assert pickle.loads(pickle.dumps(back)) == back and copy.deepcopy(back) == back, way
        changed = back.model_copy(update={"level": 7})
        assert (changed.level, back.level) == (7, 1), way
        back.level = 8
        assert back.whisper == "andrew" and back.level == 8, way


def test_a_copy_shares_nothing_that_can_change() -> None:
    plan, record = compile_model(Player), stored(player())
    frozen = plan.freeze(record)
    copies = [*ways(plan, record).values(), plan.thaw(frozen)]
    record.tags.append("changed")
    record.home.others.clear()
    record.model_fields_set.clear()
    for back in [*copies, plan.thaw(frozen)]:
        assert back.tags == [] and len(back.home.others) == 1 and "id" in back.model_fields_set
    assert Player(id="b", username="b").tags == []


def test_what_is_computed_and_kept_in_the_instance_is_not_stored() -> None:
    plan, given = compile_model(Player), player()
    assert given.whisper == "andrew" and "whisper" in given.__dict__
    for way, back in ways(plan, stored(given)).items():
        assert "whisper" not in back.__dict__, way


class Point(BaseModel):
    model_config = ConfigDict(frozen=True)
    id: Key
    x: int = 0
    path: tuple[Corner, ...] = ()


class Corner(BaseModel):
    model_config = ConfigDict(frozen=True)
    y: int = 0


class Cached(Point):
    @functools.cached_property
    def words(self) -> list[str]:
        return []


class Secretive(Point):
    _private: list[int] = PrivateAttr(default_factory=list)


class Listed(Point):
    z: list[int] = []


class Loose(Point):
    model_config = ConfigDict(frozen=False)


def test_a_frozen_model_of_immutable_fields_is_handed_out_as_it_is() -> None:
    plan, record = compile_model(Point), Point(id="a", path=(Corner(y=1),))
    assert plan.immutable
    assert plan.freeze(record) is record and plan.thaw(record) is record and plan.copy(record) is record
    assert plan.prepare(plan.check(record), NOW) == record
    with pytest.raises(pydantic.ValidationError):
        plan.from_row(plan.to_row(record, None), None).x = 5
    assert hash(stored(record)) == hash(record)
    assert stored(pydantic.create_model("Many", id=(Key, ...), all=(set[Corner], ...))(id="a", all={Corner()})).all


@pytest.mark.parametrize("model", [Cached, Secretive, Listed, Loose])
def test_what_can_change_is_not_shared(model: Any) -> None:
    plan, record = compile_model(model), model(id="a")
    assert not plan.immutable
    for way, back in ways(plan, record).items():
        assert back == record and back is not record, way
