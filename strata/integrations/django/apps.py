"""The application for INSTALLED_APPS: `strata.integrations.django`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.core.signals import setting_changed
from django.db.backends.signals import connection_created
from django.utils.module_loading import autodiscover_modules

from strata.integrations.django.checks import check_settings, check_tables
from strata.integrations.django.project import project


class StrataConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """Imports the modules `records` of the installed applications, and has the store follow the database."""

    name = "strata.integrations.django"
    label = "strata"
    verbose_name = "Strata"

    def ready(self) -> None:
        """When Django starts."""

        def opened(connection: Any, **_: Any) -> None:
            project.follow(connection.alias)

        def changed(setting: str, **_: Any) -> None:
            if setting in ("STRATA", "DATABASES"):
                project.forget()

        project.begin()
        connection_created.connect(opened, weak=False)
        setting_changed.connect(changed, weak=False)
        register(check_settings, Tags.caches)
        register(check_tables, Tags.database)
        autodiscover_modules("records")
