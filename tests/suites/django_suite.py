"""Django's tests of a cache backend, on StrataCache: as its RedisCache has them, whose culling is the server's."""

from cache.tests import BaseCacheTests, caches_setting_for_tests
from django.conf import settings
from django.test import TestCase, override_settings


@override_settings(CACHES=caches_setting_for_tests(base=settings.CACHES["default"], exclude={"cull", "zero_cull"}))
class StrataCacheTests(BaseCacheTests, TestCase):
    pass
