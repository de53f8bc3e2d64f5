"""The example project for Django, driven as a person would: commands, HTTP, the admin, SIGTERM under load."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from playwright.sync_api import expect

from strata.embedded import EmbeddedValkey
from strata.embedded.process import free_port
from tests.browser import chromium, needs_browser
from tests.support import wait_until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "django"


class Site:
    """A copy of the project, and its servers."""

    def __init__(self, folder: Path, dsn: str, redis_addr: str) -> None:
        self.folder = folder
        self.dsn = dsn
        self.port = free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATA_")}
        self.env = kept | {
            "STRATA_POSTGRES_DSN": dsn, "STRATA_REDIS_ADDR": redis_addr, "PYTHONPATH": f"{ROOT}:{folder}",
            "DJANGO_SETTINGS_MODULE": "news.settings", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("manage.py", *words)

    def managed(self, *words: str) -> str:
        done = self.manage(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str) -> str:
        done = self.run("-c", f"import django; django.setup()\n{code}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self, *words: str, **env: str) -> subprocess.Popen[bytes]:
        bind = ["--bind", f"127.0.0.1:{self.port}"] if words[0] == "gunicorn" else ["--port", str(self.port)]
        return subprocess.Popen([sys.executable, "-m", *words, *bind], cwd=self.folder, env=self.env | env)

    def ask(self, path: str, data: dict[str, str] | None = None) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.port}/{path}"
        body = None if data is None else urllib.parse.urlencode(data).encode()
        request = urllib.request.Request(url, body, {"Referer": url})
        try:
            with self.opener.open(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def answers(self) -> bool:
        try:
            return self.ask("healthz")[0] == 200
        except OSError:
            return False

    def submit(self, path: str, **fields: str) -> tuple[int, str]:
        """Fill in the form that is there, as a browser does."""
        _, page = self.ask(path)
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
        return self.ask(path, hidden | fields)


@pytest.fixture
def unmigrated(tmp_path: Path, dsn: str, redis_addr: str) -> Site:
    folder = tmp_path / "site"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return Site(folder, dsn, redis_addr)


@pytest.fixture
def site(unmigrated: Site) -> Site:
    unmigrated.managed("migrate")
    return unmigrated


ARTICLE = """
from blog.models import Article, Author
author = Author.objects.create(name="ann")
Article.objects.create(pk=7, slug="lamps", title="A lamp", author=author, meta={"pages": 2})
"""


@pytest.mark.in_turn
def test_django_s_own_commands_have_nothing_to_say(site: Site) -> None:
    assert "No changes detected" in site.managed("makemigrations", "--check")
    assert "no issues" in site.managed("check", "--database", "default")
    assert site.managed("strata", "migrate") == "Nothing to do.\n"
    stats = json.loads(site.managed("strata", "stats", "--json"))
    assert "blog_article" in json.dumps(stats)
    assert site.manage("strata", "warm").returncode == 2
    site.managed("migrate", "blog", "0001")
    with psycopg.connect(site.dsn) as conn:
        assert conn.execute("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%_strata%'").fetchone() == (0,)
    said = site.manage("check", "--database", "default").stderr
    assert "strata.W001" in said and "blog_article" in said and "StrataFields" in said
    said = site.managed("sqlmigrate", "blog", "0002")
    assert 'ALTER TABLE "blog_article" ADD COLUMN _strata_version' in said
    assert 'TRIGGER "~_strata_outside_update"' in said
    site.managed("migrate")


@pytest.mark.in_turn
def test_a_page_a_counter_and_the_admin_work_over_http(site: Site) -> None:
    site.python(
        f"{ARTICLE}\nfrom django.contrib.auth.models import User\nUser.objects.create_superuser('root', '', 'pw')"
    )
    server = site.serve("gunicorn", "news.wsgi", "--workers", "2")
    try:
        wait_until(site.answers)
        status, body = site.ask("articles/7")
        assert (status, json.loads(body)) == (200, {"title": "A lamp", "by": "ann", "meta": {"pages": 2}, "views": 0})
        assert json.loads(site.ask("articles/lamps")[1])["title"] == "A lamp"
        assert site.ask("articles/8")[0] == 404
        assert [json.loads(site.ask("articles/7/views", {})[1])["views"] >= 1 for _ in range(3)] == [True] * 3
        assert json.loads(site.ask("healthz")[1])["status"] == "up"
        site.submit("admin/login/?next=/admin/", username="root", password="pw")
        form = {"slug": "lamps", "title": "By the admin", "author": "1", "meta": "{}"}
        assert site.submit("admin/blog/article/7/change/", **form)[0] == 200
        wait_until(lambda: all('"By the admin"' in site.ask("articles/7")[1] for _ in range(6)))
        assert site.submit("admin/blog/article/7/delete/", post="yes")[0] == 200
        wait_until(lambda: [site.ask("articles/7")[0] for _ in range(6)] == [404] * 6)
    finally:
        server.terminate()
        assert server.wait(30) == 0


@needs_browser
@pytest.mark.in_turn
def test_two_people_use_the_admin_in_a_browser_with_sessions_in_the_cache(site: Site) -> None:
    site.python(
        f"{ARTICLE}\nfrom django.contrib.auth.models import User\nUser.objects.create_superuser('root', '', 'pw')"
    )
    server = site.serve("gunicorn", "news.wsgi", "--workers", "2")
    base = f"http://127.0.0.1:{site.port}"
    try:
        wait_until(site.answers)
        with chromium() as browser:
            editor, reader = (browser.new_context(base_url=base).new_page() for _ in range(2))
            editor.goto("/admin/")
            editor.fill("#id_username", "root")
            editor.fill("#id_password", "pw")
            editor.click("text=Log in")
            editor.click("text=Articles")
            editor.click("text=A lamp")
            editor.fill("#id_title", "By the admin")
            editor.click("input[name=_save]")
            expect(editor.locator(".messagelist")).to_contain_text("was changed successfully")
            for _ in range(4):  # of whichever process
                reader.goto("/articles/lamps")
                expect(reader.locator("body")).to_contain_text("By the admin")
            reader.goto("/admin/")
            expect(reader.locator("#id_username")).to_be_visible()  # whose session is another one
            editor.click("text=Log out")
            editor.goto("/admin/blog/article/")
            expect(editor.locator("#id_username")).to_be_visible()
    finally:
        server.terminate()
        assert server.wait(30) == 0


SERVERS = {
    "gunicorn": ["gunicorn", "news.wsgi", "--workers", "2"],
    "preloaded, with threads": ["gunicorn", "news.wsgi", "--workers", "2", "--preload", "--threads", "4"],
    "uvicorn": ["uvicorn", "news.asgi:application"],
    "gunicorn, of uvicorn": [
        "gunicorn", "news.asgi:application", "--workers", "2", "--worker-class", "uvicorn_worker.UvicornWorker",
    ],
    "uvicorn, without lifespan": ["uvicorn", "news.asgi:application", "--lifespan", "off"],
}  # fmt: skip


@pytest.mark.in_turn
@pytest.mark.parametrize("words", SERVERS.values(), ids=SERVERS)
def test_what_was_counted_before_sigterm_under_load_is_in_postgresql_once_each(site: Site, words: list[str]) -> None:
    site.python(ARTICLE)
    counted = 0
    lock, stop = threading.Lock(), threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            try:
                status, _ = site.ask("articles/7/views", {})
            except OSError:
                continue  # it ends
            with lock:
                counted += status == 200

    for _ in range(2):  # and once more, on what is there
        server = site.serve(*words, STRATA_FLUSH_ON_SIGTERM=str("off" in words))
        wait_until(site.answers)
        stop.clear()
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        before = counted
        wait_until(lambda: counted > before + 100)  # noqa: B023
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM)  # by which uvicorn ends
        stop.set()
        for thread in threads:
            thread.join(30)
    # A request that was under way when its connection was cut may have been counted without an answer.
    with psycopg.connect(site.dsn, autocommit=True) as conn:

        def held() -> int:
            row = conn.execute("SELECT count FROM blog_visits WHERE article_id = 7").fetchone()
            return 0 if row is None else int(row[0])

        site.python("from strata.integrations.django import store; store().flush_dirty(30); store().close()")
        wait_until(lambda: held() >= counted)
        assert held() <= counted + 8 * 2


@pytest.mark.in_turn
def test_with_a_handler_of_sigterm_threads_serve_all_the_same(site: Site) -> None:
    site.python(ARTICLE)
    server = site.serve("gunicorn", "news.wsgi", "--threads", "4", STRATA_FLUSH_ON_SIGTERM="1")
    try:
        wait_until(site.answers)
        assert site.ask("articles/7/views", {})[0] == 200
    finally:
        server.terminate()
        assert server.wait(30) == 0


@pytest.mark.in_turn
def test_a_worker_serves_the_project_by_its_name(site: Site) -> None:
    site.python(ARTICLE)
    words = "-A strata.worker worker --concurrency 1 --pool solo --loglevel INFO".split()
    env = site.env | {"STRATA_APP": "strata.integrations.django:store"}
    log = site.folder / "worker.log"
    with log.open("wb") as file:
        worker = subprocess.Popen([sys.executable, "-m", "celery", *words], cwd=site.folder, env=env, stderr=file)
    try:
        wait_until(lambda: " ready." in log.read_text(), 60)
        counted = "visits.increment(7, count=1, default=visits.model(article_id=7))"
        site.python(f"from blog.records import visits\n{counted}")
        wait_until(lambda: re.search(r"Task strata.persist\S+ succeeded", log.read_text()))
        with psycopg.connect(site.dsn) as conn:
            assert conn.execute("SELECT count FROM blog_visits WHERE article_id = 7").fetchone() == (1,)
    finally:
        worker.terminate()
        worker.wait(60)


@pytest.mark.in_turn
def test_a_project_s_tests_have_the_test_database_by_themselves(site: Site) -> None:
    site.python(f"{ARTICLE}\nfrom blog.records import authors\nassert authors.get(1).name == 'ann'")
    site.python("from django.core.cache import cache\ncache.set('seen', 'by the site')")
    with redis.Redis.from_url(f"redis://{site.env['STRATA_REDIS_ADDR']}") as client:
        before = set(client.scan_iter())
        done = site.manage("test", "--noinput")
        assert done.returncode == 0 and "Ran 8 tests" in done.stderr, done.stderr
        assert [key for key in client.scan_iter() if b"test-" in key] == []
        assert before <= set(client.scan_iter())
    with psycopg.connect(site.dsn) as conn:
        assert conn.execute("SELECT name FROM blog_author").fetchall() == [("ann",)]
    print_seen = "from django.core.cache import cache\nprint(cache.get('seen'))"
    assert site.python(print_seen) == "by the site\n"


@pytest.mark.in_turn
def test_a_project_s_tests_run_in_parallel_and_by_pytest(site: Site) -> None:
    done = site.manage("test", "--noinput", "--parallel", "2")
    assert done.returncode == 0 and "Ran 8 tests" in done.stderr, done.stderr
    with redis.Redis.from_url(f"redis://{site.env['STRATA_REDIS_ADDR']}") as client:
        assert [key for key in client.scan_iter() if b"test-" in key] == []
    conftest, test = re.findall(
        r"^```python\n(import pytest\n.*?forget.*?)^```.*?^```python\n(.*?)^```", PAGE, re.M | re.S
    )[0]
    (site.folder / "conftest.py").write_text(conftest)
    again = test[test.index("def ") :].replace("def test_", "def test_again_")
    (site.folder / "test_authors.py").write_text(test + again)
    ran = site.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--create-db", "test_authors.py")
    assert ran.returncode == 0 and "2 passed" in ran.stdout, ran.stdout + ran.stderr


SETTINGS: list[tuple[str, str]] = [
    ("STRATA = {'REDIS': 'x'}", "'redis', which is no field of Config"),
    ("STRATA = ['x']", "must be a mapping of fields"),
    ("STRATA = {'POSTGRES_DSN': 'dbname=x'}", "one of DATABASES"),
    ("STRATA = {'DATABASE': 'other'}", "'other', of which DATABASES knows nothing"),
    ("CACHES['default']['OPTIONS'] = {'db': '3'}", "CACHES.'default'.*no option 'db'; it has MAX_ENTRIES"),
    ("CACHES['default']['LOCATION'] = 'x:y:z'", "CACHES.'default'"),
    ("STRATA['WRITE_BEHIND_DURABILITY'] = 'some'", "must be one of memory"),
    (
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}",
        "is sqlite; .*PostgreSQL",
    ),
]


@pytest.mark.in_turn
@pytest.mark.parametrize(("line", "said"), SETTINGS)
def test_settings_that_cannot_be_are_said_by_the_check(unmigrated: Site, line: str, said: str) -> None:
    with (unmigrated.folder / "news" / "settings.py").open("a") as file:
        file.write(f"\n{line}\n")
    done: Any = unmigrated.manage("check")
    assert done.returncode == 1 and re.search(said, done.stderr) and "strata.E00" in done.stderr, done.stderr


@pytest.mark.in_turn
def test_what_is_memoized_may_be_a_method_is_pickled_by_its_name_and_may_be_awaited(site: Site) -> None:
    with (site.folder / "blog" / "records.py").open("a") as file:
        file.write(
            "\n\nclass Shop:\n"
            "    @cached(ttl=60, key=lambda self, n: n)\n"
            "    def price(self, n: int) -> int:\n        calls.append(n)\n        return 2 * n\n"
            "\n\n@cached(ttl=60)\nasync def later(n: int) -> int:\n    calls.append(n)\n    return 3 * n\n"
            "\n\ncalls: list[int] = []\n"
        )
    said = site.python(
        "import asyncio, copy, pickle\n"
        "from blog.records import Shop, calls, id_of, later\n"
        "print(Shop().price(4), Shop().price(4), asyncio.run(later(5)), asyncio.run(later(5)), calls)\n"
        "Shop.price.invalidate(Shop(), 4)\n"
        "print(Shop().price(4), calls, id_of.key('a'))\n"
        "print(pickle.loads(pickle.dumps(id_of)) is copy.deepcopy(id_of) is id_of)\n"
    )
    assert said == '8 8 15 15 [4, 5]\n8 [4, 5, 4] slug="a"\nTrue\n', said


@pytest.mark.in_turn
@pytest.mark.parametrize("broken", ["{'BACKEND': 'no.such.Backend'}", "{**CACHES['default'], 'OPTIONS': {'db': '3'}}"])
def test_health_goes_on_where_a_cache_cannot_be_made(site: Site, broken: str) -> None:
    with (site.folder / "news" / "settings.py").open("a") as file:
        file.write(f"\nCACHES['other'] = {broken}\n")
    said = site.python(
        "from django.test import Client\nprint(Client(headers={'host': 'localhost'}).get('/healthz').status_code)"
    )
    assert said == "200\n", said


@pytest.mark.in_turn
def test_health_tells_of_the_caches_too(site: Site, own_valkey: EmbeddedValkey) -> None:
    with (site.folder / "news" / "settings.py").open("a") as file:
        file.write(f"\nCACHES['default']['LOCATION'] = 'redis://{own_valkey.addr}/0'\n")
    said = site.python(
        "import signal, os\n"
        "from django.core.cache import cache\n"
        "from django.test import Client\n"
        "from strata import UnavailableError\n"
        "client = Client(headers={'host': 'localhost'})\n"
        "cache.set('a', 1)\n"
        "print(client.get('/healthz').json()['caches']['default']['status'])\n"
        f"os.kill({own_valkey.pid}, signal.SIGKILL)\n"
        "while (answer := client.get('/healthz')).json()['caches']['default']['status'] != 'down':\n"
        "    try: cache.set('a', 2)\n"
        "    except UnavailableError: pass\n"
        "print(answer.status_code, answer.json()['status'], answer.json()['caches']['default'])\n"
    )
    assert said.startswith("up\n200 degraded {'status': 'down'"), said


PAGE = (ROOT / "docs" / "django.md").read_text()
SHOWN = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("name", "text"), SHOWN, ids=[name for name, _ in SHOWN])
def test_the_guide_shows_the_example_as_it_is(name: str, text: str) -> None:
    assert text in (EXAMPLE / name).read_text()
    assert len(SHOWN) >= 6


@pytest.mark.in_turn
def test_one_command_starts_servers_a_worker_and_the_site_and_ends_them(unmigrated: Site) -> None:
    env = {name: value for name, value in unmigrated.env.items() if not name.startswith("STRATA_")}
    running = subprocess.Popen([EXAMPLE / "run"], env=env | {"PORT": str(unmigrated.port)})
    try:
        wait_until(unmigrated.answers, 120)
        assert unmigrated.ask("articles/1")[0] == 404
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(60)
    assert not unmigrated.answers()
