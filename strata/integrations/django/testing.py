"""For the tests of a Django project: each begins with nothing cached, and nothing that is still to be written."""

from __future__ import annotations

from django.test import TransactionTestCase

from strata.integrations.django.project import project


def forget(timeout: float = 10) -> None:
    """Write what is pending, and have the next use of the project's store, and of its caches that are Strata's, find
    nothing: they are made anew, in a namespace of their own. For the end of a test, before its rows are emptied.

    `timeout`: seconds. Raises as `DataStore.close` does where something could not be written.

    >>> import pytest
    >>> @pytest.fixture
    ... def strata(transactional_db):
    ...     yield
    ...     forget()
    """
    project.forget(timeout)


class StrataTestCase(TransactionTestCase):  # type: ignore[misc]  # Django has no types
    """A test whose rows are committed, so that Strata reads them. They are emptied after it, as the caches are.

    >>> class ArticleTests(StrataTestCase):
    ...     def test_strata_reads_what_the_orm_writes(self) -> None: ...
    """

    def _post_teardown(self) -> None:
        forget()  # before the rows are emptied, after all that a test has in its own tearDown
        super()._post_teardown()
