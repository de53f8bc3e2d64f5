"""Django's ORM changes rows of tables that Strata caches, as an application does that had Django first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import pytest
from django.db import transaction
from django.db.models import F
from django.db.models.signals import post_delete, post_save

import strata
from strata import DataStore, MemPolicy, PostgresPolicy
from strata.testing import inspect
from tests.behind import deferred
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until
from tests.surroundings.django_beside import Article as OrmArticle
from tests.surroundings.django_beside import django_on


@dataclass
class Article:
    """The same row, to Strata."""

    id: Annotated[int, strata.PrimaryKey]
    title: str
    views: int = 0


@pytest.fixture(autouse=True)
def orm(dsn: str) -> Iterator[None]:
    with django_on(dsn):
        yield


@pytest.fixture
def both(make: MakeStore) -> tuple[DataStore, DataStore]:
    """Two instances; the first one is told by Django's signals, as they are sent: before the commit."""
    stores = make(), make()
    for store in stores:
        store.register(schema(Article))
        store.migrate()
        sure(store)
    return stores


@pytest.fixture
def signals(both: tuple[DataStore, DataStore]) -> Iterator[None]:
    def changed(instance: OrmArticle, **_: object) -> None:
        both[0].invalidate(Article, instance.pk)

    for signal in (post_save, post_delete):
        signal.connect(changed, sender=OrmArticle)
    yield
    for signal in (post_save, post_delete):
        signal.disconnect(changed, sender=OrmArticle)


def everywhere(both: tuple[DataStore, DataStore], expected: Article | None) -> None:
    for store in both:
        wait_until(lambda store=store: store.get(Article, 1, default=None) == expected)  # type: ignore[misc]


def elsewhere(store: DataStore) -> Article | None:
    """What another request reads meanwhile."""
    found: list[Article | None] = []
    reader = threading.Thread(target=lambda: found.append(store.get(Article, 1, default=None)))
    reader.start()
    reader.join(20)
    return found[0]


@pytest.mark.usefixtures("signals")
def test_an_invalidation_inside_a_transaction_holds_after_its_commit(both: tuple[DataStore, DataStore]) -> None:
    both[0].set(Article, 1, Article(1, "old"))
    with transaction.atomic():
        article = OrmArticle.objects.get(pk=1)
        article.title = "new"
        article.save()
        assert [elsewhere(store) for store in both] == [Article(1, "old")] * 2  # and cache it, rightly
    everywhere(both, Article(1, "new"))
    with transaction.atomic():
        OrmArticle.objects.get(pk=1).delete()
        assert [elsewhere(store) for store in both] == [Article(1, "new")] * 2
    everywhere(both, None)


def test_an_absence_that_is_read_while_a_row_is_inserted_is_not_remembered_beyond_the_commit(
    make: MakeStore,
) -> None:
    store = make()
    store.register(schema(Article, l1=MemPolicy(ttl=60, negative_ttl=60)))
    store.migrate()
    sure(store)
    with transaction.atomic():
        OrmArticle.objects.create(id=1, title="new")
        store.invalidate(Article, 1)
        assert elsewhere(store) is None
    wait_until(lambda: store.get(Article, 1, default=None) == Article(1, "new"))


def test_an_invalidation_inside_a_transaction_that_is_rolled_back_is_forgotten(
    both: tuple[DataStore, DataStore],
) -> None:
    both[0].set(Article, 1, Article(1, "old"))
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        OrmArticle.objects.filter(pk=1).update(title="new")
        both[0].invalidate(Article, 1)
        raise ZeroDivisionError
    everywhere(both, Article(1, "old"))
    wait_until(lambda: not inspect(both[0]).unfinished)


def test_a_row_that_django_saves_keeps_a_count_that_is_pending_and_the_count_keeps_its_change(
    make: MakeStore,
) -> None:
    store = make()
    store.register(deferred(Article, l3=PostgresPolicy(watch=True)))
    store.migrate()
    sure(store)
    store.set_many(Article, {1: Article(1, "old", 1)})
    counted = store.get(Article, 1)
    counted.views += 1
    article = OrmArticle.objects.get(pk=1)
    store.set(Article, 1, counted)
    article.title = "new"
    article.save()  # every column, `views` as it was read
    OrmArticle.objects.filter(pk=1).update(title=F("title"))
    store.flush_dirty(20)
    article.refresh_from_db()
    assert (article.title, article.views) == ("new", 2)
    wait_until(lambda: store.get(Article, 1) == Article(1, "new", 2))
