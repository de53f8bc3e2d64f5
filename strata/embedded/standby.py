"""A physical standby of an embedded PostgreSQL: a replica that can be made to lag."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from strata.durations import seconds
from strata.embedded.given import made_of, texts_of
from strata.embedded.postgres import EmbeddedPostgres

HELD_UP = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event = 'RecoveryApplyDelay'"


class EmbeddedStandby(EmbeddedPostgres):
    """Follows `primary`, which runs, by streaming; it applies what it gets `delay` seconds late. Its `dsn` is one for
    `PostgresPolicy.read_replica`."""

    def __init__(
        self,
        primary: EmbeddedPostgres,
        *,
        delay: float = 0.0,
        port: int | None = None,
        directory: Path | str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        made_of(primary, EmbeddedPostgres, "primary")
        # A standby refuses to start with fewer connections than its primary.
        same = {"max_connections": primary.settings["max_connections"]} if "max_connections" in primary.settings else {}
        super().__init__(
            primary.version, port=port, directory=directory, settings={**same, **texts_of(settings, "settings")}
        )
        self._primary = primary
        self._delay = seconds(delay, "delay") or 0.0

    def lag(self, delay: float) -> None:
        """Apply from now on `delay` seconds late, 0 for at once. Raises `psycopg.Error`, and `TimeoutError` if it takes
        longer than 30 s to come into force."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("ALTER SYSTEM SET recovery_min_apply_delay = {}").format(_milliseconds(delay)))
            conn.execute("SELECT pg_reload_conf()")
            if delay:
                self._wait_held_up(conn)

    def _wait_held_up(self, conn: psycopg.Connection) -> None:
        # The process that applies reads its settings when it comes to it; then it is seen to wait for a commit's time.
        deadline = time.monotonic() + 30.0
        with psycopg.connect(self._primary.dsn, autocommit=True) as primary:
            while not conn.execute(HELD_UP).fetchone():
                if time.monotonic() >= deadline:
                    raise TimeoutError("the delay of the standby did not come into force within 30 s")
                primary.execute("SELECT pg_current_xact_id()")
                time.sleep(0.02)

    def _prepare(self) -> None:
        self._password = self._primary.password
        super()._prepare()

    def _initdb(self) -> None:
        # The password is in the environment, which no other user can see.
        primary = f"host=127.0.0.1 port={self._primary.port} user=postgres"
        command = [str(self._bin / "pg_basebackup"), "-D", str(self._data), "-d", primary, "-R", "-c", "fast"]
        environment = self._environment["env"] | {"PGPASSWORD": self._password}
        self._run([*command, "--no-sync"], env=environment)
        with (self._data / "postgresql.auto.conf").open("a") as file:
            file.write(f"recovery_min_apply_delay = {_milliseconds(self._delay)}\n")


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
