"""The table: the record of the benchmarks, with ten columns."""

from __future__ import annotations

from django.db import models


class Item(models.Model):  # type: ignore[misc]  # Django has no types
    """Ten fields, two datetimes, a nested dict."""

    id = models.BigIntegerField(primary_key=True)
    name = models.TextField()
    email = models.TextField(null=True)
    level = models.BigIntegerField()
    score = models.FloatField()
    active = models.BooleanField()
    region = models.TextField()
    created = models.DateTimeField()
    updated = models.DateTimeField()
    extra = models.JSONField()

    class Meta:
        app_label = "site"
        db_table = "items"
