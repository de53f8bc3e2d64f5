"""A view that tells how the store is, and the caches."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.http import JsonResponse

from strata.errors import InvalidConfigError
from strata.integrations.django.cache import StrataCache
from strata.integrations.django.project import project, store
from strata.integrations.probes import ProbeReport, report


def health(request: Any) -> JsonResponse:
    """Of `GET`: what is known of the tiers, without asking any server, and of those of the caches that have a store of
    their own; 503 where nothing below memory answers.

    >>> from django.urls import path
    >>> urlpatterns = [path("healthz", health)]
    """
    own = report(store()) if project.is_used else None
    beside = _beside()
    status = _status(own, beside)
    body = {} if own is None else own.body
    told = {
        "caches": {alias: {"status": found.status, "tiers": found.body.get("tiers")} for alias, found in beside.items()}
    }
    return JsonResponse(body | {"status": status} | (told if beside else {}), status=503 if status == "down" else 200)


def _beside() -> dict[str, ProbeReport]:
    """Of the caches with a store of their own; one whose settings cannot work is down, as its first use shows."""
    found = {}
    for alias in settings.CACHES:
        try:
            cache = caches[alias]
            if isinstance(cache, StrataCache) and not project.has(cache.store):
                found[alias] = report(cache.store)
        except InvalidConfigError:
            found[alias] = ProbeReport("down", {})
        except (ImproperlyConfigured, ImportError):
            pass  # somebody else's
    return found


def _status(own: ProbeReport | None, beside: dict[str, ProbeReport]) -> str:
    """Down is what has no records that it could show, as without caches it still can."""
    others = [found.status for found in beside.values()]
    if own is None:
        return "down" if others and set(others) == {"down"} else "degraded" if set(others) - {"up"} else "up"
    return "degraded" if own.status == "up" and set(others) - {"up"} else own.status
