"""Alembic beside Strata, as docs/sqlalchemy.md says: it leaves Strata's objects alone, and brings what tables need."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.databases import fresh
from tests.fleet import ROOT
from tests.surroundings.orm import url

BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", (ROOT / "docs" / "sqlalchemy.md").read_text(), re.M | re.S)
MODELS, SHOP, _, LEAVE_ALONE, CONFIGURE, BRING, COLUMN = [text for kind, text in BLOCKS if kind == "python"]
MAKE, APPLY = [text for kind, text in BLOCKS if kind == "sh"]
GIVEN = "target_metadata=target_metadata"
RECIPE = CONFIGURE.removeprefix("context.configure(..., ").removesuffix(")\n")


@contextmanager
def edited(page: Path, old: str, new: str) -> Iterator[None]:
    """A file with another text in the place of one that it has, for a while."""
    before = page.read_text()
    assert old in before
    page.write_text(before.replace(old, new))
    try:
        yield
    finally:
        page.write_text(before)


class Application:
    """That of the page, in a folder, on a database where Alembic has made its tables; `env.py` has the recipe."""

    def __init__(self, folder: Path, dsn: str, redis_addr: str, shop: str = SHOP) -> None:
        self._folder = folder
        self._env = os.environ | {
            "DATABASE_URL": url(dsn).render_as_string(hide_password=False), "STRATA_POSTGRES_DSN": dsn,
            "STRATA_REDIS_ADDR": redis_addr, "STRATA_NAMESPACE": "alembic",
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        self.models = folder / "models.py"
        self.models.write_text(MODELS)
        (folder / "shop.py").write_text(shop)
        self.run("alembic init migrations")
        self.page = folder / "migrations" / "env.py"
        text = self.page.read_text()
        for old, new in (
            ("target_metadata = None", f"import os, models\ntarget_metadata = models.Base.metadata\n\n{LEAVE_ALONE}"),
            ('url = config.get_main_option("sqlalchemy.url")', "url = os.environ['DATABASE_URL']"),
            ("config.get_section(config.config_ini_section, {})", "{'sqlalchemy.url': os.environ['DATABASE_URL']}"),
            (GIVEN, f"{GIVEN}, compare_server_default=True, {RECIPE}"),
        ):
            assert old in text
            text = text.replace(old, new)
        self.page.write_text(text)
        self.run("alembic revision --autogenerate --rev-id 0001 -m articles && alembic upgrade head")

    def on(self, env: dict[str, str]) -> Application:
        """The same folder, on other servers."""
        other = copy.copy(self)
        other._env = self._env | env
        return other

    def run(self, words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        line = words.replace("strata migrate", f"{sys.executable} -m strata.cli migrate")  # as it is in a checkout
        ran = subprocess.run(
            line, shell=True, cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == status, ran.stdout + ran.stderr
        return ran

    def revision(self, name: str) -> Path:
        (found,) = (self._folder / "migrations" / "versions").glob(f"{name}*.py")
        return found

    def revise(self, name: str, body: str) -> None:
        """Write what a revision does."""
        page = self.revision(name)
        page.write_text(page.read_text().partition("def upgrade")[0] + body)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Application]:
    """One whose second revision brings what its table needs; each test leaves it as it was."""
    with fresh() as dsn:
        made = Application(tmp_path_factory.mktemp("application"), dsn, redis_server)
        made.run(MAKE)
        made.revise("0002", BRING)
        assert "Left to you" not in made.run(APPLY).stdout
        yield made


@pytest.mark.in_turn
def test_autogenerate_finds_nothing_where_strata_is_migrated_and_everything_else(application: Application) -> None:
    run = application.run
    run("alembic revision --autogenerate --rev-id 0003 -m nothing")
    made = application.revision("0003")
    assert "op." not in made.read_text()
    made.unlink()
    assert "No new upgrade operations detected" in run("alembic check").stdout
    with edited(application.models, "    views:", "    note: Mapped[str | None]\n    views:"):
        found = run("alembic check", 255).stderr.partition("New upgrade operations detected: ")[2]
    assert found.startswith("[('add_column', None, 'articles', Column('note',") and "), (" not in found


@pytest.mark.in_turn
def test_without_the_recipe_it_would_drop_what_strata_has(application: Application) -> None:
    with edited(application.page, f", {RECIPE}", ""):
        found = application.run("alembic check", 255).stderr
    for what in ("table '_strata_repairs'", "table 'drafts'", "column 'articles._strata_version'"):
        assert f"Detected removed {what}" in found


@pytest.mark.in_turn
def test_what_the_orm_changes_is_seen_by_the_triggers_that_the_revision_has_made(application: Application) -> None:
    application.run(
        'python -c "from models import ArticleRow, Session; from shop import articles; import time\n'
        "session = Session(); session.add(ArticleRow(id=1, title='old')); session.commit()\n"
        "assert articles.get(1).title == 'old'\n"
        "session.get_one(ArticleRow, 1).title = 'new'; session.commit(); deadline = time.monotonic() + 20\n"
        "while articles.get(1).title != 'new': assert time.monotonic() < deadline; time.sleep(0.01)\""
    )


@pytest.mark.in_turn
def test_the_revision_goes_down_and_up_again_and_can_be_written_as_sql(application: Application) -> None:
    assert 'FUNCTION "_strata_outside_articles"()' in application.run("alembic upgrade 0001:0002 --sql").stdout
    application.run("alembic downgrade base")
    assert "Left to you" not in application.run(APPLY).stdout


@pytest.mark.in_turn
def test_the_tables_of_strata_and_the_revision_may_come_in_either_order(application: Application, dsn: str) -> None:
    upgrade, migrate = APPLY.splitlines()
    env = {"DATABASE_URL": url(dsn).render_as_string(hide_password=False), "STRATA_POSTGRES_DSN": dsn}
    elsewhere = application.on(env | {"STRATA_NAMESPACE": "elsewhere"})
    elsewhere.run("alembic upgrade 0001")
    elsewhere.run(migrate, 1)
    elsewhere.run(upgrade)
    assert "Left to you" not in elsewhere.run(migrate).stdout


@pytest.mark.long
def test_a_table_that_is_not_watched_needs_a_column_alone(tmp_path: Path, dsn: str, redis_addr: str) -> None:
    application = Application(tmp_path, dsn, redis_addr, SHOP.replace(", watch=True", ""))
    application.run("alembic revision --rev-id 0002 -m column")
    application.revise("0002", COLUMN)
    assert "Left to you" not in application.run(APPLY).stdout
    assert "No new upgrade operations detected" in application.run("alembic check").stdout
