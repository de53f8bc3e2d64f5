"""dogpile.cache's tests of backends, serializers and mutexes, which it ships for backends of others."""

import os

from dogpile.cache import register_backend
from dogpile.testing.fixtures import (
    _GenericBackendTestSuite,
    _GenericMutexTestSuite,
    _GenericSerializerTestSuite,
)

ARGUMENTS = {"redis_addr": os.environ["SUITE_REDIS"], "secret_key": "secret", "foo": "barf"}

register_backend("strata", "strata.integrations.dogpile", "StrataBackend")


class TestBackend(_GenericBackendTestSuite):
    backend = "strata"
    config_args = {"arguments": ARGUMENTS}


class TestBackendWithDistributedLock(_GenericBackendTestSuite):
    backend = "strata"
    config_args = {"arguments": {**ARGUMENTS, "distributed_lock": True}}


class TestSerializer(_GenericSerializerTestSuite, TestBackend):
    pass


class TestMutex(_GenericMutexTestSuite):
    backend = "strata"
    config_args = {"arguments": {**ARGUMENTS, "distributed_lock": True}}
