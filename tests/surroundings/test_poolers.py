"""Strata behind a real PgBouncer."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.surroundings.pgbouncer import pgbouncer


@pytest.fixture
def transaction_mode(dsn: str) -> Iterator[str]:
    """Transaction mode without protocol-level prepared statements."""
    with pgbouncer(dsn, "transaction") as pooled:
        yield pooled


def test_clients_in_transaction_mode_share_a_session(transaction_mode: str) -> None:
    seen = []
    for _ in range(2):
        with psycopg.connect(transaction_mode, autocommit=True, prepare_threshold=None) as conn:
            row = conn.execute("SELECT pg_backend_pid()").fetchone()
            assert row is not None
            seen.append(row[0])
    assert seen[0] == seen[1]
