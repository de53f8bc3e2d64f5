"""Where an operator of this repository changes Celery's settings: for the fleet that `celery -A workers` starts.

The settings, each with its reason, are in `strata/writebehind/fleet/settings.py`; what is set below wins over them, as
`task_time_limit = 120`. The broker and what bears the namespace come from the store's `Config`.
"""

from __future__ import annotations

from strata.writebehind.fleet.settings import *  # noqa: F403
