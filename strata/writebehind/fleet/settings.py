"""The one place of the fleet's Celery settings, each with its reason; for web processes, which ring, and workers.

The broker's address, and what bears the namespace, is set on the app by `broker.py`.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote


def broker_from_environment() -> str:
    """The broker's URL by the environment: STRATA_BROKER_URL, else the ledger's Redis, else the cache's; or empty."""
    given = os.environ.get("STRATA_BROKER_URL", "")
    address = given or os.environ.get("STRATA_LEDGER_ADDR", "") or os.environ.get("STRATA_REDIS_ADDR", "")
    if not address or "://" in address:
        return address
    password = os.environ.get("STRATA_REDIS_PASSWORD", "")
    login = f":{quote(password, safe='')}@" if password else ""
    return f"redis://{login}{address}/{os.environ.get('STRATA_REDIS_DB', '0')}"


def transport_options(url: str, prefix: str) -> dict[str, Any]:
    """What the broker's transport needs, by the kind of broker; `prefix` stands in front of a Redis's keys."""
    if url.startswith(("amqp://", "amqps://", "pyamqp://")):
        # Without confirms RabbitMQ drops messages silently at a memory or disk alarm.
        return {"confirm_publish": True, "socket_timeout": 5, "connect_timeout": 2}
    return {
        # A message whose worker died comes back after this time; longer than the hard time limit, or it runs twice.
        "visibility_timeout": 120,
        # kombu looks for such messages every interval x throttle seconds: with its defaults every 100.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # None is for ever: a broker that hangs would hang whoever rings. Well above BRPOP's own second.
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        # The shortest visibility_timeout of any app on a Redis wins for all of them, unless they are told apart.
        "global_keyprefix": prefix,
    }


broker_connection_timeout = 3
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # workers outlive an outage of any length
broker_pool_limit = 40  # the ringing thread needs one, Flower asks a dozen things at once
broker_pool_acquire_timeout = 2  # the default waits for ever

# Messages are doorbells with tiny arguments; pickle would let whoever reaches the broker run code.
task_serializer = "msgpack"
result_serializer = "msgpack"
accept_content = ["msgpack"]
result_accept_content = ["msgpack"]
# No result backend: a result a task doubles Redis's work, and outcomes travel by lists that are acknowledged.
result_backend = None
task_ignore_result = True
task_store_errors_even_if_ignored = False
task_track_started = False

# A task is acknowledged when it has ended; one whose worker died is run again. Persisting twice is harmless.
task_acks_late = True
task_reject_on_worker_lost = True
task_retry_on_worker_lost = False
# One that hung is not run again: whoever waits for it rings again.
task_acks_on_failure = True
task_acks_on_timeout = True
# One doorbell at a time: a second one in a busy worker's hand would wait where another worker is free.
worker_prefetch_multiplier = 1

# A worker renews its leases while it works: one that hangs is ended, and what it held is claimed by another.
task_soft_time_limit = 45
task_time_limit = 60
task_default_rate_limit = 0  # none; where it is not said, an application's own holds

# `strata.warm` keeps far below them: each task takes parts of the job for ten seconds, then rings again. A migration
# is one statement at a time, of which CREATE INDEX takes as long as it takes, so its task has a day (0 and None would
# mean the limits above). Its message comes back after `visibility_timeout` all the same: the second task finds the
# job held by the first, whose lease is renewed while it lives, and ends at once.
task_annotations = {"strata.migrate": {"soft_time_limit": 86_400, "time_limit": 86_400}}

# Two quick tries, since only the ringing thread publishes, and it tries again by itself.
task_publish_retry = True
task_publish_retry_policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0.05, "interval_max": 0.1}

task_create_missing_queues = True

# Flower sees what workers report.
worker_send_task_events = True
task_send_sent_event = False
worker_enable_remote_control = True

worker_hijack_root_logger = False
worker_soft_shutdown_timeout = 20
worker_proc_alive_timeout = 30
# A worker that leaked is replaced between tasks.
worker_max_tasks_per_child = 10_000
worker_max_memory_per_child = 1_000_000  # KiB

timezone = "UTC"
enable_utc = True
