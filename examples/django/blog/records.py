from strata import Q, WriteMode
from strata.integrations.django import cached, register

from blog.models import Article, Author, Visits

authors = register(Author)
articles = register(Article)
visits = register(Visits, write_mode=WriteMode.WRITE_BEHIND)


@cached(ttl=300)
def id_of(slug: str) -> int | None:
    """Of the article that had the slug when that was looked up."""
    return next((found.id for found in articles.search(Q().where("slug = $1", slug).fields("id"))), None)


def by_slug(slug: str) -> articles.model | None:
    """The article that has the slug; where it may be another one by now, it is looked up anew."""
    for look_up in (id_of, id_of.refresh):
        id = look_up(slug)
        found = None if id is None else articles.get(id, default=None)
        if found is not None and found.slug == slug:
            return found
    return None
