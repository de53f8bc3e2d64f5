"""`record_of`: rows of Django models as records, by the real ORM on the same PostgreSQL."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models, transaction
from django.db.models.signals import post_delete, post_save

from strata import Collection, DataStore, InvalidModelError, PostgresPolicy, Schema, WriteMode
from strata.integrations.django import invalidate_on_commit, record_of
from strata.integrations.django.operations import Raw
from strata.l3.needs import needs, removal
from strata.testing import inspect
from tests.stores import MakeStore, sure
from tests.support import wait_until
from tests.surroundings.django_beside import django_on

LABEL = {"app_label": "tests"}


class Colour(models.TextChoices):  # type: ignore[misc]
    RED = "red"
    BLUE = "blue"


class Author(models.Model):  # type: ignore[misc]
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "tests"


class Everything(models.Model):  # type: ignore[misc]
    """A field of each kind."""

    char = models.CharField(max_length=50)
    blank = models.CharField(max_length=50, blank=True)
    text = models.TextField(null=True)
    slug = models.SlugField(unique=True)
    email = models.EmailField(default="a@b.c")
    url = models.URLField(db_column="link", default="")
    colour = models.CharField(max_length=9, choices=Colour, default=Colour.RED)
    small = models.PositiveSmallIntegerField(default=7)
    big = models.BigIntegerField(default=2**40)
    flag = models.BooleanField(default=True)
    real = models.FloatField(default=1.5)
    money = models.DecimalField(max_digits=9, decimal_places=2, default=0)
    uid = models.UUIDField(default=uuid.uuid4)
    day = models.DateField(default=dt.date(2026, 1, 2))
    clock = models.TimeField(default=dt.time(3, 4, 5))
    took = models.DurationField(default=dt.timedelta(hours=6))
    at = models.DateTimeField(null=True)
    raw = models.BinaryField(default=b"\0\xff")
    meta = models.JSONField(default=dict)
    tags = models.JSONField(default=list)
    image = models.FileField(upload_to="files", blank=True)
    author = models.ForeignKey(Author, on_delete=models.CASCADE, null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)
    double = models.GeneratedField(
        expression=models.F("big") * 2, output_field=models.BigIntegerField(), db_persist=True
    )

    class Meta:
        app_label = "tests"


class Tagged(models.Model):  # type: ignore[misc]
    uid = models.UUIDField(primary_key=True, default=uuid.uuid4)
    note = models.TextField(default="")

    class Meta:
        app_label = "tests"


class Seat(models.Model):  # type: ignore[misc]
    pk = models.CompositePrimaryKey("hall", "number")
    hall = models.CharField(max_length=20)
    number = models.IntegerField()
    holder = models.CharField(max_length=20, default="")

    class Meta:
        app_label = "tests"


class Profile(models.Model):  # type: ignore[misc]
    author = models.OneToOneField(Author, on_delete=models.CASCADE, primary_key=True)
    text = models.TextField()

    class Meta:
        app_label = "tests"


ALL = (Author, Everything, Tagged, Seat, Profile)


@pytest.fixture(autouse=True)
def orm(dsn: str) -> Iterator[None]:
    with django_on(dsn):
        with connection.schema_editor() as editor:
            for model in ALL:
                editor.create_model(model)
        yield


def adopted(make: MakeStore, *schemas: Schema[Any]) -> DataStore:
    """A store of these schemas, whose tables have what it needs."""
    store = make()
    for schema in schemas:
        store.register(schema)
    over = [(bound.rows.table, bound.schema) for bound in inspect(store).schemas.values()]
    with connection.cursor() as cursor:
        for table in {table.name for table, _ in over}:
            for statement in needs(Raw(connection), table, over):
                cursor.execute(statement)
    assert store.migrate().manual == ()
    sure(store)
    return store


def same(record: Any, row: Any) -> bool:
    """Whether they have equal values in all columns."""
    fields = [field for field in row._meta.concrete_fields if field.column is not None]
    held = {field.column: getattr(row, field.attname) for field in fields}
    held |= {name: str(value) for name, value in held.items() if isinstance(value, models.fields.files.FieldFile)}
    held |= {name: bytes(value) for name, value in held.items() if isinstance(value, memoryview)}
    return held == {name: getattr(record, name) for name in held}


def test_what_the_orm_has_written_is_read_in_each_field_and_what_strata_writes_the_orm_reads(make: MakeStore) -> None:
    store = adopted(make, record_of(Everything))
    author = Author.objects.create(name="ann")
    row = Everything.objects.create(
        char="ä", slug="a", text="x\n", author=author, at=dt.datetime(2026, 5, 6, tzinfo=dt.UTC), colour=Colour.BLUE,
        meta={"a": [1, None]}, tags=["x"], image="files/a.png", money=Decimal("1.50"),
    )  # fmt: skip
    row.refresh_from_db()
    record = store.get("tests_everything", row.pk)
    assert same(record, row)
    record.char, record.meta, record.flag, record.author_id = "new", {"b": 2}, False, None
    store.set("tests_everything", row.pk, record)
    row.refresh_from_db()
    assert same(store.get("tests_everything", row.pk), row) and (row.char, row.flag) == ("new", False)
    assert row.changed_at > record.changed_at and row.created_at == record.created_at


def test_a_new_record_has_what_a_new_object_has(make: MakeStore) -> None:
    schema = record_of(Everything)
    store = adopted(make, schema)
    made = store.insert(schema.name, schema.model(char="c", slug="s"))
    assert made.id and made.double == 2**41 and made.created_at.year > 2000
    row = Everything(char="c", slug="s")
    held = Everything.objects.get(pk=made.id)
    for name in ("blank", "email", "url", "colour", "small", "big", "flag", "real", "money", "day", "meta", "tags"):
        assert getattr(held, name) == getattr(row, name), name
    assert isinstance(held.uid, uuid.UUID) and type(made.colour) is str


@pytest.mark.parametrize("behind", [False, True])
def test_keys_of_each_kind_are_read_and_written(make: MakeStore, behind: bool) -> None:
    mode = WriteMode.WRITE_BEHIND if behind else WriteMode.WRITE_THROUGH
    schemas: dict[Any, Schema[Any]] = {model: record_of(model, write_mode=mode) for model in (Tagged, Seat, Profile)}
    store = adopted(make, *schemas.values())
    author = Author.objects.create(name="ann")
    uid = uuid.uuid4()
    cases: list[tuple[Any, Any, dict[str, str]]] = [
        (Tagged, uid, {"note": "n"}),
        (Seat, ("Main", 7), {"holder": "ann"}),
        (Profile, author.pk, {"text": "t"}),
    ]
    for model, key, fields in cases:
        schema = schemas[model]
        names = [name for name in schema.model.__dataclass_fields__ if name not in fields]
        parts = key if isinstance(key, tuple) else (key,)
        store.set(schema.name, key, schema.model(**dict(zip(names, parts, strict=True)), **fields))
        store.flush_dirty(10)
        row = model.objects.get(pk=key)
        assert same(store.get(schema.name, key), row)
        name = next(iter(fields))
        setattr(row, name, "changed")
        row.save()
        wait_until(lambda: getattr(store.get(schema.name, key), name) == "changed")  # noqa: B023


def test_changes_by_the_orm_of_any_kind_are_seen_by_triggers(make: MakeStore) -> None:
    store = adopted(make, record_of(Author))
    ann, bob = (Author.objects.create(name=name) for name in ("ann", "bob"))

    keys = [ann.pk, bob.pk]

    def names() -> list[str]:
        found = store.get_many("tests_author", keys)
        return [record.name for record in found.values()]

    assert sorted(names()) == ["ann", "bob"]
    Author.objects.update(name="both")
    wait_until(lambda: names() == ["both", "both"])
    Author.objects.bulk_update([Author(pk=ann.pk, name="bulk")], ["name"])
    wait_until(lambda: sorted(names()) == ["both", "bulk"])
    with transaction.atomic():
        Author.objects.filter(pk=bob.pk).delete()
        assert len(names()) == 2
    wait_until(lambda: names() == ["bulk"])
    try:
        with transaction.atomic():
            ann.delete()
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert names() == ["bulk"]


def test_what_a_process_saves_by_the_orm_it_reads_at_once_where_triggers_tell_the_others(make: MakeStore) -> None:
    schema = record_of(Author)
    stores = [adopted(make, schema) for _ in range(2)]
    name = Author._meta.db_table
    own = Collection(stores[0], name, schema.model, stores[0]._hot[name])
    with hearing(Author, own):
        ann = Author.objects.create(name="0")
        for number in range(1, 30):
            assert [store.get(name, ann.pk).name for store in stores]
            with transaction.atomic():
                ann.name = str(number)
                ann.save()
            assert own.get(ann.pk).name == str(number)
        wait_until(lambda: stores[1].get(name, ann.pk).name == "29")
        key = ann.pk
        ann.delete()
        assert own.get(key, default=None) is None


def test_a_key_that_was_given_as_a_text_is_that_of_its_row(make: MakeStore) -> None:
    schema = record_of(Author, l3=PostgresPolicy())
    store = adopted(make, schema)
    name = Author._meta.db_table
    with hearing(Author, Collection(store, name, schema.model, store._hot[name])):
        ann = Author.objects.create(name="ann")
        assert store.get(name, ann.pk).name == "ann"
        Author(id=str(ann.pk), name="new").save()
        assert store.get(name, ann.pk).name == "new"


@pytest.mark.parametrize("watch", [False, True])
def test_who_commits_by_hand_saves_as_ever_and_reads_it_soon_after(make: MakeStore, watch: bool) -> None:
    schema = record_of(Author, l3=PostgresPolicy(watch=watch))
    store = adopted(make, schema)
    name = Author._meta.db_table
    with hearing(Author, Collection(store, name, schema.model, store._hot[name])):
        ann = Author.objects.create(name="ann")
        assert store.get(name, ann.pk).name == "ann"
        transaction.set_autocommit(False)
        try:
            ann.name = "new"
            ann.save()
            transaction.commit()
        finally:
            transaction.set_autocommit(True)
        wait_until(lambda: store.get(name, ann.pk).name == "new")


def test_each_store_and_each_model_over_the_same_records_is_heard(make: MakeStore) -> None:
    schema = record_of(Author, l3=PostgresPolicy())
    stores = [adopted(make, schema) for _ in range(2)]
    name = Author._meta.db_table
    ann = Author.objects.create(name="ann")
    first, second = (Collection(store, name, schema.model, store._hot[name]) for store in stores)
    with hearing(Author, first), hearing(Author, second):
        assert len(post_save.receivers) >= 2
        assert [records.get(ann.pk).name for records in (first, second)] == ["ann"] * 2
        ann.name = "new"
        ann.save()
        assert [records.get(ann.pk).name for records in (first, second)] == ["new"] * 2


@contextmanager
def hearing(model: Any, records: Any) -> Iterator[None]:
    before = [(signal, list(signal.receivers)) for signal in (post_save, post_delete)]
    invalidate_on_commit(model, records)
    try:
        yield
    finally:
        for signal, receivers in before:
            signal.receivers = receivers
            signal.sender_receivers_cache.clear()


def test_without_triggers_saved_and_deleted_objects_are_seen_after_their_commit_by_every_process(
    make: MakeStore,
) -> None:
    schema = record_of(Author, l3=PostgresPolicy())
    stores = [adopted(make, schema) for _ in range(2)]
    records = Author._meta.db_table
    with hearing(Author, Collection(stores[0], records, schema.model, stores[0]._hot[records])):
        ann = Author.objects.create(name="ann")
        assert [store.get(records, ann.pk).name for store in stores] == ["ann", "ann"]
        with transaction.atomic():
            ann.name = "new"
            ann.save()
            assert [store.get(records, ann.pk).name for store in stores] == ["ann", "ann"]
        for store in stores:
            wait_until(lambda store=store: store.get(records, ann.pk).name == "new")  # type: ignore[misc]
        key = ann.pk
        ann.delete()
        for store in stores:
            wait_until(lambda store=store: store.get(records, key, default=None) is None)  # type: ignore[misc]


def test_proxies_and_children_are_seen_by_signals_as_the_objects_that_they_are(make: MakeStore) -> None:
    class Writer(Author):
        class Meta:
            app_label = "tests"
            proxy = True

    class Editor(Author):
        desk = models.CharField(max_length=9, default="")

        class Meta:
            app_label = "tests"

    with connection.schema_editor() as editor:
        editor.create_model(Editor)
    schema = record_of(Author, l3=PostgresPolicy())
    store = adopted(make, schema)
    with hearing(Author, Collection(store, schema.name, schema.model, store._hot[schema.name])):
        for model in (Writer, Editor):
            author = model.objects.create(name="old")
            assert store.get(schema.name, author.pk).name == "old"
            author.name = "new"
            author.save()
            wait_until(lambda: store.get(schema.name, author.pk).name == "new")  # noqa: B023


def test_a_table_that_was_renamed_tells_of_changes_by_its_new_name(make: MakeStore) -> None:
    class Post(models.Model):  # type: ignore[misc]
        name = models.CharField(max_length=50)

        class Meta:
            app_label = "tests"

    adopted(make, record_of(Author))
    with connection.schema_editor() as editor:
        editor.alter_db_table(Author, "tests_author", "tests_post")
    store = adopted(make, record_of(Post))
    post = Post.objects.create(name="old")
    assert store.get("tests_post", post.pk).name == "old"
    Post.objects.update(name="new")
    wait_until(lambda: store.get("tests_post", post.pk).name == "new")


def test_what_was_given_to_a_table_is_given_once_and_can_be_taken_away(make: MakeStore) -> None:
    store = adopted(make, record_of(Author))
    over = [(bound.rows.table, bound.schema) for bound in inspect(store).schemas.values()]
    assert needs(Raw(connection), "tests_author", over) == []
    with connection.cursor() as cursor:
        for statement in removal(Raw(connection), "tests_author"):
            cursor.execute(statement)
        cursor.execute("SELECT column_name FROM information_schema.columns WHERE table_name = 'tests_author'")
        assert {name for (name,) in cursor.fetchall()} == {"id", "name"}
        cursor.execute("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tests_author'::regclass AND NOT tgisinternal")
        assert cursor.fetchone() == (0,)
    assert removal(Raw(connection), "tests_author") == []


@dataclass
class Place:
    lat: float
    lon: float


def test_a_json_field_may_be_a_class_and_columns_may_be_left_out(make: MakeStore) -> None:
    class Map(models.Model):  # type: ignore[misc]
        place = models.JSONField()
        secret = models.GenericIPAddressField(null=True)

        class Meta:
            app_label = "tests"

    with connection.schema_editor() as editor:
        editor.create_model(Map)
    schema = record_of(Map, hints={"place": Place}, exclude=["secret"], frozen=True)
    store = adopted(make, schema)
    row = Map.objects.create(place={"lat": 1.5, "lon": 2.0}, secret="127.0.0.1")
    assert store.get(schema.name, row.pk).place == Place(1.5, 2.0)
    store.set(schema.name, row.pk, schema.model(id=row.pk, place=Place(3.0, 4.0)))
    row.refresh_from_db()
    assert (row.place, row.secret) == ({"lat": 3.0, "lon": 4.0}, "127.0.0.1")


class Shouting(models.CharField):  # type: ignore[misc]
    def from_db_value(self, value: str, *_: Any) -> str:
        return value.upper()


def bad(**fields: Any) -> Any:
    meta = type("Meta", (), LABEL)
    return type(f"Bad{uuid.uuid4().hex}", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (lambda: bad(x=ArrayField(models.TextField())), {}, "ArrayField.*exclude="),
        (lambda: bad(x=models.GenericIPAddressField()), {}, "GenericIPAddressField"),
        (lambda: bad(x=Shouting(max_length=3)), {}, "Shouting.*hints="),
        (lambda: Author, {"exclude": ["nothing"]}, "no column 'nothing'"),
        (lambda: Author, {"hints": {"nme": str}}, "no column 'nme'; it has id, name"),
        (lambda: models.Model, {}, "record_of takes a Django model"),
        (lambda: "Author", {}, "record_of takes a Django model"),
        (lambda: type("A", (models.Model,), {"__module__": __name__, "Meta": type("Meta", (), {"abstract": True})}), {},
         "that has a table"),
    ],
)  # fmt: skip
def test_what_can_be_no_record_is_refused_and_the_error_says_what_to_do(
    model: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidModelError, match=said):
        record_of(model(), **options)
