"""`StrataFields`: the migration operation that gives a table of Django's what Strata needs in it."""

from __future__ import annotations

from typing import Any

import psycopg
from django.db.migrations.operations.base import Operation, OperationCategory

from strata.integrations.django.project import tables
from strata.integrations.django.records import key_of
from strata.integrations.django.settings import database
from strata.l3.needs import needs, removal


class StrataFields(Operation):  # type: ignore[misc]  # Django has no types
    """Give the table of a model the column `_strata_version`, and the triggers by which Strata hears of changes.

    Strata's own tables (`_strata_*`) come with it. Django's state of the model stays as it is, so that `makemigrations`
    has nothing to say. Put it into a migration after the one that makes the table. `again=True`, in a later one, brings
    the triggers up to date, after the table, its key, or a schema of it got another name, or a schema is written behind
    from then on; reversed, it leaves them. On another database than the store's it does nothing. `app_label` is that of
    the model, where it is another application's.

    >>> operations = [StrataFields("article")]
    """

    reduces_to_sql = True
    reversible = True
    category = OperationCategory.ALTERATION

    def __init__(self, model_name: str, *, app_label: str = "", again: bool = False) -> None:
        self.model_name = model_name
        self.app_label = app_label
        self.again = again

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Nothing: the model does not know the column."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Add what is not there yet."""
        model = self._concerned(app_label, schema_editor, to_state)
        if model is not None:
            for statement in needs(Raw(schema_editor.connection), model._meta.db_table, tables(), key_of(model)):
                schema_editor.execute(statement, params=None)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Take it away."""
        model = None if self.again else self._concerned(app_label, schema_editor, to_state)
        if model is not None:
            for statement in removal(Raw(schema_editor.connection), model._meta.db_table):
                schema_editor.execute(statement, params=None)

    def _concerned(self, app_label: str, schema_editor: Any, state: Any) -> Any:
        model, alias = (
            state.apps.get_model(self.app_label or app_label, self.model_name),
            schema_editor.connection.alias,
        )
        mine = schema_editor.connection.vendor == "postgresql" and alias == database()
        return model if mine and self.allow_migrate_model(alias, model) else None

    def describe(self) -> str:
        """In words."""
        return f"Give {self.model_name} what Strata needs"

    @property
    def migration_name_fragment(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]  # Django's is None
        """Of the migration's name."""
        return f"{self.model_name.lower()}_strata"


class Raw:
    """A connection of Django's, as the reading functions of `strata.l3` ask it: in its transaction."""

    def __init__(self, connection: Any) -> None:
        connection.ensure_connection()
        self._connection: psycopg.Connection[Any] = connection.connection

    def execute(self, sql: str | bytes, args: tuple[Any, ...] = ()) -> Any:
        """With `$1` for parameters."""
        return psycopg.RawCursor(self._connection).execute(sql if isinstance(sql, bytes) else sql.encode(), args)
