"""cachelib's tests of what a cache does, as its own `test_redis_cache.py` has them for Redis."""

import os

import pytest
from cachelib import BaseCache
from cachelib.serializers import BaseRedisSerializer
from clear import ClearTests
from common import CommonTests
from delete_many_with_prefix import DeleteManyWithPrefixTests
from has import HasTests
from serializer import SerializerTests

from strata.integrations.cachelib import StrataCache


class SillySerializer(BaseRedisSerializer):
    """A serializer of a user's own."""

    def dumps(self, value):
        return repr(value).encode()

    def loads(self, bvalue):
        return eval(bvalue.decode())


class CustomCache(StrataCache):
    serializer = SillySerializer()


@pytest.fixture(autouse=True, params=[StrataCache, CustomCache])
def cache_factory(request, key_prefix):
    def _factory(self, *args, **kwargs):
        kwargs.setdefault("key_prefix", key_prefix)
        cache = request.param(*args, redis_addr=os.environ["SUITE_REDIS"], secret_key="secret", **kwargs)
        cache.clear()
        return cache

    request.cls.cache_factory = _factory


class TestStrataCache(CommonTests, ClearTests, HasTests, DeleteManyWithPrefixTests, SerializerTests):
    def test_callable_key(self):
        cache = self.cache_factory()
        assert cache.set(lambda_key, "sausages")
        assert cache.get(lambda_key) == "sausages"

    def test_types_have_all_base_methods(self):
        cache = self.cache_factory()
        for name in dir(BaseCache):
            assert name.startswith("_") or callable(getattr(cache, name))


lambda_key = lambda: "bacon"  # noqa: E731
