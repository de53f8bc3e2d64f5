"""The application of the tests' fleet: a store from the environment, with `note` written behind."""

from __future__ import annotations

import os
from pathlib import Path

from strata import Config, DataStore, SchemaHooks
from strata.integrations.prometheus import PrometheusRecorder
from tests.behind import deferred, paced
from tests.models import Note

ERRORS = Path(os.environ.get("STRATA_TEST_ERRORS", os.devnull))


def report(key: int, error: Exception) -> None:
    with ERRORS.open("a") as file:
        file.write(f"{os.getpid()} {key}\n")


RECORDER = PrometheusRecorder() if os.environ.get("STRATA_TEST_METRICS") else None
store = DataStore(Config.from_env(write_behind_max_retry=2, write_behind_flush_interval=0.05, metrics=RECORDER))
if lease := os.environ.get("STRATA_TEST_LEASE"):
    paced(store, lease=float(lease))
    store.fleet.lease = float(lease)
notes = store.register(deferred(hooks=SchemaHooks(on_write_error=report)))
assert notes is not None and Note is not None
