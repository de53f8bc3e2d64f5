"""UNLOADED leaves no application as a value: every encoder refuses it, and says which field holds it where it can."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
import pydantic_core
import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.template import Context, Engine
from fastapi.encoders import jsonable_encoder

from strata import UNLOADED, EncodeError, loaded, whole
from tests.surroundings import django_beside  # noqa: F401 which sets Django up


@dataclass
class Plain:
    id: str
    bio: str = ""
    tags: list[str] = field(default_factory=list)
    free: Any = None


@dataclass(frozen=True, slots=True)
class Slotted:
    id: str
    bio: str = ""
    tags: list[str] = field(default_factory=list)
    free: Any = None


class Struct(msgspec.Struct):
    id: str
    bio: str = ""
    tags: list[str] = []
    free: Any = None


class Model(pydantic.BaseModel):
    id: str
    bio: str = ""
    tags: list[str] = []
    free: Any = None


KINDS: list[Any] = [Plain, Slotted, Struct, Model]
FIELDS = ("bio", "tags", "free")
Encode = Callable[[Any], Any]


def lacking(kind: Any, *names: str) -> Any:
    """A record without these fields, as a read makes it."""
    make = kind.model_construct if kind is Model else kind
    return make(id="a", **dict.fromkeys(names, UNLOADED))


def values(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("id", *FIELDS)}


def page(template: str) -> Encode:
    return lambda record: Engine().from_string(template).render(Context({"record": record}))


# What names the field, and what knows nothing of UNLOADED and names that.
NAMING: dict[str, tuple[list[Any], Encode]] = {
    "json.dumps with default=str": (KINDS, lambda it: json.dumps(values(it), default=str)),
    "json.dumps with default=list": (KINDS, lambda it: json.dumps(values(it), default=list)),
    "jsonable_encoder": ([Plain, Slotted, Model], jsonable_encoder),
    "jsonable_encoder of a dict": (KINDS, lambda it: jsonable_encoder({"records": [values(it)]})),
    "jsonable_encoder with a custom encoder": (
        [Plain, Slotted],
        lambda it: jsonable_encoder(it, custom_encoder={type(UNLOADED): str}),
    ),
    "model_dump_json": ([Model], lambda it: it.model_dump_json()),
    "model_dump in JSON": ([Model], lambda it: it.model_dump(mode="json")),
    "TypeAdapter.dump_json": ([Plain, Model], lambda it: pydantic.TypeAdapter(type(it)).dump_json(it)),
    "TypeAdapter of anything": (KINDS, lambda it: pydantic.TypeAdapter(Any).dump_json([values(it)])),
    "pydantic_core.to_json": ([Plain, Slotted, Model], lambda it: pydantic_core.to_json(it)),
    "pydantic_core.to_json with fallback=str": ([Plain, Model], lambda it: pydantic_core.to_json(it, fallback=str)),
    "msgspec with enc_hook=str": (
        [Plain, Slotted, Struct],
        lambda it: msgspec.json.encode(it, enc_hook=str),
    ),
    "a format": (KINDS, lambda it: f"{it.bio}{it.tags}{it.free}"),
    "a template": (KINDS, page("{{ record.bio }}{{ record.tags }}{{ record.free }}")),
    "a template's loop": (
        KINDS,
        page("{% for x in record.tags %}{% endfor %}{{ record.bio }}{{ record.free }}"),
    ),
    "a template's attributes": (KINDS, page("{{ record.bio.x }}{{ record.tags.x }}{{ record.free.x }}")),
    "whole": (KINDS, whole),
}
REFUSING: dict[str, tuple[list[Any], Encode]] = {
    "json.dumps": (KINDS, lambda it: json.dumps(values(it))),
    "DjangoJSONEncoder": (KINDS, lambda it: json.dumps(values(it), cls=DjangoJSONEncoder)),
    "msgspec.json": ([Plain, Slotted, Struct], msgspec.json.encode),
    "msgspec.msgpack": ([Plain, Slotted, Struct], msgspec.msgpack.encode),
    "msgspec.to_builtins": ([Plain, Slotted, Struct], msgspec.to_builtins),
}


def cases(encoders: dict[str, tuple[list[Any], Encode]]) -> list[Any]:
    return [
        pytest.param(encode, kind, id=f"{name}-{kind.__name__}")
        for name, (kinds, encode) in encoders.items()
        for kind in kinds
    ]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(("encode", "kind"), cases(NAMING))
def test_an_encoder_that_would_show_it_raises_and_names_the_field(encode: Encode, kind: Any, name: str) -> None:
    with pytest.raises(Exception, match=rf"\b{name}: UNLOADED.*whole=True") as raised:
        encode(lacking(kind, name))
    others = [other for other in FIELDS if other != name and f"{other}:" in str(raised.value)]
    assert not others


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(("encode", "kind"), cases(REFUSING))
def test_an_encoder_that_knows_nothing_of_it_raises_and_names_unloaded(encode: Encode, kind: Any, name: str) -> None:
    with pytest.raises(TypeError, match="type UNLOADED is"):
        encode(lacking(kind, name))


@pytest.mark.parametrize(("encode", "kind"), cases(NAMING | REFUSING))
def test_a_whole_record_is_encoded_as_ever(encode: Encode, kind: Any) -> None:
    encode(kind(id="a", bio="b", tags=["c"], free={"d": 1}))


def test_no_model_of_pydantic_s_takes_it_for_a_value_of_a_type() -> None:
    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True, coerce_numbers_to_str=True)
        bio: str | None = None
        tags: list[str] | dict[str, str] | bool | int | None = None

    with pytest.raises(pydantic.ValidationError, match="UNLOADED"):
        Answer.model_validate(lacking(Plain, "bio"))
    with pytest.raises(pydantic.ValidationError, match="UNLOADED"):
        Answer.model_validate(lacking(Plain, "tags"))


def test_no_model_of_pydantic_s_takes_the_defaults_of_its_fields_for_those_of_unloaded() -> None:
    class Author(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True)
        name: str = "nobody"

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True)
        free: Author

    with pytest.raises(pydantic.ValidationError, match="UNLOADED"):
        Answer.model_validate(lacking(Plain, "free"))


def test_an_answer_that_takes_anything_is_refused_when_it_is_made_json() -> None:
    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True)
        free: Any = None

    answer = Answer.model_validate(lacking(Plain, "free"))
    with pytest.raises(pydantic_core.PydanticSerializationError, match=r"Answer\.free: UNLOADED"):
        answer.model_dump_json()


def test_a_record_is_shown_with_it_and_dumped_in_python_with_it() -> None:
    assert "bio=UNLOADED" in repr(lacking(Plain, "bio"))
    assert dataclasses.asdict(lacking(Plain, "bio"))["bio"] is UNLOADED
    assert lacking(Model, "free").model_dump()["free"] is UNLOADED
    assert repr(UNLOADED) == f"{UNLOADED!r}" == "UNLOADED"


def test_what_would_make_it_a_value_raises_an_error_of_the_family() -> None:
    texts: list[Any] = [str, list, dict, "{}".format, "%s".__mod__]
    for use in texts:
        with pytest.raises(EncodeError, match="UNLOADED"):
            use(UNLOADED)
    numbers: list[Any] = [int, float, len, vars]
    for use in numbers:
        with pytest.raises(TypeError):
            use(UNLOADED)


def test_a_message_tells_names_of_fields_and_nothing_of_the_values_or_keys_beside_them() -> None:
    def show() -> str:
        kept = {"secret@example.com": UNLOADED, "password": "hunter2", 5: UNLOADED, "bio": UNLOADED}
        return ", ".join(str(value) for value in kept.values() if value is UNLOADED)

    with pytest.raises(EncodeError, match="bio: UNLOADED") as raised:
        show()
    assert not any(word in str(raised.value) for word in ("secret", "hunter", "password", "5"))


def test_callers_whose_own_objects_raise_do_not_hide_the_refusal() -> None:
    class Odd:
        __dataclass_fields__ = {"bio": None}

        @property
        def bio(self) -> str:
            raise RuntimeError("not to be read")

    def show(odd: Odd) -> str:
        return str(UNLOADED)

    with pytest.raises(EncodeError, match="UNLOADED"):
        show(Odd())


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_tells_whether_a_record_is_whole_and_whole_gives_it_or_names_all_that_it_lacks(kind: Any) -> None:
    record = kind(id="a")
    assert loaded(record) and whole(record) is record
    assert not loaded(lacking(kind, "bio"))
    with pytest.raises(EncodeError, match=rf"^{kind.__name__}\.bio, {kind.__name__}\.free: UNLOADED"):
        whole(lacking(kind, "bio", "free"))


@pytest.mark.parametrize("thing", [None, UNLOADED, {}, [], "a", 1, Plain], ids=repr)
def test_what_is_no_record_is_neither_loaded_nor_whole(thing: Any) -> None:
    for ask in (loaded, whole):
        with pytest.raises(EncodeError, match="must be a record"):
            ask(thing)


def test_it_stays_one_object_and_falsy() -> None:
    for again in (copy.copy(UNLOADED), copy.deepcopy(UNLOADED), pickle.loads(pickle.dumps(UNLOADED))):
        assert again is UNLOADED
    assert not UNLOADED
