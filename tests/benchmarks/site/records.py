"""The records of the table, as the guide has it."""

from __future__ import annotations

from strata.integrations.django import register
from tests.benchmarks.site.models import Item

items = register(Item)
