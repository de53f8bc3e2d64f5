"""A company that has Celery: an app with settings and tasks of its own, in which Strata is installed.

COMPANY_SETTINGS are the app's, COMPANY_BEAT asks for beat.
"""

from __future__ import annotations

import json
import os
from typing import Any

import redis
from celery import Celery
from kombu.entity import Exchange, Queue

from strata import Config, DataStore, WriteMode
from strata.integrations.celery import install
from tests.models import Note
from tests.stores import schema

EVERYBODY: Any = Exchange("company", "fanout")  # type: ignore[no-untyped-call]
COMPANY: Any = Queue("company", EVERYBODY, "company")  # type: ignore[no-untyped-call]
BROKER = os.environ.get("COMPANY_BROKER", "redis://localhost:1/5")
SETTINGS: dict[str, dict[str, Any]] = {
    "a queue, a route and limits for everything": {
        "task_default_queue": "company", "task_routes": {"*": {"queue": "company"}}, "accept_content": ["json"],
        "task_create_missing_queues": False, "task_time_limit": 7, "task_soft_time_limit": 6, "result_backend": BROKER,
        "task_default_rate_limit": "1000/m", "task_retry_on_worker_lost": True, "task_track_started": True,
    },
    "an exchange that sends everything to everybody": {
        "task_default_exchange": "company", "task_default_exchange_type": "fanout", "task_default_queue": "company",
        "task_queues": [COMPANY], "broker_transport_options": {"global_keyprefix": "company:"},
    },
}  # fmt: skip

app = Celery("company", broker=BROKER)
app.conf.update(SETTINGS.get(os.environ.get("COMPANY_SETTINGS", ""), {}))
install(app, "tests.surroundings.company_app:store", beat="COMPANY_BEAT" in os.environ)
store = DataStore(Config.from_env(celery_app=app))
notes = store.register(schema(Note, name="notes", write_mode=WriteMode.WRITE_BEHIND))
if "COMPANY_STARTS_EARLY" in os.environ:
    notes.set(0, Note(0, "written before there were children"))


@app.task(name="company.write")  # type: ignore[untyped-decorator]
def write(key: int) -> None:
    """Written behind, by a task of the company's."""
    notes.set(key, Note(key, "written"))


@app.task(name="company.tell", bind=True)  # type: ignore[untyped-decorator]
def tell(self: Any) -> None:
    """What a task of the company's is run with."""
    told = {
        "acks_late": self.acks_late, "serializer": self.serializer, "limits": [self.soft_time_limit, self.time_limit],
        "came by": self.request.delivery_info["routing_key"], "result": self.ignore_result,
    }  # fmt: skip
    redis.Redis.from_url(BROKER).rpush("told", json.dumps(told))
