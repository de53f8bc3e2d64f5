from django.core.cache import cache
from django.test import TestCase
from strata.integrations.django import store
from strata.integrations.django.testing import StrataTestCase

from blog.models import Article, Author
from blog.records import authors, visits


class ArticleTests(StrataTestCase):
    def test_strata_reads_what_the_orm_writes(self) -> None:
        author = Author.objects.create(name="ann")
        article = Article.objects.create(slug="lamps", title="A lamp", author=author)
        answer = self.client.get(f"/articles/{article.pk}")
        self.assertEqual(answer.json(), {"title": "A lamp", "by": "ann", "meta": {}, "views": 0})

    def test_who_saves_by_the_orm_reads_what_was_saved(self) -> None:
        author = Author.objects.create(name="ann")
        self.assertEqual(authors.get(author.pk).name, "ann")
        author.name = "bob"
        author.save()
        self.assertEqual(authors.get(author.pk).name, "bob")

    def test_an_article_is_found_by_its_slug(self) -> None:
        author = Author.objects.create(name="ann")
        article = Article.objects.create(slug="lamps", title="A lamp", author=author)
        self.assertEqual(self.client.get("/articles/lamps").json()["title"], "A lamp")
        article.slug = "lights"
        article.save()
        self.assertEqual(self.client.get("/articles/lamps").status_code, 404)
        self.assertEqual(self.client.get("/articles/lights").json()["title"], "A lamp")

    def test_the_orm_reads_what_strata_writes(self) -> None:
        authors.insert(authors.model(name="bob"))
        self.assertEqual([author.name for author in Author.objects.all()], ["bob"])

    def test_nothing_is_cached_of_another_test(self) -> None:
        self.assertIsNone(cache.get("seen"))
        cache.set("seen", True)

    def test_nor_of_this_one(self) -> None:
        self.test_nothing_is_cached_of_another_test()

    def test_views_are_counted(self) -> None:
        author = Author.objects.create(name="ann")
        article = Article.objects.create(slug="lamps", title="A lamp", author=author)
        self.assertEqual(self.client.post(f"/articles/{article.pk}/views").json(), {"views": 1})
        store().flush_dirty(10)
        self.assertEqual(visits.get(article.pk, force_l3=True).count, 1)


class OrmOnly(TestCase):
    """Of a transaction that is never committed nobody else sees anything, and so neither does Strata."""

    def test_an_author_has_a_name(self) -> None:
        author = Author.objects.create(name="nobody")
        self.assertEqual(str(author), "nobody")
        self.assertIsNone(authors.get(author.pk, default=None))
