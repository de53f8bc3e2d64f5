"""The README's quick start, and the first application of the documentation, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
MODELS, QUERIES = "docs/models-and-types.md", "docs/queries.md"
MEMOIZING, LIVES, TAGS, COOKBOOK = "docs/memoizing.md", "docs/lives.md", "docs/tags.md", "docs/cookbook.md"
OTHERS = ("README.md", "docs/getting-started.md", "docs/asyncio.md")
EXISTING, WRITE_MODES = "docs/existing-tables.md", "docs/write-modes.md"
RUN = (EXISTING, WRITE_MODES, MODELS, QUERIES, MEMOIZING, LIVES, TAGS, COOKBOOK)
PAGES = {name: ROOT / name for name in (*OTHERS, *RUN)}
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECIPES = dict(section.split("\n", 1) for section in PAGES[COOKBOOK].read_text().split("\n## ")[1:])


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGES[page].read_text(), re.MULTILINE | re.DOTALL)


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATA_")}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def check_quick_start(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stdout + result.stderr
    one, nothing, several = result.stdout.splitlines()
    assert one.startswith("Player(id='p1', username='andrew', email=None, level=5, created_at=datetime.datetime(")
    assert nothing == "None"
    assert several == f"[{one}]"


def test_the_quick_start_runs_as_it_stands(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    (tmp_path / "quickstart.py").write_text(blocks("README.md")[0])
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
    check_quick_start(run(tmp_path, "quickstart.py", **servers))
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT username, level FROM players").fetchall() == [("andrew", 5)]
    check_quick_start(run(tmp_path, "quickstart.py", **servers))  # and once more, on the table that is there


@pytest.mark.slow
def test_the_quick_start_runs_against_strata_dev(tmp_path: Path) -> None:
    text = PAGES["README.md"].read_text()
    assert "strata dev --app quickstart:store -- python quickstart.py" in text
    (tmp_path / "quickstart.py").write_text(blocks("README.md")[0])
    words = ["dev", "--app", "quickstart:store", "--", sys.executable, "quickstart.py"]
    check_quick_start(run(tmp_path, "-m", "strata.cli", *words))


def test_getting_started_runs_page_by_page(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    shop, use, more = blocks("docs/getting-started.md")
    (tmp_path / "shop.py").write_text(shop)
    (tmp_path / "use.py").write_text(f"{use}\n{more}\nstore.close()\n")
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
    migrated = run(tmp_path, "-m", "strata.cli", "migrate", "--app", "shop:store", **servers)
    assert migrated.returncode == 0, migrated.stderr
    used = run(tmp_path, "use.py", **servers)
    assert used.returncode == 0, used.stderr
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT count(*) FROM articles").fetchone() == (0,)


SHOP = """from dataclasses import dataclass
from typing import Annotated
from strata import Config, DataStore, MemPolicy, PostgresPolicy, PrimaryKey, RedisPolicy, Schema

@dataclass
class Score:
    id: Annotated[str, PrimaryKey]
    points: int = 0

store = DataStore(Config.from_env())
scores = store.register(Schema(Score, name="scores", l1=MemPolicy(), l2=RedisPolicy(), l3=PostgresPolicy()))
store.migrate()
"""


def test_content_and_a_counter_share_a_table_as_the_page_says(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    section = PAGES[WRITE_MODES].read_text().split("### Content and a counter in one table\n")[1]
    ((code, said),) = EXAMPLE.findall(section)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "example.py").write_text(f"{code}\nstore.close()\n")
    result = run(tmp_path, "example.py", STRATA_POSTGRES_DSN=dsn, STRATA_REDIS_ADDR=redis_addr)
    assert (result.returncode, result.stdout) == (0, said), result.stderr
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT title, views FROM articles").fetchall() == [("A lamp", 2)]


@pytest.mark.parametrize("title", ["Page by page", "Changing what a query finds"])
def test_an_example_of_queries_prints_what_it_says(tmp_path: Path, dsn: str, redis_addr: str, title: str) -> None:
    section = PAGES["docs/queries.md"].read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    ((code, said),) = EXAMPLE.findall(section)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "example.py").write_text(f"{code}\nscores._store.close()\n")
    result = run(tmp_path, "example.py", STRATA_POSTGRES_DSN=dsn, STRATA_REDIS_ADDR=redis_addr)
    assert (result.returncode, result.stdout) == (0, said), result.stderr
    with psycopg.connect(dsn) as conn:
        for sql in re.findall(r"^```sql\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            conn.execute(sql)


def test_the_page_of_records_that_refer_to_others_is_the_one_that_the_docs_show(
    tmp_path: Path, dsn: str, redis_addr: str
) -> None:
    section = PAGES["docs/queries.md"].read_text().split("## A page of records that refer to others")[1]
    code, said = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "page.py").write_text(f"{code}\nstore.close()\n")
    result = run(tmp_path, "page.py", STRATA_POSTGRES_DSN=dsn, STRATA_REDIS_ADDR=redis_addr)
    assert (result.returncode, result.stdout) == (0, said), result.stderr


def test_the_examples_for_asyncio_run_as_they_stand(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    first, *others = blocks("docs/asyncio.md")
    asks = "assert asyncio.run(profile('p1')) == Player('p1', 'andrew')"
    (tmp_path / "players.py").write_text(first)
    (tmp_path / "others.py").write_text("\n".join([first.replace("asyncio.run(main())", ""), *others, asks]))
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
    result = run(tmp_path, "players.py", **servers)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines() == ["Player(id='p1', name='andrew', level=1)", "andrew", "berta", "carl"]
    result = run(tmp_path, "others.py", **servers)
    assert result.returncode == 0, result.stderr


def test_the_example_for_pydantic_prints_what_the_page_says(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    (program,) = [block for block in blocks(MODELS) if "from pydantic" in block]
    (tmp_path / "bookings.py").write_text(program)
    result = run(tmp_path, "bookings.py", STRATA_POSTGRES_DSN=dsn, STRATA_REDIS_ADDR=redis_addr)
    assert result.returncode == 0, result.stderr
    assert f"It prints\n\n```\n{result.stdout}```\n" in PAGES[MODELS].read_text()


def test_the_example_of_assigned_keys_prints_what_the_page_says(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    section = PAGES[MODELS].read_text().split("### Keys that the database assigns")[1]
    (code, said), *_ = EXAMPLE.findall(section)
    (tmp_path / "articles.py").write_text(f"{SHOP}\nimport strata\n{code}\nstore.close()\n")
    result = run(tmp_path, "articles.py", STRATA_POSTGRES_DSN=dsn, STRATA_REDIS_ADDR=redis_addr)
    assert (result.returncode, result.stdout) == (0, said), result.stderr


def test_the_existing_table_is_inspected_adopted_and_used_as_the_page_says(
    tmp_path: Path, dsn: str, redis_addr: str
) -> None:
    page = PAGES[EXISTING].read_text()
    table, to_jsonb = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    module, use = blocks(EXISTING)
    lacking, said = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(table)
        inspected = run(tmp_path, "-m", "strata.cli", "inspect-table", "orders", **servers)
        assert (inspected.returncode, inspected.stdout) == (0, module), inspected.stderr
        (tmp_path / "orders.py").write_text(module)
        migrated = run(tmp_path, "-m", "strata.cli", "migrate", "--app", "orders:store", **servers)
        assert migrated.returncode == 1 and lacking in migrated.stdout
        told = "from orders import store; print(*(change.sql for change in store.migrate().manual))"
        conn.execute(run(tmp_path, "-c", told, **servers).stdout)
        assert run(tmp_path, "-m", "strata.cli", "migrate", "--app", "orders:store", **servers).returncode == 0
        (tmp_path / "use.py").write_text(f"{use}\norders._store.close()\n")
        used = run(tmp_path, "use.py", **servers)
        assert (used.returncode, used.stdout) == (0, said), used.stderr
        assert conn.execute("SELECT state, labels FROM orders WHERE id = 1").fetchone() == ("paid", ["gift"])
        conn.execute(to_jsonb)
    assert (
        "labels: list[Any] | None = None"
        in run(tmp_path, "-m", "strata.cli", "inspect-table", "orders", **servers).stdout
    )


def test_the_example_of_sessions_runs_as_it_stands(tmp_path: Path, redis_addr: str) -> None:
    (program,) = blocks(LIVES)
    (tmp_path / "sessions.py").write_text(program)
    result = run(tmp_path, "sessions.py", STRATA_REDIS_ADDR=redis_addr)
    assert result.returncode == 0, result.stderr
    one, other = "Session(id='s1', user='ann', pages=0)", "Session(id='s2', user='bob', pages=0)"
    assert result.stdout.splitlines() == [f"{one} {other} None", other.replace("pages=0", "pages=1"), "None"]


def test_the_examples_of_what_is_made_where_it_is_missing_run_as_they_stand(tmp_path: Path, redis_addr: str) -> None:
    (tmp_path / "shop.py").write_text("\n".join(blocks("docs/memoizing.md")))
    result = run(tmp_path, "shop.py", STRATA_REDIS_ADDR=redis_addr)
    assert result.returncode == 0, result.stderr
    profile = "Profile(user=7, name='ann', visits=0)"
    assert result.stdout.splitlines() == [
        "asking for 7", profile, profile, "computing 2", "3.0 3.0 3.0", "computing 2", "computing 2", "3.0 3.0",
        'article=2,currency="EUR"', "measuring lamp", "4 4", "12",
    ]  # fmt: skip


def test_the_example_of_tags_prints_what_it_says(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    (tmp_path / "teams.py").write_text(blocks(TAGS)[0])
    result = run(tmp_path, "teams.py", STRATA_POSTGRES_DSN=dsn, STRATA_REDIS_ADDR=redis_addr)
    assert result.returncode == 0, result.stderr
    assert f"It prints\n\n```text\n{result.stdout}```\n" in PAGES[TAGS].read_text()


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_prints_what_it_says(tmp_path: Path, dsn: str, redis_addr: str, title: str) -> None:
    ((code, said),) = EXAMPLE.findall(RECIPES[title])
    (tmp_path / "recipe.py").write_text(f"{blocks(COOKBOOK)[0]}\n{code}\nstore.close()\n")
    result = run(tmp_path, "recipe.py", STRATA_POSTGRES_DSN=dsn, STRATA_REDIS_ADDR=redis_addr)
    assert (result.returncode, result.stdout) == (0, said), result.stderr


def test_the_cookbook_lists_its_recipes_in_their_order() -> None:
    listed = re.findall(r"^\| \[(.*?)\]", PAGES[COOKBOOK].read_text(), re.MULTILINE)
    assert [title.lower() for title in RECIPES] == listed


@pytest.mark.parametrize(
    ("title", "call"),
    {
        "Limit a rate": 'sum(allowed("carl", 50, 0) for _ in range(100))',
        "Do something once": 'sum(place(Order(str(n), "cup", Decimal(9))) for n in range(50))',
        "Take what comes twice": 'sum(len(take([Event(n, "stop"), Event(n + 1, "go")])) for n in range(10, 59))',
    }.items(),
)
def test_what_two_processes_do_by_a_recipe_at_once_is_done_once(
    tmp_path: Path, dsn: str, redis_addr: str, title: str, call: str
) -> None:
    ((code, _),) = EXAMPLE.findall(RECIPES[title])
    (tmp_path / "recipe.py").write_text(f"{blocks(COOKBOOK)[0]}\n{code}\nprint({call})\nstore.close()\n")
    servers = {"STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr}
    with ThreadPoolExecutor(2) as both:
        results = list(both.map(lambda _: run(tmp_path, "recipe.py", **servers), range(2)))
    assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
    assert sum(int(result.stdout.splitlines()[-1]) for result in results) == 50
