"""Included by the benchmark's workers besides Strata's own tasks."""

from __future__ import annotations

from strata.worker.application import app
from tests.benchmarks.fleet_app import add_task

add_task(app)
