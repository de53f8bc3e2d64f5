"""What `strata.testing` gives to tests of applications: the example of its page runs, and the checker finds bugs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from strata.coherence.inbox import Inbox
from strata.testing import Count, observe
from tests.stores import MakeStore, schema, sure

ROOT = Path(__file__).parents[2]


PAGE = (ROOT / "docs" / "testing-your-application.md").read_text()
MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
class Base(DeclarativeBase): pass
class ArticleRow(Base):
    __tablename__ = "articles"
    id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str]
"""
SHOP = """
from dataclasses import dataclass
from typing import Annotated
from strata import DataStore, MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema, WriteMode
@dataclass
class Article:
    id: Annotated[str, PrimaryKey]
    title: str
def open_store(config):
    store = DataStore(config)
    store.register(Schema(Article, name="articles", l1=MemPolicy(), l2=RedisPolicy(), write_mode=WriteMode.WRITE_BEHIND,
                          l3=PostgresPolicy(managed=MANAGED, watch=True)))
    return store
"""
TESTS = """
import pytest
from shop import Article, open_store
@pytest.mark.parametrize("word", ["one", "two", "three"])
def test_nothing_is_left_of_another_test(store, word):
    assert store.get(Article, "a1", default=None) is None
    assert store.count(Article) == 0
    store.set(Article, "a1", Article("a1", word))
    store.flush_dirty()
    assert [article.title for article in store.search(Article)] == [word]
    store.delete(Article, "a1")
    store.set(Article, "a2", Article("a2", word))
"""

OPENED = f"""{TESTS}
@pytest.fixture
def store(strata_config):
    with open_store(strata_config) as store:
        store.migrate()
        yield store
"""


def shown(title: str = "") -> list[str]:
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0] if title else PAGE
    return re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def pytested(folder: Path, *, passed: int, **files: str) -> None:
    """The modules are a project, whose tests pass; with no server named but those of variables of its own."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATA_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    ran = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env=kept | {"PYTHONPATH": str(ROOT)},
        check=False,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{passed} passed" in ran.stdout


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    conftest, example = shown()[:2]
    pytested(tmp_path, passed=3, conftest=conftest, test_shop=example)


@pytest.mark.in_turn
def test_tables_of_an_orm_are_made_by_it_and_have_what_strata_needs(tmp_path: Path) -> None:
    (conftest,) = shown("Tables of an ORM")
    pytested(
        tmp_path, passed=3, conftest=conftest, models=MODELS, shop=SHOP.replace("MANAGED", "False"), test_shop=TESTS
    )


@pytest.mark.in_turn
def test_one_database_is_emptied_after_each_test(tmp_path: Path) -> None:
    (conftest,) = shown("One database for all tests")
    pytested(tmp_path, passed=3, conftest=conftest, shop=SHOP.replace("MANAGED", "True"), test_shop=OPENED)


@pytest.mark.in_turn
def test_servers_that_are_there_are_named_by_variables_of_the_application_s_own(
    tmp_path: Path, dsn: str, redis_addr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (conftest,) = shown("Servers that are there already")
    monkeypatch.setenv("TEST_POSTGRES_DSN", dsn)
    monkeypatch.setenv("TEST_REDIS_ADDR", redis_addr if "://" in redis_addr else f"redis://{redis_addr}")
    pytested(tmp_path, passed=3, conftest=conftest, shop=SHOP.replace("MANAGED", "True"), test_shop=OPENED)


def counting(make: MakeStore) -> list[Any]:
    pair = [make(), make()]
    for store in pair:
        store.register(schema(Count, name="counts"))
    pair[0].migrate()
    for store in pair:
        sure(store)
    return pair


def test_the_checker_finds_nothing_where_nothing_is_wrong(make: MakeStore) -> None:
    report = observe(counting(make), 1.0, strict=True)
    assert report.violations == []
    assert report.operations > 0 and report.regressions == 0


def test_the_checker_finds_stores_that_do_not_heed_each_other(make: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = counting(make)
    monkeypatch.setattr(Inbox, "handle", lambda self, data: None)
    assert observe(pair, 4.0).violations != []
