"""Where the fleet's broker is, by the settings."""

from __future__ import annotations

import celery
import pytest
import redis

from strata import Config, InvalidConfigError
from strata.writebehind.fleet.broker import broker_url, celery_app, rings_there


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "LEDGER_ADDR", "REDIS_ADDR"):
        monkeypatch.delenv(f"STRATA_{name}", raising=False)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"redis_addr": "cache:6379"}, "redis://cache:6379/0"),
        ({"redis_addr": "cache:6379", "redis_db": 3}, "redis://cache:6379/3"),
        ({"redis_addr": "cache:6379", "redis_password": "a/b"}, "redis://:a%2Fb@cache:6379/0"),
        ({"redis_addr": "cache:6379", "ledger_addr": "ledger:6380"}, "redis://ledger:6380/0"),
        ({"redis_addr": "redis://u:p@cache:6379/2", "redis_password": "p", "redis_db": 2}, "redis://u:p@cache:6379/2"),
        ({"redis_addr": "rediss://cache:6379"}, "rediss://cache:6379/0"),
        ({"redis_addr": "unix:///run/redis.sock", "redis_db": 1}, "redis+socket:///run/redis.sock?virtual_host=1"),
        (
            {"redis_addr": "redis+sentinel://a:1,b:2/main/4", "redis_password": "p"},
            "sentinel://:p@a:1/4;sentinel://:p@b:2/4",
        ),
        ({"redis_addr": "redis+cluster://a:1", "broker_url": "amqp://rabbit"}, "amqp://rabbit"),
        ({"redis_addr": "redis+cluster://a:1", "ledger_addr": "ledger:1"}, "redis://ledger:1/0"),
    ],
)
def test_the_broker_is_the_ledger_s_redis_unless_the_settings_say_otherwise(
    settings: dict[str, object], url: str
) -> None:
    assert broker_url(Config(**settings)) == url  # type: ignore[arg-type]


def test_a_cluster_cannot_be_the_broker() -> None:
    with pytest.raises(InvalidConfigError, match="broker_url"):
        celery_app(Config(redis_addr="redis+cluster://a:1"))


def test_with_a_client_of_the_user_s_the_broker_has_to_be_named() -> None:
    with pytest.raises(InvalidConfigError, match="broker_url"):
        celery_app(Config(redis_client=redis.Redis()))


def test_the_sentinel_s_service_is_told_to_the_transport() -> None:
    app = celery_app(Config(redis_addr="redis+sentinel://a:1,b:2/main/4"))
    assert app.conf.broker_transport_options["master_name"] == "main"


def test_the_app_has_the_fleet_s_settings() -> None:
    app = celery_app(Config(redis_addr="cache:6379"))
    assert app.conf.task_acks_late and app.conf.accept_content == ["msgpack"]
    assert app.conf.broker_url == "redis://cache:6379/0"


def test_an_app_of_the_user_s_is_taken_as_it_is() -> None:
    mine = celery.Celery()
    assert celery_app(Config(celery_app=mine)) is mine


@pytest.mark.parametrize(
    ("settings", "there"),
    [
        ({"redis_addr": "cache:6379"}, True),
        ({"redis_addr": "cache:6379", "ledger_addr": "ledger:6380"}, True),
        ({"redis_addr": "cache:6379", "broker_url": "amqp://rabbit"}, False),
        ({"redis_addr": "cache:6379", "celery_app": celery.Celery("mine", set_as_current=False)}, False),
        ({"redis_client": redis.Redis(), "broker_url": "redis://other"}, False),
    ],
)
def test_whether_the_ledger_is_the_broker_too(settings: dict[str, object], there: bool) -> None:
    assert rings_there(Config(**settings)) is there  # type: ignore[arg-type]
