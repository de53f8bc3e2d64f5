"""No part of a password is shown or taken for something else, however it is written into an address."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from kombu import Connection  # type: ignore[attr-defined]
from psycopg.conninfo import conninfo_to_dict

from strata import Config, InvalidConfigError, L2PoolConfig, L3PoolConfig
from strata.addresses import masked
from strata.l2.address import connect
from strata.l3.connection import parse_dsn
from strata.writebehind.fleet.broker import broker_url, celery_app, without_secrets

MARKS = set("QZ8")  # of which every password is made, and no address
PIECES = [
    *sorted(MARKS),
    *"℀:@/?#[]%;,&='\\\"\t +.é",
    "redis://",
    "password=",
    "host=",
    ";redis://h",
    "@h",
    "%40",
    ":8",
]
passwords = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)

DSNS = [
    "postgresql://me:{0}@host:5432/db?sslmode=require",
    "postgresql://me:{0}@one:1,two:2/db",
    "postgresql://host/db?user=me&password={0}",
    "postgres://host/db?sslpassword={0}&sslmode=require",
    "host=a port=1 user=me password={0} dbname=x",
    "host=a user=me password = '{0}' dbname=x",
]
REDIS = [
    "redis://:{0}@host:1/0",
    "rediss://u:{0}@host:1/0?ssl_cert_reqs=none",
    "redis://host:1/0?password={0}",
    "rediss://host:1/0?ssl_cert_reqs=none&username=u&password={0}",
    "unix://:{0}@/run/redis.sock",
    "redis+cluster://u:{0}@a:1,b:2",
    "redis+sentinel://u:{0}@a:1,b:2/main/0?sentinel_password={0}",
    "me:{0}@host:5432",
]
BROKERS = [
    *REDIS[:4],
    "amqp://u:{0}@a:1//",
    "amqp://u:{0}@a//;amqp://u:{0}@b//",
    "sentinel://:{0}@a:1/0;sentinel://:{0}@b:2/0",
    "redis://:{0}@a:1,redis://:{0}@b:2",
]


def marked(*texts: object) -> bool:
    return any(MARKS & set(str(text)) for text in texts)


@given(st.sampled_from([*DSNS, *REDIS, *BROKERS]), passwords)
@example("redis://:{0}@host:1/0", "Q;x")
@example("redis://:{0}@host:1/0", "8;redis://Q")
@example("redis://host:1/0?password={0}", "x@Q")
@example("postgresql://me:{0}@host:5432/db?sslmode=require", "8/Q")
@example("me:{0}@host:5432", "//8")
@example("me:{0}@host:5432", "//8:Q")
def test_no_part_of_a_password_is_shown(form: str, password: str) -> None:
    address = form.format(password)
    assert not marked(masked(address)), masked(address)
    for name in ("postgres_dsn", "redis_addr", "broker_url"):
        given: dict[str, Any] = {name: address}
        try:
            assert not marked(repr(Config(**given)))
        except InvalidConfigError as error:
            assert not marked(error, error.__cause__, error.__context__), error


@given(st.sampled_from(DSNS), passwords)
@example("postgresql://me:{0}@host:5432/db?sslmode=require", "Q@Z")
def test_no_part_of_a_password_is_taken_for_the_place_of_a_database(form: str, password: str) -> None:
    assume("host=" not in password)  # which makes it a parameter, as people write one
    try:
        read = conninfo_to_dict(parse_dsn(form.format(password), L3PoolConfig(), "strata"))
    except InvalidConfigError as error:
        assert not marked(error, error.__cause__, error.__context__)
    else:
        assert not marked(*(read.get(name) for name in ("host", "port", "user", "dbname"))), read


@given(st.sampled_from(REDIS), passwords)
def test_no_part_of_a_password_is_taken_for_the_place_of_a_redis(form: str, password: str) -> None:
    assume("host=" not in password)
    if "cluster" in form:
        form = form.replace("+cluster", "")  # a client of a Cluster connects when it is made
    try:
        client = connect(form.format(password), L2PoolConfig())
    except InvalidConfigError as error:
        assert not marked(error, error.__cause__)
    else:
        options = client.connection_pool.connection_kwargs
        assert not marked(options.get("host"), options.get("port"), options.get("path"), options.get("username"))


@given(st.sampled_from(BROKERS), passwords)
@example("redis://:{0}@a:1,redis://:{0}@b:2", "Q")
@example("redis://host:1/0?password={0}", "Q")
def test_no_part_of_a_password_is_shown_by_celery_or_flower(form: str, password: str) -> None:
    assume(";redis://" not in password)  # which makes it a list of brokers, as people write one
    try:
        app = celery_app(Config(broker_url=form.format(password)))
    except InvalidConfigError as error:
        assert not marked(error, error.__cause__)
        return
    table: dict[str, Any] = app.conf.table(with_defaults=False, censored=True)  # what `inspect conf` and Flower show
    shown = [str(table[name]) for name in ("broker_url", "broker_transport_options")]
    with app.connection_for_write() as connection:
        shown += [part.as_uri() for part in (connection, *map(Connection, connection.alt))]
        shown.append(str({name: value for name, value in without_secrets(connection.info()).items() if name != "port"}))
    assert not marked(*shown), shown


@pytest.mark.parametrize(
    "address",
    [
        "host:6379",
        "[::1]:6379",
        "postgres://me@host:5432/app?sslmode=require&connect_timeout=3",
        "postgresql://one:1,two:2/app",
        "host=a dbname=b user=c",
        "host='a b' port=1",
        "unix:///run/redis.sock",
        "redis+sentinel://a:1,b:2/main/0",
        "amqp://a//;amqp://b//",
    ],
)
def test_what_has_no_password_is_shown_as_it_is(address: str) -> None:
    assert masked(address) == address


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:Q@host/app?sslmode=require", "postgresql://me:***@host/app?sslmode=require"),
        ("postgresql://me:Q@one:1,two:2/app", "postgresql://me:***@one:1,two:2/app"),
        ("host=a user=me password=Q dbname=x", "host=a user=me password=***"),
        ("rediss://:Q@host:1/0?ssl_ca_certs=/ca.pem", "rediss://:***@host:1/0?ssl_ca_certs=/ca.pem"),
        ("redis+sentinel://a:1/main?sentinel_password=Q", "redis+sentinel://a:1/main?sentinel_password=***"),
        ("redis://:Q/Q@host", "redis://***"),
    ],
)
def test_where_a_server_is_can_be_seen_beside_its_password(address: str, shown: str) -> None:
    assert masked(address) == shown


def test_a_login_among_the_parameters_is_one_to_celery_too() -> None:
    address = "rediss://host:1/0?ssl_cert_reqs=none&username=u&password=p%40"
    assert broker_url(Config(redis_addr=address)) == "rediss://u:p%40@host:1/0?ssl_cert_reqs=none"
    assert broker_url(Config(broker_url=address)) == "rediss://u:p%40@host:1/0?ssl_cert_reqs=none"


@pytest.mark.parametrize("address", ["redis://:p@ss/w@host:1", "redis://me:p#w@host", "redis://:a@b:1,redis://:a@c:1"])
def test_an_address_that_means_two_things_is_refused(address: str) -> None:
    with pytest.raises(InvalidConfigError, match="percent-encoded"):
        connect(address, L2PoolConfig())
    with pytest.raises(InvalidConfigError, match="percent-encoded"):
        broker_url(Config(broker_url=address))
