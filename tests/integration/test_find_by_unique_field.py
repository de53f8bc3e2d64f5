"""The recipe that finds a record by another unique field (docs/cookbook.md), on both faces, whoever changes the row."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import psycopg
import pytest

from strata import DataStore, MemPolicy, NotFoundError, PostgresPolicy, PrimaryKey, RedisPolicy, Schema
from strata.testing import Proxy, inspect
from tests.faces import awaited
from tests.stores import MakeStore, sure
from tests.support import wait_until

PAGE = (Path(__file__).parents[2] / "docs" / "cookbook.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
HEAD = BLOCK.findall(PAGE)[0]
RECIPE, FINDER = BLOCK.findall(PAGE.split("\n## Find by another unique field\n")[1].split("\n## ")[0])
DEFINED = RECIPE.partition("\n\nproducts.insert(")[0].replace("PostgresPolicy()", "PostgresPolicy(watch=True)")
FACES = ["threads", "asyncio"]


class Shop:
    """The recipe's module in one process, with its Redis behind a proxy."""

    def __init__(self, module: ModuleType, face: str, link: Proxy) -> None:
        self.link = link
        self.store: DataStore = module.store
        self.make: Callable[[int, str], Any] = lambda id, slug: module.Product(id, slug, "a product")
        by_slug = module.by_slug if face == "threads" else module.finder(module.store.aio)
        self._by_slug: Callable[[str], Any] = by_slug if face == "threads" else lambda slug: awaited(by_slug(slug))

    def find(self, slug: str) -> int | None:
        """The id of the record that has it."""
        try:
            found = self._by_slug(slug)
        except NotFoundError:
            return None
        assert found.slug == slug
        return int(found.id)


@pytest.fixture(params=FACES)
def shops(request: pytest.FixtureRequest, tmp_path: Path, dsn: str, redis_addr: str) -> Iterator[list[Shop]]:
    """Two processes of the application."""
    (tmp_path / "recipe.py").write_text("\n".join([HEAD, DEFINED, FINDER]))
    made: list[Shop] = []
    with pytest.MonkeyPatch.context() as patch, Proxy(redis_addr) as one, Proxy(redis_addr) as other:
        patch.syspath_prepend(tmp_path)
        for link in (one, other):
            patch.setenv("STRATA_POSTGRES_DSN", dsn)
            patch.setenv("STRATA_REDIS_ADDR", link.addr)
            patch.delitem(sys.modules, "recipe", raising=False)
            shop = Shop(importlib.import_module("recipe"), request.param, link)
            made.append(shop)
            sure(shop.store)
            wait_until(lambda store=shop.store: inspect(store).listener.connected)  # type: ignore[misc]
        try:
            yield made
        finally:
            for shop in made:
                shop.link.resume()
                shop.store.close()


@pytest.fixture
def psql(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(dsn, autocommit=True)) as conn:
        yield conn


def everywhere(shops: list[Shop], expected: dict[str, int | None]) -> None:
    """Every process comes to find just these."""
    for shop in shops:
        wait_until(lambda shop=shop: {slug: shop.find(slug) for slug in expected} == expected)  # type: ignore[misc]


def test_a_slug_that_was_absent_is_found_once_a_record_has_it(shops: list[Shop]) -> None:
    one, other = shops
    everywhere(shops, {"cup": None})
    one.store.insert("products", one.make(1, "cup"))
    assert (one.find("cup"), other.find("cup")) == (1, 1)


def test_a_renamed_record_is_found_by_its_new_slug_alone_and_another_may_take_the_old_one(shops: list[Shop]) -> None:
    one, _ = shops
    one.store.insert("products", one.make(1, "cup"))
    everywhere(shops, {"cup": 1, "mug": None})
    one.store.update("products", 1, slug="mug")
    assert (one.find("cup"), one.find("mug")) == (None, 1)
    everywhere(shops, {"cup": None, "mug": 1})
    one.store.insert("products", one.make(2, "cup"))
    everywhere(shops, {"cup": 2, "mug": 1})


def test_a_deleted_record_is_found_no_more(shops: list[Shop]) -> None:
    one, _ = shops
    one.store.insert("products", one.make(1, "cup"))
    everywhere(shops, {"cup": 1})
    one.store.delete("products", 1)
    assert one.find("cup") is None
    everywhere(shops, {"cup": None})


def test_what_plain_sql_inserts_renames_and_deletes_in_a_watched_table_is_found_so(
    shops: list[Shop], psql: psycopg.Connection[Any]
) -> None:
    everywhere(shops, {"cup": None})
    psql.execute("INSERT INTO products (id, slug, name) VALUES (1, 'cup', '')")
    everywhere(shops, {"cup": 1, "mug": None})
    psql.execute("UPDATE products SET slug = 'mug'")
    everywhere(shops, {"cup": None, "mug": 1})
    psql.execute("INSERT INTO products (id, slug, name) VALUES (2, 'cup', '')")
    everywhere(shops, {"cup": 2, "mug": 1})
    psql.execute("DELETE FROM products WHERE id = 1")
    everywhere(shops, {"cup": 2, "mug": None})


def test_without_redis_records_are_found_renamed_and_inserted_all_the_same(shops: list[Shop]) -> None:
    one, _ = shops
    one.store.insert("products", one.make(1, "cup"))
    everywhere(shops, {"cup": 1})
    for shop in shops:
        shop.link.refuse()
    assert [shop.find("cup") for shop in shops] == [1, 1]
    one.store.update("products", 1, slug="mug")
    one.store.insert("products", one.make(2, "cup"))
    assert (one.find("cup"), one.find("mug")) == (2, 1)
    everywhere(shops, {"cup": 2, "mug": 1})
    one.store.delete("products", 2)
    everywhere(shops, {"cup": None})
    for shop in shops:
        shop.link.resume()
    everywhere(shops, {"cup": None, "mug": 1})


def test_what_was_found_is_found_again_without_postgresql(shops: list[Shop], psql: psycopg.Connection[Any]) -> None:
    one, _ = shops
    one.store.insert("products", one.make(1, "cup"))
    assert one.find("cup") == 1
    psql.execute("ALTER TABLE products RENAME TO elsewhere")
    assert one.find("cup") == 1


@dataclass
class BySlug:
    slug: Annotated[str, PrimaryKey]
    id: int
    name: str = ""


def test_a_class_may_have_the_unique_column_of_a_table_for_its_key_and_its_triggers_tell_of_renames(
    make: MakeStore, psql: psycopg.Connection[Any]
) -> None:
    psql.execute("CREATE TABLE products (id serial PRIMARY KEY, slug text NOT NULL UNIQUE, name text NOT NULL)")
    store = make()
    policy = PostgresPolicy(managed=False, watch=True)
    l1, l2 = MemPolicy(negative_ttl=600), RedisPolicy(negative_ttl=600)
    products = store.register(Schema(BySlug, name="products", l1=l1, l2=l2, l3=policy))
    for change in store.migrate().manual:
        psql.execute(change.sql.encode())
    assert not store.migrate().manual
    sure(store)
    wait_until(lambda: inspect(store).listener.connected)

    def found(slug: str) -> int | None:
        record = products.get(slug, default=None)
        return None if record is None else record.id

    assert found("cup") is None
    psql.execute("INSERT INTO products (slug, name) VALUES ('cup', 'A cup')")
    wait_until(lambda: found("cup") == 1)
    assert found("mug") is None
    psql.execute("UPDATE products SET slug = 'mug'")
    wait_until(lambda: (found("cup"), found("mug")) == (None, 1))
    products.update("mug", name="A mug")
    assert psql.execute("SELECT id, slug, name FROM products").fetchall() == [(1, "mug", "A mug")]
