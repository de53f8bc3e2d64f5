"""`install`: the one line by which an application's Celery app, and its workers, have Strata's tasks."""

from __future__ import annotations

from typing import Any

import celery
from celery.signals import import_modules

from strata.aio.store import AsyncDataStore, plain
from strata.application import check_name
from strata.datastore import DataStore
from strata.errors import InvalidConfigError
from strata.integrations.celery.installed import Installed, check_calls
from strata.integrations.celery.lifecycle import Lifecycle
from strata.integrations.celery.tasks import put_tasks, tasks_in


def install(app: Any, store: DataStore | AsyncDataStore | str | None = None, *, beat: bool = False) -> None:
    """Put Strata's tasks, queues and routes into a Celery app of yours, whose workers then do the work of the store.

    `store` is a store with `Config(celery_app=app)`, or names one, as STRATA_APP does (`package.module:store`); by
    default STRATA_APP names it. What is named is looked up when it is first needed, so that its module may import the
    app's.

    A worker without -Q takes the app's own queues and Strata's; -Q and -X choose among them. Nothing of the app's own
    tasks is changed: what Strata needs of Celery's settings is set for its tasks alone.

    With `beat`, `celery beat` rings for what is to be looked after; otherwise threads of the workers look after it.

    >>> app = celery.Celery("shop", broker="redis://localhost:6379/1")
    >>> install(app, "shop.records:store")

    Raises `InvalidConfigError`, and changes nothing, for what is no Celery app, no store and no name of one, for a
    store that calls other workers, and where the app has tasks of these names already.
    """
    if not isinstance(app, celery.Celery):
        raise InvalidConfigError(f"install was given a {type(app).__name__}; it takes a celery.Celery, and a store")
    installed = Installed(app, *_given(app, plain(store)), beat=beat)
    if there := tasks_in(app):
        raise InvalidConfigError(
            f"the app has tasks of these names already: {', '.join(there)}; install Strata once, and name no task of "
            "yours so"
        )
    add(installed, among_others=True)


def _given(app: Any, store: Any) -> tuple[DataStore | None, str | None]:
    """A store, or the name of one."""
    if store is None:
        return None, None
    if isinstance(store, str):
        check_name(store)
        return None, store
    if not isinstance(store, DataStore):
        raise InvalidConfigError(f"the store is a {type(store).__name__}; it must be a DataStore, or name one")
    check_calls(store, app)
    return store, None


def add(installed: Installed, *, among_others: bool) -> None:
    """To its app, all that there is; `among_others`: the app is not Strata's alone."""
    put_tasks(installed, among_others=among_others)
    Lifecycle(installed).connect()
    app = installed.app
    app.on_after_configure.connect(installed.route, weak=False)
    if app.configured:
        installed.route()
    import_modules.connect(installed.prepare, sender=app, weak=False)
