"""`Strata`, the extension: a store for each application, and handles that find the one in whose context they are."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar, cast
from weakref import WeakSet

from flask import Flask, Response, current_app, has_app_context, jsonify

from strata.collection import Collection
from strata.datastore import DataStore
from strata.errors import InvalidConfigError, InvalidModelError, SchemaDuplicateError, shown
from strata.integrations.flask.commands import commands
from strata.integrations.flask.settings import config_of
from strata.integrations.probes import report
from strata.schema import Record, Schema

T = TypeVar("T", bound=Record)


class Strata:
    """A store for each Flask application that it is given to, here or by `init_app`.

    The settings are those of `app.config["STRATA"]`, a mapping of fields of `Config` in lower or upper case, or a
    `Config`; of what that does not say, keys of `app.config` such as `STRATA_REDIS_ADDR`; and of what these do not say,
    the environment. The application gets the commands `flask strata ...`, and with `health` a route of that path.
    Set up by one thread; used by any, and in the child of a fork.

    >>> app = Flask("shop")
    >>> tiers = Strata(app, health="/healthz")
    >>> players = tiers.register(Schema(Player, l1=MemPolicy()))
    >>> players.set("p1", Player("p1", "andrew"))
    Player(id='p1', name='andrew')
    """

    def __init__(self, app: Flask | None = None, *, health: str | None = None) -> None:
        """Raises what `init_app` does. `health` is a path such as "/healthz"."""
        self._health = health
        self._schemas: dict[str, Schema[Any]] = {}
        self._known: WeakSet[_Records] = WeakSet()
        self._own: _Records | None = None
        if app is not None:
            self.init_app(app)
            self._own = app.extensions["strata"]

    def init_app(self, app: Flask) -> None:
        """Give an application a store, as its settings are now, with the schemas that are registered and those to come.

        Nothing is connected yet. Raises `InvalidConfigError` for settings that cannot work, and where the application
        has one already.
        """
        if "strata" in app.extensions:
            raise InvalidConfigError(f"the application {app.name!r} has a store of Strata's already; give it one")
        app.extensions["strata"] = records = self._records(app)
        self._known.add(records)
        app.cli.add_command(commands(lambda: self._records(app).store))
        if self._health is not None:
            app.add_url_rule(self._health, "strata_health", partial(_health, records.store))

    @property
    def store(self) -> DataStore:
        """The store of the current application; without an application context, of the one that `Strata(app)` was made
        with. Raises `InvalidConfigError` where there is none."""
        return self._here().store

    def register(self, schema: Schema[T]) -> Collection[T, Any]:
        """Register a schema with the store of each application, also of those that `init_app` is called for later.

        The handle that is returned is a `Collection` of the current application's store, as `store` finds it. Raises
        what `DataStore.register` does.
        """
        if not isinstance(schema, Schema):
            raise InvalidModelError(f"register takes a Schema, not {shown(schema)}; wrap the model in one")
        if schema.name in self._schemas:
            raise SchemaDuplicateError(f"a schema {schema.name!r} is registered already; give this one another name")
        for records in self._known:
            records.add(schema)
        self._schemas[schema.name] = schema
        return cast("Collection[T, Any]", _Handle(self, schema.name))

    def _records(self, app: Flask) -> _Records:
        made = _Records(self, DataStore(config_of(app)))
        for schema in self._schemas.values():
            made.add(schema)
        return made

    def _here(self) -> _Records:
        found = current_app.extensions.get("strata") if has_app_context() else self._own
        if found is not None and found.extension is self:
            return found
        if has_app_context():
            raise InvalidConfigError(f"the application {current_app.name!r} was not given to this extension's init_app")
        raise InvalidConfigError(
            "there is no application here whose store it would be; use it in a request, a command, or `with "
            "app.app_context()`"
        )


class _Records:
    """The store of an application, and what is registered with it."""

    def __init__(self, extension: Strata, store: DataStore) -> None:
        self.extension = extension
        self.store = store
        self.handles: dict[str, Collection[Any, Any]] = {}

    def add(self, schema: Schema[Any]) -> None:
        self.handles[schema.name] = self.store.register(schema)


class _Handle:
    """The `Collection` of the application in whose context it is used."""

    def __init__(self, extension: Strata, name: str) -> None:
        self._extension = extension
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # by which tools look at what they do not know, where no application is
            raise AttributeError(name)
        return getattr(self._extension._here().handles[self._name], name)

    def __repr__(self) -> str:
        return f"<records of {self._name}>"


def _health(store: DataStore) -> Response:
    found = report(store)
    response = jsonify(found.body)
    response.status_code = found.http_status
    response.headers["Cache-Control"] = "no-store"
    return response
