from typing import Any

from django.http import Http404, HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from blog.records import articles, authors, by_slug, visits


@require_GET
def article(request: HttpRequest, id: int) -> JsonResponse:
    return shown(articles.get(id, default=None))


@require_GET
def article_by_slug(request: HttpRequest, slug: str) -> JsonResponse:
    return shown(by_slug(slug))


def shown(found: Any) -> JsonResponse:
    if found is None:
        raise Http404
    author = authors.get(found.author_id)
    seen = visits.get(found.id, default=None)
    return JsonResponse(
        {"title": found.title, "by": author.name, "meta": found.meta, "views": seen.count if seen else 0}
    )


@csrf_exempt
@require_POST
def count(request: HttpRequest, id: int) -> JsonResponse:
    """Counts a view: in memory at once, in PostgreSQL a little later, by a worker."""
    seen = visits.increment(id, count=1, default=visits.model(article_id=id))
    return JsonResponse({"views": seen.count})
