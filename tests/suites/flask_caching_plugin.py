"""Runs Flask-Caching's tests on StrataCache, wherever they take its SimpleCache."""

import os
import sys
import time
from typing import Any

import flask_caching.backends
import pytest

from strata.integrations.cachelib import StrataCache


def made(app: Any, config: Any, args: Any, options: dict[str, Any]) -> StrataCache:
    """Empty at first, as a cache in memory is."""
    cache = StrataCache(os.environ["SUITE_REDIS"], secret_key="secret", **options)
    cache.clear()
    return cache


def pytest_configure() -> None:
    flask_caching.backends.SimpleCache = made  # type: ignore[misc,assignment]


def pytest_collection_modifyitems() -> None:
    def advance(self: object, seconds: float) -> None:
        """Redis has no clock that could be set."""
        if seconds > 5:
            pytest.skip(f"waits {seconds} s")
        time.sleep(seconds)

    sys.modules["conftest"]._Clock.advance = advance
