"""Strata in a Django project (extra `django`)."""

from strata.exports import export
from strata.integrations.django.cache import StrataCache

__all__ = ["StrataCache"]

__dir__ = export(globals())
