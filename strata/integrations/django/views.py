"""A view that tells how the store is."""

from __future__ import annotations

from typing import Any

from django.http import JsonResponse

from strata.integrations.django.project import store
from strata.integrations.probes import report


def health(request: Any) -> JsonResponse:
    """Of `GET`: what is known of the tiers, without asking any server; 503 where nothing below memory answers.

    >>> from django.urls import path
    >>> urlpatterns = [path("healthz", health)]
    """
    found = report(store())
    return JsonResponse(found.body, status=found.http_status)
