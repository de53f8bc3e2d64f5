"""What health routes answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from strata import Config, DataStore, Health, TierHealth, TierState
from strata.integrations.probes import report

UP, OFF, UNKNOWN = TierHealth(TierState.UP), TierHealth(TierState.OFF), TierHealth(None)
DOWN = TierHealth(TierState.DOWN, datetime(2026, 1, 2, tzinfo=UTC), "refused by user hunter2", "secret.host:1")


@pytest.mark.parametrize(
    ("l2", "l3", "status", "http_status"),
    [
        (UP, UP, "up", 200),
        (UNKNOWN, UNKNOWN, "up", 200),
        (OFF, OFF, "up", 200),
        (DOWN, UP, "degraded", 200),
        (UP, DOWN, "degraded", 200),
        (DOWN, UNKNOWN, "degraded", 200),
        (DOWN, DOWN, "down", 503),
        (OFF, DOWN, "down", 503),
        (DOWN, OFF, "down", 503),
    ],
)
def test_a_store_is_down_only_where_nothing_below_memory_answers(
    monkeypatch: pytest.MonkeyPatch, l2: TierHealth, l3: TierHealth, status: str, http_status: int
) -> None:
    store = DataStore(Config())
    monkeypatch.setattr(DataStore, "health", lambda self: Health(l1=UP, l2=l2, l3=l3, bus=OFF))
    found = report(store)
    assert (found.status, found.http_status, found.body["status"]) == (status, http_status, status)
    said: Any = json.dumps(found.body)
    assert "hunter2" not in said and "secret.host" not in said


def test_a_closed_store_is_down() -> None:
    store = DataStore(Config())
    store.close()
    assert (report(store).http_status, report(store).body) == (503, {"status": "down"})
