"""How several processes count: in SQL, which Strata then reads, as the documentation says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import psycopg
import pytest

import strata
from strata import UNLOADED, Collection, PostgresPolicy, Q
from tests.stores import MakeStore, schema
from tests.support import wait_until

PROCESSES, EACH = 3, 10


@dataclass
class Page:
    id: Annotated[str, strata.PrimaryKey]
    title: str = ""
    views: Annotated[int, strata.Default(0)] = 0


def pages_of(make: MakeStore, watch: bool) -> Collection[Any]:
    store = make()
    pages = store.register(schema(Page, name="pages", l3=PostgresPolicy(watch=watch)))
    store.migrate()
    return pages


@pytest.mark.parametrize("watch", [True, False], ids=["watched", "invalidated"])
def test_counts_made_in_sql_are_all_there_and_every_instance_sees_them(make: MakeStore, dsn: str, watch: bool) -> None:
    instances = [pages_of(make, watch) for _ in range(PROCESSES)]
    instances[0].set("p", Page("p", "one"))

    def count(pages: Collection[Any]) -> None:
        for _ in range(EACH):
            assert pages.get("p").title == "one"
            with psycopg.connect(dsn) as conn:
                conn.execute("UPDATE pages SET views = views + 1 WHERE id = 'p'")
            if not watch:
                pages.invalidate("p")

    with ThreadPoolExecutor() as pool:
        list(pool.map(count, instances))
    for pages in instances:
        wait_until(lambda pages=pages: pages.get("p").views == PROCESSES * EACH)  # type: ignore[misc]


def test_a_record_without_its_count_is_set_beside_those_who_count(make: MakeStore, dsn: str) -> None:
    pages = pages_of(make, watch=False)
    pages.set("p", Page("p", "one"))
    (page,) = pages.search(Q().where("id = $1", "p").fields("id", "title"))
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE pages SET views = views + 1 WHERE id = 'p'")
    assert page.views is UNLOADED
    page.title = "two"
    pages.set("p", page)
    assert pages.get("p", force_l3=True) == Page("p", "two", 1)
    wait_until(lambda: pages.get("p") == Page("p", "two", 1))
