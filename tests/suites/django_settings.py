"""Settings of Django's own tests, with StrataCache wherever they ask for a cache in memory."""

import os
from typing import Any

from django.core.cache.backends import locmem

from strata.integrations.django import StrataCache

REDIS = os.environ["SUITE_REDIS"]


class SuiteCache(StrataCache):
    """What Django's tests call a cache in memory: its LOCATION is a name, by which two are apart."""

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        options = params.get("OPTIONS", {})
        super().__init__(REDIS, params | {"OPTIONS": options | {"namespace": name.replace("-", "_")}})


locmem.LocMemCache = SuiteCache

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3"}, "other": {"ENGINE": "django.db.backends.sqlite3"}}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
CACHES = {"default": {"BACKEND": "strata.integrations.django.StrataCache", "LOCATION": REDIS}}
