"""Strata in a Django project (extra `django`)."""

from strata.exports import export
from strata.integrations.django.asgi import lifespan
from strata.integrations.django.cache import StrataCache
from strata.integrations.django.operations import StrataFields
from strata.integrations.django.project import cached, register, store
from strata.integrations.django.records import record_of
from strata.integrations.django.signals import invalidate_on_commit
from strata.integrations.django.views import health

__all__ = [
    "StrataCache",
    "StrataFields",
    "cached",
    "health",
    "invalidate_on_commit",
    "lifespan",
    "record_of",
    "register",
    "store",
]

__dir__ = export(globals())
