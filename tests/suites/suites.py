"""The frameworks' own tests of caches: how they are run on ours, and which of them do not concern a backend."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Outcome:
    """What became of a suite's tests: how many, and why those that were skipped were."""

    passed: int
    failed: int
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class Suite:
    """`project` is the name on PyPI of the source distribution that has the tests; `run` takes their folder, and the
    environment. `left_out` are those that are not run, by why."""

    project: str
    run: Callable[[Path, Mapping[str, str]], Outcome]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _pytest(tests: Path, env: Mapping[str, str], *words: str) -> Outcome:
    """Run pytest in a folder into which our own parts of the suite were copied."""
    report = tests / "strata-report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        "/dev/null",
        "--rootdir",
        ".",
        f"--junitxml={report}",
        *words,
    ]
    subprocess.run(command, cwd=tests, env={**env, "PYTHONPATH": f"{tests}:{ROOT}"}, check=False)
    cases = list(ET.parse(report).iter("testcase"))
    kinds = Counter(next((child.tag for child in case if child.tag != "properties"), "passed") for case in cases)
    why = Counter(skip.get("message", "") for case in cases for skip in case.iter("skipped"))
    return Outcome(kinds["passed"], kinds["failure"] + kinds["error"], why)


def _copied(tests: Path, /, **files: str) -> Path:
    """The folder, with files of ours in it, by the names that they have there."""
    for name, ours in files.items():
        shutil.copy(HERE / f"{ours}.py", tests / f"{name}.py")
    return tests


def _dogpile(folder: Path, env: Mapping[str, str]) -> Outcome:
    (own := folder / "strata").mkdir()
    _copied(own, dogpile_suite="dogpile_suite")
    return _pytest(own, env, "-W", "ignore::pytest.PytestUnknownMarkWarning", "dogpile_suite.py")


def _cachelib(folder: Path, env: Mapping[str, str]) -> Outcome:
    tests = _copied(folder / "tests", cachelib_suite="cachelib_suite", xprocess="xprocess_stub")
    return _pytest(tests, env, "-W", "error", "cachelib_suite.py")


_FLASK_CACHING = {
    "asks for the very class SimpleCache, for its dict, or its serializer's class": (
        "test_basic_app.py::test_dict_config_initapp", "test_basic_app.py::test_dict_config_both",
        "test_cachelib.py::test_backend_uses_cachelib_serializer",
        "test_serializer.py::test_default_keeps_the_cachelib_serializer",
        "test_serializer.py::test_values_are_stored_in_the_configured_format",
    ),
    "about another backend": (
        "test_init.py::test_init_nullcache", "test_backend_cache.py", "test_basic_app.py::test_init_app_multi_apps",
        "test_basic_app.py::test_app_redis_cache_backend_url_default_db",
        "test_basic_app.py::test_app_redis_cache_backend_url_custom_db",
        "test_basic_app.py::test_app_redis_cache_backend_url_explicit_db_arg", "test_cache.py::test_cache_unlink",
    ),
}  # fmt: skip


def _flask_caching(folder: Path, env: Mapping[str, str]) -> Outcome:
    ours = {name: name for name in ("flask_caching_plugin", "flask_caching_suite")}
    tests = _copied(folder / "tests", **ours, xprocess="xprocess_stub")
    left_out = [word for names in _FLASK_CACHING.values() for name in names for word in ("--deselect", name)]
    return _pytest(tests, env, "-p", "flask_caching_plugin", *left_out, ".", "flask_caching_suite.py")


_DJANGO = {
    "about another backend": ("cache.tests: the classes of each of Django's own", "cache.tests_async"),
    "looks into the dict of Django's cache in memory": ("cache.tests.DefaultNonExpiringCacheKeyTests",),
}
_LABELS = """
strata_cache cache.tests.CustomCacheKeyValidationTests cache.tests.CacheClosingTests cache.tests.CacheUtils
cache.tests.CacheHEADTest cache.tests.CacheI18nTest cache.tests.PrefixedCacheI18nTest cache.tests.CacheMiddlewareTest
cache.tests.TestWithTemplateResponse cache.tests.TestMakeTemplateFragmentKey cache.tests.CacheHandlerTest
sessions_tests.tests.CacheSessionTests sessions_tests.tests.CacheDBSessionTests
sessions_tests.tests.CacheDBSessionWithTimeZoneTests sessions_tests.tests.SessionMiddlewareTests
""".split()


def _django(folder: Path, env: Mapping[str, str]) -> Outcome:
    tests = folder / "tests"
    (own := tests / "strata_cache").mkdir()
    _copied(own, tests="django_suite")
    (own / "__init__.py").touch()
    _copied(tests, strata_settings="django_settings")
    command = [sys.executable, "runtests.py", "--settings=strata_settings", "--parallel=1", "--verbosity=2", *_LABELS]
    found = subprocess.run(
        command, cwd=tests, env={**env, "PYTHONPATH": f"{tests}:{ROOT}"}, stderr=subprocess.PIPE, text=True, check=False
    )
    print(found.stderr if found.returncode else found.stderr[-300:])
    ends = Counter(re.findall(r"\.\.\. (ok|FAIL|ERROR|expected failure)$", found.stderr, re.MULTILINE))
    why = Counter(re.findall(r"\.\.\. skipped [\"'](.*)[\"']$", found.stderr, re.MULTILINE))
    failed = ends["FAIL"] + ends["ERROR"] or int(found.returncode != 0)
    return Outcome(ends["ok"] + ends["expected failure"], failed, why)


_OF_ITS_OWN = {"about another backend": ("the tests of its own backends",)}

SUITES = {
    "django": Suite("django", _django, _DJANGO),
    "dogpile": Suite("dogpile.cache", _dogpile, _OF_ITS_OWN),
    "cachelib": Suite("cachelib", _cachelib, _OF_ITS_OWN),
    "flask-caching": Suite("flask-caching", _flask_caching, _FLASK_CACHING),
}
