"""What Strata needs of the table, which the other ways do without."""

from __future__ import annotations

from django.db import migrations

from strata.integrations.django import StrataFields


class Migration(migrations.Migration):  # type: ignore[misc]
    dependencies = [("site", "0001_initial")]
    operations = [StrataFields("item")]
