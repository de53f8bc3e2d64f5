"""Included by the benchmark's workers besides Strata's own tasks."""

from __future__ import annotations

import kombu

from strata.worker.application import app
from tests.benchmarks.fleet_app import add_task
from tests.benchmarks.record import TASK

add_task(app)
app.conf.task_queues = [*app.conf.task_queues, kombu.Queue(TASK, routing_key=TASK)]  # type: ignore[attr-defined, no-untyped-call]
