"""The table."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):  # type: ignore[misc]
    initial = True
    dependencies: list[tuple[str, str]] = []
    operations = [
        migrations.CreateModel(
            name="Item",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("name", models.TextField()),
                ("email", models.TextField(null=True)),
                ("level", models.BigIntegerField()),
                ("score", models.FloatField()),
                ("active", models.BooleanField()),
                ("region", models.TextField()),
                ("created", models.DateTimeField()),
                ("updated", models.DateTimeField()),
                ("extra", models.JSONField()),
            ],
            options={"db_table": "items"},
        )
    ]
