"""What a web application gives out is whole, or an error: at the first request as at the warm one."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import msgspec
import psycopg
import pydantic
import pytest
from django.core.serializers.json import DjangoJSONEncoder
from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import strata
from strata import (
    UNLOADED,
    Collection,
    DataStore,
    EncodeError,
    L3UnavailableError,
    MemPolicy,
    NotFoundError,
    PostgresPolicy,
    RedisPolicy,
    SchemaHooks,
    WriteMode,
    loaded,
    whole,
)
from strata.observe.server_call import ServerCall
from strata.testing import Proxy, inspect
from tests.behind import hand_off, idle, paced
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

pytestmark = pytest.mark.both_faces


@dataclass
class Profile:
    id: Annotated[str, strata.PrimaryKey]
    name: str = ""
    views: int = 0
    photo: Annotated[str, strata.OmitCache] = ""
    bio: Annotated[str | None, strata.OmitL1] = None


class Struct(msgspec.Struct):
    id: Annotated[str, strata.PrimaryKey]
    name: str = ""
    views: int = 0
    photo: Annotated[str, strata.OmitCache] = ""
    bio: Annotated[str | None, strata.OmitL1] = None


class Model(pydantic.BaseModel):
    id: Annotated[str, strata.PrimaryKey]
    name: str = ""
    views: int = 0
    photo: Annotated[str, strata.OmitCache] = ""
    bio: Annotated[str | None, strata.OmitL1] = None


@dataclass
class Essay:
    """What L2 has whole."""

    id: Annotated[str, strata.PrimaryKey]
    title: str = ""
    text: Annotated[str, strata.OmitL1] = ""


KINDS: list[Any] = [Profile, Struct, Model]
L1, L2, L3 = MemPolicy(ttl=60), RedisPolicy(ttl=600), PostgresPolicy()
TIERS: dict[str, dict[str, Any]] = {
    "L1+L2+L3": {"l1": L1, "l2": L2, "l3": L3},
    "L1+L3": {"l1": L1, "l2": None, "l3": L3},
    "L2+L3": {"l1": None, "l2": L2, "l3": L3},
    "L3": {"l1": None, "l2": None, "l3": L3},
    "async": {"l1": L1, "l2": L2, "l3": L3, "write_mode": WriteMode.WRITE_THROUGH_L1_ASYNC},
    "behind": {"l1": L1, "l2": L2, "l3": L3, "write_mode": WriteMode.WRITE_BEHIND},
}
READS: dict[str, Callable[..., Any]] = {
    "get": lambda records, id, **options: records.get(id, default=None, **options),
    "get_many": lambda records, id, **options: records.get_many([id], **options).get(id),
}
each_way = pytest.mark.parametrize("read", READS.values(), ids=READS)


@contextmanager
def between(dsn: str) -> Iterator[tuple[Proxy, str]]:
    """A link to the database that can be cut, and the DSN that leads over it."""
    place: dict[str, Any] = conninfo_to_dict(dsn)
    with Proxy(f"{place['host']}:{place['port']}") as link:
        yield link, make_conninfo(dsn, host="127.0.0.1", port=link.port)


def records_of(store: DataStore, model: Any = Profile, **options: Any) -> Collection[Any]:
    records = store.register(schema(model, name="records", **options))
    store.migrate()
    sure(store)
    return records


def written(make: MakeStore, model: Any = Profile, **options: Any) -> Collection[Any]:
    """A handle of a store that has read nothing yet; another one has written the record."""
    writer = make()
    records_of(writer, model, **options).set("a", model(id="a", name="ann", photo="<png>", bio="born"))
    writer.flush_dirty()
    return records_of(make(), model, **options)


WHOLE = Profile("a", "ann", 0, "<png>", "born")


@each_way
@pytest.mark.parametrize("tiers", TIERS)
def test_a_whole_record_is_whole_at_the_first_read_and_at_every_other(make: MakeStore, tiers: str, read: Any) -> None:
    records = written(make, **TIERS[tiers])
    for _ in range(3):
        assert read(records, "a", whole=True) == WHOLE
        read(records, "a")  # which fills L1
        read(records, "b")
    assert read(records, "b", whole=True) is None
    with pytest.raises(NotFoundError):
        records.get("b", whole=True)


@each_way
@pytest.mark.parametrize("model", KINDS)
def test_every_kind_of_record_can_be_had_whole(make: MakeStore, model: Any, read: Any) -> None:
    records = written(make, model)
    read(records, "a")
    assert not loaded(read(records, "a"))
    assert read(records, "a", whole=True) == model(id="a", name="ann", photo="<png>", bio="born")


@each_way
def test_what_is_read_to_make_a_record_whole_fills_no_cache(make: MakeStore, read: Any) -> None:
    records = written(make)
    read(records, "a")
    for _ in range(2):
        assert loaded(read(records, "a", whole=True))
    warm = read(records, "a")
    assert (warm.photo, warm.bio) == (UNLOADED, UNLOADED)
    past_l1 = records.get("a", force_l2=True)
    assert (past_l1.photo, past_l1.bio) == (UNLOADED, "born")


@each_way
def test_a_cold_read_of_whole_records_fills_the_caches_with_what_they_keep(make: MakeStore, read: Any) -> None:
    records = written(make)
    store = records._store
    records.invalidate("a")
    assert loaded(read(records, "a", whole=True))

    def hit() -> bool:
        before = store.stats().l1_hits
        return read(records, "a").photo is UNLOADED and store.stats().l1_hits == before + 1

    wait_until(hit, what="a hit")


@each_way
def test_a_field_that_l2_has_is_read_there_without_postgres(
    make: MakeStore, dsn: str, redis_addr: str, read: Any
) -> None:
    with between(dsn) as (link, through):
        store = make(postgres_dsn=through)
        essays = store.register(schema(Essay, name="essays"))
        store.migrate()
        sure(store)
        essays.set("a", Essay("a", "t", "text"))
        assert read(essays, "a").text is UNLOADED
        link.refuse()
        assert read(essays, "a", whole=True) == Essay("a", "t", "text")


@each_way
def test_where_postgres_is_away_a_whole_record_is_an_error_and_never_a_part(
    make: MakeStore, dsn: str, read: Any
) -> None:
    with between(dsn) as (link, through):
        store = make(postgres_dsn=through)
        records = records_of(store)
        records.set("a", WHOLE)
        assert read(records, "a").name == "ann"
        link.refuse()
        assert read(records, "a").photo is UNLOADED
        with pytest.raises(L3UnavailableError):
            read(records, "a", whole=True)


@each_way
def test_a_row_that_changed_since_it_was_cached_is_returned_as_it_is_now_and_never_half(
    make: MakeStore, dsn: str, read: Any
) -> None:
    records = written(make, l1=None)
    read(records, "a")
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE records SET name = 'new', photo = '<new>' WHERE id = 'a'")
    assert read(records, "a").name == "ann"
    assert read(records, "a", whole=True) == Profile("a", "new", 0, "<new>", "born")


@each_way
def test_a_row_that_is_gone_since_it_was_cached_is_absent(make: MakeStore, dsn: str, read: Any) -> None:
    records = written(make, l1=None)
    read(records, "a")
    with psycopg.connect(dsn) as conn:
        conn.execute("DELETE FROM records")
    assert read(records, "a", whole=True) is None


def behind(make: MakeStore) -> tuple[DataStore, Collection[Any]]:
    """A store that writes behind, but hands off and persists by hand only."""
    store = make()
    paced(store)
    records = records_of(store, write_mode=WriteMode.WRITE_BEHIND)
    idle(store)
    return store, records


@each_way
def test_own_writes_increments_and_parts_that_are_pending_are_in_a_whole_record(make: MakeStore, read: Any) -> None:
    store, records = behind(make)
    records.set_many({"a": WHOLE})
    records.get("a")
    records.increment("a", views=2)
    assert read(records, "a", whole=True) == Profile("a", "ann", 2, "<png>", "born")
    records.update("a", photo="<jpeg>")
    assert read(records, "a", whole=True) == Profile("a", "ann", 2, "<jpeg>", "born")
    hand_off(store)
    assert read(records, "a", whole=True) == Profile("a", "ann", 2, "<jpeg>", "born")
    records.set("a", Profile("a", "bob", 1, "<gif>", "died"))
    assert read(records, "a", whole=True) == Profile("a", "bob", 1, "<gif>", "died")
    records.delete("a")
    assert read(records, "a", whole=True) is None


@each_way
def test_what_another_process_has_handed_off_is_in_a_whole_record(make: MakeStore, read: Any) -> None:
    writer, theirs = behind(make)
    _, ours = behind(make)
    theirs.set_many({"a": WHOLE})
    theirs.set("a", Profile("a", "bob", 1, "<gif>", "died"))
    hand_off(writer)
    wait_until(lambda: read(ours, "a").name == "bob")
    assert read(ours, "a").photo is UNLOADED
    assert read(ours, "a", whole=True) == Profile("a", "bob", 1, "<gif>", "died")


@each_way
def test_after_get_gets_the_whole_record_once(make: MakeStore, read: Any) -> None:
    seen: list[Any] = []
    store = make()
    records = records_of(store, hooks=SchemaHooks(after_get=lambda record: seen.append(record.photo)))
    records.set("a", WHOLE)
    read(records, "a")
    read(records, "a", whole=True)
    assert seen == [UNLOADED, "<png>"]


def test_of_many_those_that_lack_something_are_read_together(make: MakeStore) -> None:
    store = make()
    records = records_of(store)
    records.set_many({str(n): Profile(str(n), photo=f"<{n}>", bio="b") for n in range(50)})
    ids = [str(n) for n in range(50)]
    records.get_many(ids)
    calls: list[ServerCall] = []
    inspect(store).database.on_call = calls.append
    found = records.get_many(ids, whole=True)
    assert [record.photo for record in found.values()] == [f"<{n}>" for n in range(50)]
    assert len(calls) == 1


# -- the first request and the warm one -----------------------------------------------------------------------------


def values(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in ("id", "name", "views", "photo", "bio")}


ENCODERS: dict[str, tuple[list[Any], Callable[[Any], Any]]] = {
    "json.dumps": (KINDS, lambda it: json.dumps(values(it))),
    "json.dumps with default=str": (KINDS, lambda it: json.dumps(values(it), default=str)),
    "DjangoJSONEncoder": ([Profile], lambda it: json.dumps(dataclasses.asdict(it), cls=DjangoJSONEncoder)),
    "jsonable_encoder": ([Profile, Model], lambda it: jsonable_encoder(it)),
    "msgspec.json": ([Profile, Struct], lambda it: msgspec.json.encode(it)),
    "pydantic": ([Profile, Model], lambda it: pydantic.TypeAdapter(type(it)).dump_json(it)),
}


@pytest.mark.parametrize(
    ("encode", "model"),
    [
        pytest.param(encode, model, id=f"{name}-{model.__name__}")
        for name, (models, encode) in ENCODERS.items()
        for model in models
    ],
)
def test_an_encoder_gives_the_same_at_every_request_or_raises(make: MakeStore, encode: Any, model: Any) -> None:
    records = written(make, model)
    records.invalidate("a")
    first = encode(records.get("a"))
    assert "<png>" in str(first)
    wait_until(lambda: records.get("a").photo is UNLOADED, what="a hit")
    with pytest.raises(Exception, match="UNLOADED"):
        encode(records.get("a"))
    assert encode(records.get("a", whole=True)) == first


def application(records: Collection[Any], model: Any) -> FastAPI:
    app = FastAPI()

    class Answer(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(from_attributes=True)
        name: str
        photo: Any

    @app.get("/typed", response_model=model)
    def typed(whole: bool) -> Any:
        return records.get("a", whole=whole)

    @app.get("/untyped")
    def untyped(whole: bool) -> Any:
        return records.get("a", whole=whole)

    @app.get("/answer", response_model=Answer)
    def answer(whole: bool) -> Any:
        return records.get("a", whole=whole)

    @app.get("/answers", response_model=list[Answer])
    def answers(whole: bool) -> Any:
        return list(records.get_many(["a"], whole=whole).values())

    return app


class OwnJSON(JSONResponse):
    """By another encoder, as `ORJSONResponse` is."""

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


@pytest.mark.parametrize("response", [JSONResponse, OwnJSON])
@pytest.mark.parametrize("model", [Profile, Model])
def test_a_response_that_an_endpoint_makes_itself_is_whole_or_an_error(
    make: MakeStore, model: Any, response: type[JSONResponse]
) -> None:
    records = written(make, model)
    assert response(values(records.get("a", whole=True))).status_code == 200
    wait_until(lambda: records.get("a").photo is UNLOADED, what="a hit")
    with pytest.raises(TypeError, match="type UNLOADED is"):
        response(values(records.get("a")))
    with pytest.raises(EncodeError, match="photo"):
        response(values(whole(records.get("a"))))


@pytest.mark.parametrize("path", ["/typed", "/untyped", "/answer", "/answers"])
@pytest.mark.parametrize("model", [Profile, Model])
def test_fastapi_answers_with_whole_records_or_with_an_error_that_names_the_field(
    make: MakeStore, model: Any, path: str
) -> None:
    records = written(make, model)
    app = application(records, model)

    async def ask(whole: bool) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return await client.get(path, params={"whole": whole})

    records.invalidate("a")
    first = asyncio.run(ask(False))
    assert first.status_code == 200 and "<png>" in first.text
    wait_until(lambda: records.get("a").photo is UNLOADED, what="a hit")
    with pytest.raises(Exception, match=r"photo\b.*UNLOADED"):
        asyncio.run(ask(False))
    warm = asyncio.run(ask(True))
    assert (warm.status_code, warm.text) == (200, first.text)
