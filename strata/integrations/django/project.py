"""The project's store, made of Django's settings, and the records that it has."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, cast

import django
from django.apps import apps
from django.conf import settings
from django.db.backends.base.base import NO_DB_ALIAS

from strata.collection import Collection
from strata.datastore import DataStore
from strata.durations import Duration
from strata.errors import InvalidConfigError, SchemaDuplicateError, StrataError
from strata.integrations.django.isolation import Isolation
from strata.integrations.django.records import record_of
from strata.integrations.django.settings import config, database, flushes_on_sigterm
from strata.integrations.django.signals import invalidate_on_commit
from strata.l3.table import Table
from strata.schema import Schema
from strata.waits.locks import once_lock
from strata.writebehind.endings import install_sigterm


class Project:
    """The store is made when it is first needed, since the database that the settings name is another one under a test
    runner; `forget` has the next use make another. `_schemas` and `_handles` are added to, and `_store` is written,
    under `lock`, which the child of a fork has anew.
    """

    def __init__(self) -> None:
        self._schemas: dict[str, Schema[Any]] = {}
        self._handles: list[Handle] = []
        self._store: DataStore | None = None
        self.isolation = Isolation()
        self.after_fork()

    def after_fork(self) -> None:
        """In the child."""
        self.lock = once_lock()

    def store(self) -> DataStore:
        """The store. Raises `InvalidConfigError`."""
        store = self._store
        if store is None:
            if not (apps.models_ready or apps.loading):
                django.setup()  # as in a worker, whose first import this is
            with self.lock:
                if self._store is None:
                    made = DataStore(self.isolation.apart(config()))
                    for schema in self._schemas.values():
                        made.register(schema)
                    self._store = made
                store = self._store
        return store

    def begin(self) -> None:
        """Django starts: its settings are what they will be, but for a test runner."""
        self.isolation.start()
        atexit.register(self._end)
        with suppress(InvalidConfigError):  # the check says it, and whoever needs the store
            if flushes_on_sigterm():
                install_sigterm()  # in the main thread: the store is made by whichever thread needs it first

    def register(self, schema: Schema[Any]) -> Collection[Any, Any]:
        """Have the store know a schema, now or when it is made; its handle."""
        with self.lock:
            if schema.name in self._schemas:
                raise SchemaDuplicateError(
                    f"a schema {schema.name!r} is registered already; give this one another name"
                )
            if self._store is not None:
                self._store.register(schema)
            self._schemas[schema.name] = schema
            self._handles.append(handle := Handle(self, schema))
        return cast("Collection[Any, Any]", handle)

    def follow(self, alias: str) -> None:
        """A connection of Django's was opened: where it leads to another database than the store's, as the test runner
        has it, or to none, as where that makes or drops one, the store is made anew by who needs it next."""
        if alias == NO_DB_ALIAS or (self.isolation.moved and alias == database()):
            self.forget()

    def has(self, store: DataStore) -> bool:
        """Whether it is the one that there is."""
        return store is self._store

    def forget(self, timeout: float = 5) -> None:
        """Close the store, if there is one, and while tests run those of caches. Raises as `DataStore.close` does."""
        with self.lock:
            store, self._store = self._store, None
            for handle in self._handles:
                handle.forget()
        if store is not None:
            store.close(timeout)
        self.isolation.forget(timeout)

    def _end(self) -> None:
        if self.isolation.used:
            with suppress(StrataError):
                self.forget()
                self.isolation.sweep([config()] if self.is_used else [])

    @property
    def is_used(self) -> bool:
        """Whether the project has records of its own, or is about to: else only its caches are Strata's."""
        return bool(self._schemas) or self._store is not None or hasattr(settings, "STRATA")


class Handle:
    """A `Collection` of the store that there is when it is used. What was looked up once is an attribute of its own, so
    that a call costs nothing more."""

    def __init__(self, project: Project, schema: Schema[Any]) -> None:
        self._project = project
        self.name = schema.name
        self.model = schema.model

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        store = self._project.store()
        collection: Collection[Any, Any] = Collection(store, self.name, self.model, store._hot[self.name])
        found = getattr(collection, name)
        self.__dict__[name] = found
        if not self._project.has(store):
            self.forget()  # it was made anew meanwhile
        return found

    def forget(self) -> None:
        """The store is made anew."""
        kept = {"_project", "name", "model"}
        for name in [name for name in self.__dict__ if name not in kept]:
            del self.__dict__[name]

    def __repr__(self) -> str:
        return f"<records of {self.name}>"


def memoized(project: Project, function: Callable[..., Any], terms: Mapping[str, Any]) -> Any:
    """The function, memoized by the store that there is when it is called; a function as `Cached` is one."""
    store: DataStore | None = None  # written under the project's lock, after `made`
    made: Any = None

    def here() -> Any:
        nonlocal store, made
        found = project.store()
        if store is not found:
            with project.lock:
                if store is not found:
                    made = found.cached(**terms)(function)
                    store = found
        return made

    def call(*args: Any, **kwargs: Any) -> Any:
        return here()(*args, **kwargs)

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await here()(*args, **kwargs)

    told: Any = wraps(function)(awaited if iscoroutinefunction(function) else call)
    told.invalidate = lambda *args, **kwargs: here().invalidate(*args, **kwargs)
    told.refresh = lambda *args, **kwargs: here().refresh(*args, **kwargs)
    told.key = lambda *args, **kwargs: here().key(*args, **kwargs)
    return told


project = Project()
os.register_at_fork(after_in_child=lambda: project.after_fork())


def store() -> DataStore:
    """The store of the Django project: its settings are `STRATA`, its database is that of `DATABASES`.

    `STRATA` has fields of `Config`, in capitals or not, as `{"REDIS_ADDR": "redis://127.0.0.1:6379/0"}`, and the alias
    of the database, `DATABASE` ("default"). What it does not say, the environment may (STRATA_REDIS_ADDR). Made once,
    and thread-safe. For workers STRATA_APP is `strata.integrations.django:store`.

    Raises `InvalidConfigError` for settings that are none, and a database that is not PostgreSQL.
    """
    return project.store()


def register(what: Any, **options: Any) -> Collection[Any, Any]:
    """Register a Django model, as `record_of` makes a schema of it and of the `options`, or a `Schema`, with the
    project's store; the handle returned is its `Collection`, in which nothing is connected before its first use.

    Modules named `records` of installed applications are imported when Django starts: that is where it belongs. What
    this process saves or deletes of a model by the ORM is dropped from the caches with its commit, so that it reads
    what it has written (`invalidate_on_commit`); that of other processes, and what signals do not tell, is seen by the
    triggers. With a `Schema`, as of `record_of`, the triggers alone tell.

    Raises as `record_of` and `DataStore.register` do.
    """
    if isinstance(what, Schema):
        if options:
            raise InvalidConfigError(f"{', '.join(options)} would be set for a Schema; set it where that is made")
        return project.register(what)
    records = project.register(record_of(what, **options))
    invalidate_on_commit(what, records)
    return records


def cached(ttl: Duration | None = None, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """As `DataStore.cached` of the project's store, for functions of modules that are imported before there is one.

    It follows the store, which is another one under a test runner. A call raises what `DataStore.cached` does, too.
    """
    if callable(ttl):
        raise InvalidConfigError("cached was given a function as ttl; call it first: @cached(ttl=60)")
    return lambda function: memoized(project, function, {"ttl": ttl, **options})


def tables() -> list[tuple[Table, Schema[Any]]]:
    """The tables of the store, each with a schema over it."""
    return [(bound.l3.table, bound.schema) for bound in store()._wiring.schemas if bound.l3 is not None]
