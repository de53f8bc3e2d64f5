"""Flask-Caching's tests of any backend."""

import os
import time
from collections.abc import Callable

import pytest
from test_backend_cache import GenericCacheTests

from strata.integrations.cachelib import StrataCache


class TestStrataCache(GenericCacheTests):  # type: ignore[misc]
    _can_use_fast_sleep = False

    @pytest.fixture
    def make_cache(self) -> Callable[..., StrataCache]:
        def make(**options: object) -> StrataCache:
            cache = StrataCache(os.environ["SUITE_REDIS"], secret_key="secret", **options)  # type: ignore[arg-type]
            cache.clear()
            return cache

        return make

    @pytest.fixture
    def sleep(self) -> Callable[[float], None]:
        return time.sleep
