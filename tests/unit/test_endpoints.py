"""What names a server is checked when the settings are made: which setting, what is wrong, what would be right."""

from __future__ import annotations

from typing import Any

import celery
import pytest
import redis

from strata import Config, InvalidConfigError, PostgresPolicy

WRONG: list[tuple[str, Any, str]] = [
    ("postgres_dsn", "http://me@host/db", "begins with http://; write postgres://"),
    ("postgres_dsn", "postgres://me@host:abc/db", "port .* 1 to 65535"),
    ("postgres_dsn", "postgres://me@one:1,two:65536/db", "port .* 1 to 65535"),
    ("postgres_dsn", "postgres://me@host:0/db", "port .* 1 to 65535"),
    ("postgres_dsn", "postgres://me@host/db?nosuch=1", "option 'nosuch'"),
    ("postgres_dsn", "host=a pasword=hunter2", "option 'pasword', which is none; is password meant"),
    ("postgres_dsn", "postgres://me:hunter2@ost@host/db", "percent-encoded"),
    ("postgres_dsn", "host=a password='hunter2", "cannot be read; write postgres://"),
    ("postgres_dsn", " ", "blank"),
    ("postgres_direct_dsn", "mysql://host/db", "begins with mysql://"),
    ("redis_addr", "localhost", "neither host:port nor a URL"),
    ("redis_addr", ":6379", "neither host:port nor a URL"),
    ("redis_addr", "localhost:99999", "port .* 1 to 65535"),
    ("redis_addr", "localhost:0", "port .* 1 to 65535"),
    ("redis_addr", "reds://localhost:6379", "begins with reds://; write host:port, redis://"),
    ("redis_addr", "redis://localhost:65536/0", "port .* 1 to 65535"),
    ("redis_addr", "redis://localhost:abc/0", "host or a port"),
    ("redis_addr", "redis://:hunter2@localhost:1/abc", "database that is no number"),
    ("redis_addr", "redis://localhost:1/1/2", "database that is no number"),
    ("redis_addr", "redis://localhost:1?db=x", "option whose value"),
    ("redis_addr", "redis://localhost:1?db=-1", "database below 0"),
    ("redis_addr", "redis://localhost:1/0?nosuch=1", "option 'nosuch'"),
    ("redis_addr", "redis://localhost:1/0?socket_timeout=soon", "option whose value"),
    ("redis_addr", "redis://localhost:1/0?ssl_cert_reqs=none", "option 'ssl_cert_reqs'|option that is none"),
    ("redis_addr", "redis:///0", "names no host"),
    ("redis_addr", "redis://a:1,b:2/0", r"several hosts, but no redis\+cluster://"),
    ("redis_addr", "unix://", "names no socket"),
    ("redis_addr", "redis+cluster://a:1,b", "without a port"),
    ("redis_addr", "redis+cluster://a:1/3", "database 0 only"),
    ("redis_addr", "redis+cluster://a:1?ssl_cert_reqs=none", "no options"),
    ("redis_addr", "redis+sentinel://a:1,b:2", "names no service"),
    ("redis_addr", "redis+sentinel://a:1/main/x", "no database by number"),
    ("redis_addr", "redis+sentinel://a:1/main/0?password=hunter2", "sentinel_username and sentinel_password"),
    ("ledger_addr", "::::", "neither host:port nor a URL"),
    ("broker_url", "rabbit", "has no scheme"),
    ("broker_url", "nosuch://rabbit", "begins with nosuch://"),
    ("broker_url", "amqp://rabbit:99999//", "port .* 1 to 65535"),
    ("broker_url", "amqp://one//;amqp://two:0//", "port .* 1 to 65535"),
    ("broker_url", "redis://host:1/abc", "database that is no number"),
    ("broker_url", "redis://host:1/0?nosuch=1", "a parameter that Celery does not know"),
    ("redis_client", object(), "is a builtins.object; it must be a redis.Redis"),
    ("redis_client", redis.Redis, "it must be a redis.Redis"),
    ("celery_app", 3, "is a int; it must be a celery.Celery"),
    ("celery_app", celery.Celery, "it must be a celery.Celery"),
]


def told(value: Any) -> str:
    """A value in the name of a test, which is the same in every process."""
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("name", "value", "said"), WRONG, ids=[f"{name} {told(value)}" for name, value, _ in WRONG])
def test_what_cannot_name_a_server_is_refused_when_the_settings_are_made(name: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"^{name} .*({said})") as caught:
        Config(**{name: value})
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


def test_so_is_the_address_of_a_replica() -> None:
    with pytest.raises(InvalidConfigError, match=r"^PostgresPolicy\.read_replica .*1 to 65535"):
        PostgresPolicy(read_replica="postgres://me:hunter2@host:abc/db")


TWICE: list[tuple[dict[str, Any], str]] = [
    ({"redis_addr": "redis://host:1/0", "redis_db": 3}, "redis_db is 3, but the database in redis_addr is 0"),
    ({"redis_addr": "redis://host:1?db=2", "redis_db": 3}, "redis_db is 3, but the database in redis_addr is 2"),
    ({"redis_addr": "unix:///run/redis?db=2", "redis_db": 3}, "redis_db is 3, but the database in redis_addr is 2"),
    ({"redis_addr": "redis+sentinel://a:1/main/4", "redis_db": 3}, "redis_db is 3, but .* redis_addr is 4"),
    ({"redis_addr": "redis+cluster://a:1", "redis_db": 3}, "redis_db is 3, but .* redis_addr is 0"),
    ({"ledger_addr": "redis://host:1/0", "redis_db": 3}, "redis_db is 3, but the database in ledger_addr is 0"),
    ({"redis_addr": "redis://:hunter2@host:1", "redis_password": "hunter22"}, "redis_password .* redis_addr"),
    ({"redis_addr": "redis://host:1?password=hunter2", "redis_password": "x"}, "redis_password .* redis_addr"),
    ({"redis_addr": "redis+cluster://:hunter2@a:1", "redis_password": "x"}, "redis_password .* redis_addr"),
    ({"redis_addr": "redis+sentinel://:hunter2@a:1/main", "redis_password": "x"}, "redis_password .* redis_addr"),
]


@pytest.mark.parametrize(("settings", "said"), TWICE)
def test_a_setting_that_is_given_twice_and_differs_is_refused_by_both_names(settings: Any, said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said) as caught:
        Config(**settings)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"redis_addr": "redis://:p%40@host:1/3", "redis_db": 3, "redis_password": "p@"},
        {"redis_addr": "redis://me@host:1", "redis_db": 3, "redis_password": "p@"},
        {"redis_addr": "redis://host:1/3"},
        {"redis_addr": "host:1", "redis_db": 3, "redis_password": "p", "ledger_addr": "redis://:q@ledger:1/0"},
        {"redis_addr": "rediss://host:1/0?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem&socket_timeout=2"},
        {"redis_addr": "[::1]:6379", "postgres_dsn": "postgres://me@[::1]:5432/db"},
        {"redis_addr": "redis://[::1]:6379/0"},
        {"redis_addr": "redis+sentinel://a:1,b:2/main?sentinel_password=p", "redis_db": 3},
        {"postgres_dsn": "dbname=app"},
        {"postgres_dsn": "postgresql:///app?host=/run/postgresql"},
        {"broker_url": "memory://"},
        {"broker_url": "sqs://"},
        {"broker_url": "redis://:p@host:1/0;redis://:p@other:1/0"},
        {"broker_url": "amqp://u:p@a//;amqp://u:p@b:5672/shop"},
        {"celery_app": celery.Celery()},
        {"redis_client": redis.Redis()},
    ],
    ids=lambda settings: " ".join(f"{name} {told(value)}" for name, value in settings.items()),
)
def test_what_names_a_server_is_taken(settings: dict[str, Any]) -> None:
    Config(**settings)
