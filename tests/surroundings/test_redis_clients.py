"""`redis_client` as applications have it: it works, or it is refused before anything is sent, and it is said why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis._parsers import Encoder
from redis.backoff import ExponentialBackoff
from redis.cache import CacheConfig
from redis.retry import Retry

from strata import Config, DataStore, InvalidConfigError, Q
from tests.models import Point
from tests.stores import MakeStore, schema, sure
from tests.support import wait_until

Client = Callable[[str], Any]


class Credentials(redis.CredentialProvider):
    """Secrets that are fetched, as those of a cloud are."""

    def get_credentials(self) -> tuple[str, str]:
        return ("default", "")


CLIENTS: dict[str, Client] = {
    "decode_responses": lambda url: redis.Redis.from_url(url, decode_responses=True),
    "another encoding": lambda url: redis.Redis.from_url(url, encoding="latin-1", decode_responses=True),
    "RESP3": lambda url: redis.Redis.from_url(url, protocol=3),
    "RESP2": lambda url: redis.Redis.from_url(url, protocol=2),
    "retries and health checks": lambda url: redis.Redis.from_url(
        url, health_check_interval=1, retry=Retry(ExponentialBackoff(), 3), socket_keepalive=True, client_name="web"
    ),
    "no time-outs": lambda url: redis.Redis.from_url(url, socket_timeout=None),
    "a blocking pool": lambda url: redis.Redis(
        connection_pool=redis.BlockingConnectionPool.from_url(url, max_connections=2)
    ),
    "client-side caching": lambda url: redis.Redis.from_url(url, protocol=3, cache_config=CacheConfig()),
    "fetched secrets": lambda url: redis.Redis.from_url(url, credential_provider=Credentials()),
    "another database": lambda url: redis.Redis.from_url(f"{url}/1"),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_of_redis_py_works_however_it_was_made(make: MakeStore, redis_addr: str, name: str) -> None:
    def store() -> DataStore:
        return make(redis_addr="", redis_client=CLIENTS[name](f"redis://{redis_addr}"))

    one, two = store(), store()
    written, read = (each.register(schema(Point, name="points")) for each in (one, two))
    one.migrate()
    written.set("é", Point("é", 1))
    assert read.get("é").x == 1
    written.set("é", Point("é", 2))
    wait_until(lambda: read.get("é").x == 2)
    assert [point.x for point in written.search_cached(Q())] == [point.x for point in written.search_cached(Q())] == [2]
    hits = two.stats().l2_hits
    wait_until(lambda: read.get("é", force_l2=True).x == 2 and two.stats().l2_hits > hits, what="L2")
    assert two.stats().corrupt == one.stats().corrupt == 0


def test_stores_whose_address_names_the_database_hear_each_other(make: MakeStore, redis_addr: str) -> None:
    one, two = (make(redis_addr=f"redis://{redis_addr}/2") for _ in range(2))
    written, read = (each.register(schema(Point, name="points")) for each in (one, two))
    one.migrate()
    sure(one)
    sure(two)
    written.set("a", Point("a", 1))
    assert read.get("a").x == 1
    written.set("a", Point("a", 2))
    wait_until(lambda: read.get("a").x == 2)


class Prefixing(redis.Redis):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        made: Any = super()
        return made.execute_command(args[0], f"app:{args[1]}", *args[2:], **options)


class PrefixingEncoder(Encoder):
    def encode(self, value: Any) -> Any:
        made: Any = super()
        return made.encode(f"app:{value}")


class Imitation(redis.Connection):
    """As imitations of a server for tests have it."""

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError


REFUSED: dict[str, tuple[Client, str]] = {
    "asyncio": (lambda url: redis.asyncio.Redis.from_url(url), r"redis\.asyncio.*not asyncio's"),
    "a str": (lambda url: url, r"builtins\.str"),
    "a client that adds a prefix": (lambda url: Prefixing.from_url(url), "execute_command of its own.*key_prefix"),
    "an encoder that adds a prefix": (
        lambda url: redis.Redis.from_url(url, encoder_class=PrefixingEncoder),
        "encoder_class of its own",
    ),
    "an imitation": (
        lambda url: redis.Redis(connection_pool=redis.ConnectionPool(connection_class=Imitation)),
        "send_command of its own.*real server",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_client_that_cannot_be_adopted_is_refused_at_once(name: str) -> None:
    client, said = REFUSED[name]
    with pytest.raises(InvalidConfigError, match=said):
        DataStore(Config(redis_client=client("redis://127.0.0.1:1")))
