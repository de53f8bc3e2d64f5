"""The settings: servers and variant are those of the environment."""

from __future__ import annotations

import os
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from tests.benchmarks.record import TTL

SECRET_KEY = "only for the benchmark"
ALLOWED_HOSTS = ["shop", "127.0.0.1"]
ROOT_URLCONF = "tests.benchmarks.site.urls"
USE_TZ = True
INSTALLED_APPS = ["strata.integrations.django", "tests.benchmarks.site"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]

DSN = os.environ["STRATA_POSTGRES_DSN"]
REDIS = os.environ["STRATA_REDIS_ADDR"]
_parts: Any = conninfo_to_dict(DSN)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _parts["dbname"],
        "USER": _parts["user"],
        "PASSWORD": _parts["password"],
        "HOST": _parts["host"],
        "PORT": str(_parts["port"]),
        "CONN_MAX_AGE": None,  # a connection a thread is kept, which is the best that Django has without a pool
    }
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"redis://{REDIS}",
        "TIMEOUT": TTL,
    }
}
STRATA = {"REDIS_ADDR": REDIS}
