"""`docker-compose.yml`: no password is part of an address, so any works; nobody has more rights than are needed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kombu import Connection  # type: ignore[attr-defined]
from psycopg import pq

from strata import Config, L2PoolConfig, L3PoolConfig
from strata.l2 import refusals
from strata.l2.address import connect
from strata.l3.connection import parse_dsn
from strata.protocol.keyspace import Keyspace
from strata.writebehind.fleet.broker import broker_url
from tests.compose import ROOT, Missing, rendered, services

SECRETS = ("POSTGRES_PASSWORD", "STRATA_DB_PASSWORD", "REDIS_PASSWORD", "FLOWER_PASSWORD")
OURS = ("migrate", "worker-persist", "worker-jobs", "flower")
HOSTILE = "p@ss:/?#[]%40 '\"\\;,$${X}&=é"
passwords = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


def secrets(**given: str) -> dict[str, str]:
    return {name: f"{name}-value" for name in SECRETS} | given


@settings(max_examples=30)
@given(passwords, passwords)
@example(HOSTILE, HOSTILE)
@example(" ", "\r")
def test_any_password_reaches_its_server_as_it_is(database: str, cache: str) -> None:
    for name in OURS:
        environment = rendered(secrets(STRATA_DB_PASSWORD=database, REDIS_PASSWORD=cache))[name]["environment"]
        with mock.patch.dict(os.environ, environment, clear=True):
            config = Config.from_env()
            parse_dsn(config.postgres_dsn, L3PoolConfig(), "strata")
            [told] = [item.val for item in pq.Conninfo.get_defaults() if item.keyword == b"password"]
            assert told == database.encode()
            for address in (config.redis_addr, config.ledger_addr):
                client = connect(address, L2PoolConfig(), password=config.redis_password)
                login = client.connection_pool.connection_kwargs
                assert (login["username"], login["password"]) == ("strata", cache)
            broker: Any = Connection(broker_url(config))  # type: ignore[no-untyped-call]
            assert (broker.hostname, broker.userid, broker.password) == ("ledger", "strata", cache)


@pytest.mark.parametrize("name", SECRETS)
def test_each_password_must_be_set(name: str) -> None:
    with pytest.raises(Missing, match=name):
        rendered(secrets(**{name: ""}))


def test_no_password_is_on_a_command_line() -> None:
    for name, service in rendered({**secrets(), "GRAFANA_PASSWORD": "GRAFANA-value"}).items():
        said = [service.get("command"), service.get("entrypoint"), service.get("healthcheck")]
        assert "-value" not in str(said), name


def test_every_image_has_an_exact_tag() -> None:
    images = {service["image"] for service in services().values() if "image" in service}
    images |= set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert len(images) == 6
    exact = re.compile(r":v?\d+\.\d+(\.\d+)?(-[\w.-]+)?$|@sha256:[0-9a-f]{64}$")
    assert [image for image in images if not exact.search(image)] == []


def test_the_users_of_redis_have_the_rights_of_the_documentation() -> None:
    cache, ledger = (services()[name]["environment"]["REDIS_RIGHTS"] for name in ("cache", "ledger"))
    assert cache == refusals.rights(Keyspace(), Config().invalidation_channel)
    assert ledger == refusals.rights(Keyspace(), Config().invalidation_channel, broker=True)


def test_the_application_s_role_is_no_superuser_and_owns_its_database() -> None:
    created = (ROOT / "ops" / "compose" / "role.sql").read_text()
    assert "CREATE ROLE strata LOGIN" in created and "SUPERUSER" not in created and "OWNER strata" in created
    assert "POSTGRES_USER" not in services()["postgres"]["environment"]
    dsn = services()["migrate"]["environment"]["STRATA_POSTGRES_DSN"]
    assert psycopg.conninfo.conninfo_to_dict(dsn)["user"] == "strata"
    assert not any("POSTGRES_PASSWORD" in str(services()[name]["environment"]) for name in OURS)


def test_the_ledger_has_a_limit_at_which_it_refuses_and_keeps_what_it_took() -> None:
    command = services()["ledger"]["command"]
    options = dict(zip(command[::2], command[1::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction" and options["--appendonly"] == "yes"
    assert "--maxmemory" in options


def test_workers_wait_for_the_migration_and_it_for_the_servers() -> None:
    for name in ("worker-persist", "worker-jobs", "flower"):
        service = services()[name]
        assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert service["healthcheck"]["test"]
    waits = services()["migrate"]["depends_on"]
    assert set(waits) == {"postgres", "cache", "ledger"}
    assert all(item == {"condition": "service_healthy"} for item in waits.values())
    assert all("healthcheck" in services()[name] for name in waits)
    assert services()["migrate"]["restart"] == "no"


def test_the_files_that_it_mounts_are_there() -> None:
    mounted = [volume for service in services().values() for volume in service.get("volumes", []) if volume[0] == "."]
    assert len(mounted) >= 5
    assert [volume for volume in mounted if not (ROOT / Path(volume.partition(":")[0])).exists()] == []
