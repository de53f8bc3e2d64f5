"""`/items/<id>`: GET reads, PUT sets the level; by Strata, by hand, by Django's cache, or by the ORM alone."""

from __future__ import annotations

import os
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from tests.benchmarks.site import reading
from tests.benchmarks.site.reading import Row

WAYS: dict[str, Any] = {
    "strata": reading.Strata, "hand": reading.ByHand, "framework": reading.DjangoCache, "none": reading.Plain,
}  # fmt: skip
way = WAYS[os.environ["SITE"]]()


def item(request: HttpRequest, id: int) -> HttpResponse:
    found: Row = way.get(id) if request.method == "GET" else way.put(id, int(request.GET["level"]))
    return JsonResponse(found)


urlpatterns = [path("items/<int:id>", item)]
