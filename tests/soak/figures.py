"""What a run's processes and servers hold at one moment, by names that end with their units."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg
import redis

_LENGTH = {b"hash": "HLEN", b"zset": "ZCARD", b"list": "LLEN", b"set": "SCARD", b"stream": "XLEN"}
# Parts of the names of keys of which there are many.
_PARTS = (
    (r"[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f-]{27}", "<uuid>"),
    (r"\{(\w+):\d+\}", r"{\1:<shard>}"),
    (r"(\{search\}:strata:\w+:(w:)?)[0-9a-f]{16,}", r"\1<query>"),
    (r"^(strata:(session|profile|account|event|price):).*", r"\1<id>"),
    (r"@.*pidbox", "@<host>.pidbox"),
    (r"\d+", "<n>"),
)


def of_postgres(dsn: str) -> dict[str, float]:
    """Rows of Strata's own tables, connections, notifications that wait, and what the catalogue weighs."""
    found: dict[str, float] = {}
    with psycopg.connect(dsn, autocommit=True, application_name="soak") as conn:
        own = "SELECT relname FROM pg_class WHERE relname ^@ '_strata_' AND relkind = 'r' AND relpersistence = 'p'"
        for (name,) in conn.execute(own).fetchall():
            row = conn.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()
            found[f"PostgreSQL, rows of {name}"] = row[0] if row else 0
        others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        for what, sql in (
            ("connections", f"SELECT count(*) {others}"),
            ("idle transactions", f"SELECT count(*) {others} AND state LIKE 'idle in%' AND now() - xact_start > '9 s'"),
            ("waiting notifications (%)", "SELECT 100 * pg_notification_queue_usage()"),
            ("relations", "SELECT count(*) FROM pg_class WHERE relname NOT LIKE 'event%'"),
            ("pg_attribute (kB)", "SELECT pg_total_relation_size('pg_attribute') / 1024"),
        ):
            row = conn.execute(sql.encode()).fetchone()
            found[f"PostgreSQL, {what}"] = float(row[0]) if row else 0.0
    return found


def of_redis(client: redis.Redis) -> dict[str, float]:
    """Keys, and elements of those that have many, by kind; clients, channels, scripts and memory."""
    keys = list(client.scan_iter(count=2_000))
    types = _answers(client, (("TYPE", key) for key in keys))
    sizes = _answers(client, ((_LENGTH.get(kind, "STRLEN"), key) for kind, key in zip(types, keys, strict=True)))
    found: Counter[str] = Counter()
    for key, kind, size in zip(keys, types, sizes, strict=True):
        name = key.decode(errors="replace")
        for pattern, short in _PARTS:
            name = re.sub(pattern, short, name)
        found[f"Redis, keys {name}"] += 1
        if kind in _LENGTH and isinstance(size, int):
            found[f"Redis, elements of {name}"] += size
    memory = client.info("memory")
    return {
        **found,
        "Redis, clients": len(client.client_list()),
        "Redis, channels": len(client.pubsub_channels()),
        "Redis, scripts": memory.get("number_of_cached_scripts", 0),
        "Redis, memory (kB)": memory["used_memory"] / 1024,
    }


def of_processes(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    """Memory, threads and descriptors of each, with its children's."""
    found: Counter[str] = Counter()
    for name, process in processes.items():
        try:
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        found[f"{name}, processes"] = len(family)
        for member in family:
            try:
                with member.oneshot():
                    found[f"{name}, memory (MB)"] += member.memory_info().rss >> 20
                    found[f"{name}, threads"] += member.num_threads()
                    found[f"{name}, descriptors"] += member.num_fds()
            except psutil.Error:  # it ended meanwhile
                continue
    return dict(found)


def of_folder(folder: Path, name: str) -> dict[str, float]:
    """Files in it, and what they weigh."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {f"{name}, files": len(sizes), f"{name} (kB)": sum(sizes) / 1024}


def _answers(client: redis.Redis, commands: Iterable[tuple[object, ...]]) -> list[Any]:
    pipe = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)  # type: ignore[no-untyped-call]
    return list(pipe.execute(raise_on_error=False))
