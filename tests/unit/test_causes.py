"""Why a server cannot be used: in the words that an operator looks for, and without any that could hold a secret."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

import psycopg
import pytest
import redis
from psycopg import errors
from redis.exceptions import BusyLoadingError, ResponseError

from strata.embedded.process import free_port
from strata.l2.address import connect
from strata.l2.causes import cause_of as of_redis
from strata.l3.causes import advice_of
from strata.l3.causes import cause_of as of_postgres
from strata.l3.failures import diagnose
from strata.policies import L2PoolConfig


def caused(error: Exception, cause: BaseException) -> Any:
    error.__cause__ = cause
    return error


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] (_ssl.c:1000)")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (caused(redis.ConnectionError("Error 111"), ConnectionRefusedError(111, "no")), "connection refused"),
        (caused(redis.TimeoutError("hunter2"), TimeoutError()), "timed out"),
        (redis.TimeoutError("Timeout connecting to server"), "timed out"),
        (ConnectionResetError(), "the connection was cut"),
        (socket.gaierror(-2, "Name or service not known"), "the name of the host cannot be resolved"),
        (OSError(errno.EHOSTUNREACH, "hunter2"), "no route to the host"),
        (
            caused(redis.ConnectionError("_ssl.c"), untrusted()),
            "the certificate is not trusted: self-signed certificate",
        ),
        (redis.AuthenticationError("NOAUTH Authentication required."), "NOAUTH: it wants a password"),
        (ResponseError("WRONGPASS invalid username-password"), "WRONGPASS: the user or the password is wrong"),
        (BusyLoadingError("Redis is loading"), "LOADING: it still reads its data"),
        (
            ResponseError("MASTERDOWN Link with MASTER is down, hunter2"),
            "MASTERDOWN: it is a replica without its master",
        ),
        (ResponseError("wrong arguments hunter2"), "ERR: it refused a command of Strata's"),
        (redis.ConnectionError("the server closed the connection"), "the server closed the connection"),
    ],
)
def test_of_redis(error: Exception, cause: str) -> None:
    assert of_redis(error) == cause


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            'connection to server at "10.0.0.1", port 5432 failed: Connection refused\n\tIs it running?',
            "connection refused",
        ),
        ("connection failed: timeout expired", "timed out"),
        ('could not translate host name "pg" to address', "the name of the host cannot be resolved"),
        (
            "failed to resolve host 'pg': [Errno -2] Name or service not known",
            "the name of the host cannot be resolved",
        ),
        ("SSL error: certificate verify failed", "the certificate is not trusted, or one is wanted"),
        ("server does not support SSL, but SSL was required", "TLS cannot be agreed on"),
        ("server closed the connection unexpectedly", "it closed the connection"),
        (
            'connection to server at "10.0.0.1" failed: FATAL:  password authentication failed for user "shop"',
            'password authentication failed for user "shop"',
        ),
        ("FATAL:  sorry, too many clients already", "sorry, too many clients already"),
        ("hunter2", "OperationalError"),
    ],
)
def test_of_postgresql(said: str, cause: str) -> None:
    assert of_postgres(psycopg.OperationalError(said)) == cause


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("failed to resolve host 'pg': [Errno -2] Name or service not known", "the host of its address"),
        ('FATAL:  password authentication failed for user "shop"', "user and password of its address"),
        ('FATAL:  database "shop" does not exist', "create the database"),
        ('FATAL:  role "shop" does not exist', "name another role"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "shop", database "shop"', "pg_hba.conf"),
        ("FATAL:  sorry, too many clients already", "max_connections"),
        ("Connection refused", "host and port"),
    ],
)
def test_what_to_do_about_postgresql(said: str, advice: str) -> None:
    error = psycopg.OperationalError(said)
    assert advice in advice_of(error)
    diagnose(error)
    assert advice in advice_of(error)


def test_a_name_that_cannot_be_resolved_is_said_so_by_every_driver() -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect("postgres://shop:hunter2@nowhere.invalid/shop")
    assert of_postgres(caught.value) == "the name of the host cannot be resolved"
    with pytest.raises(redis.ConnectionError) as of_one:
        connect("nowhere.invalid:6379", L2PoolConfig()).ping()
    assert of_redis(of_one.value) == "the name of the host cannot be resolved"


def test_of_postgresql_by_its_code() -> None:
    assert "primary" in advice_of(errors.ReadOnlySqlTransaction("hunter2"))
    assert of_postgres(errors.AdminShutdown("hunter2")) == "57P01 AdminShutdown"
    assert of_postgres(None) == "the connection was cut"


def test_of_a_port_that_nobody_listens_at() -> None:
    port = free_port()
    with pytest.raises(redis.ConnectionError) as of_one:
        connect(f"127.0.0.1:{port}", L2PoolConfig()).ping()
    with pytest.raises(psycopg.OperationalError) as of_other:
        psycopg.connect(f"postgres://shop:hunter2@127.0.0.1:{port}/shop")
    assert of_redis(of_one.value) == of_postgres(of_other.value) == "connection refused"
