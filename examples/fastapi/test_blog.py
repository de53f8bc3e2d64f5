from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from blog import app

pytest_plugins = ["strata.testing.plugin"]


@pytest.fixture
def client(strata_dsn: str, strata_redis_addr: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("STRATA_POSTGRES_DSN", strata_dsn)
    monkeypatch.setenv("STRATA_REDIS_ADDR", strata_redis_addr)
    with TestClient(app) as client:
        yield client


def test_a_view_is_counted(client: TestClient) -> None:
    client.post("/articles", json={"id": "lamp", "title": "A lamp"})
    assert client.get("/articles/lamp").json()["title"] == "A lamp"
    assert client.get("/articles/lamp/views").json()["count"] == 1


def test_nothing_is_left_of_another_test(client: TestClient) -> None:
    assert client.get("/articles/lamp").status_code == 404
