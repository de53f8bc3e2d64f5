"""What Strata uses of psycopg, redis-py and pydantic although none promises it: a release that drops it is seen here.

Where one of these fails, see to the module that is named with it, and then to the upper bound in pyproject.toml.
"""

from __future__ import annotations

import ast
import inspect
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import pydantic
import pydantic_core
import pytest
import redis
from psycopg import adapt, errors, generators, pq, waiting
from psycopg.types.datetime import IntervalBinaryLoader
from redis._parsers import Encoder
from redis.cluster import ClusterNode, NodesManager, RedisCluster
from redis.crc import key_slot
from redis.sentinel import Sentinel

from strata.l3.connection import ADAPTERS

ROOT = Path(__file__).parents[2]
ROOMS = "coherence embedded endpoints l2 l3 writebehind".split()  # who has to do with drivers


def _slots(kind: type) -> set[str]:
    return {slot for base in kind.__mro__ for slot in getattr(base, "__slots__", ())}


def _takes(function: Callable[..., Any], *names: str) -> bool:
    return set(names) <= inspect.signature(function).parameters.keys()


def _hides_the_row() -> bool:
    error = errors.UniqueViolation("of a row", info=None)
    error._info = None
    return error.diag.message_detail is None


def _transforms() -> bool:
    made = adapt.Transformer()
    made.set_dumper_types([20], pq.Format.BINARY)
    sent = made.dump_sequence([7], [adapt.PyFormat.BINARY])
    return [bytes(part or b"") for part in sent] == [bytes([0] * 7 + [7])] and all(
        hasattr(made, name) for name in ("set_pgresult", "load_rows", "get_loader", "types", "formats", "adapters")
    )


def _names_the_option() -> bool:
    with pytest.raises(TypeError, match=r"argument '?nonsense'?$"):
        redis.ConnectionPool.from_url("redis://localhost?nonsense=1").make_connection()
    return True


def _master() -> Any:
    return Sentinel([("localhost", 1)]).master_for("service").connection_pool  # type: ignore[no-untyped-call]


def _connection(**options: Any) -> Any:
    return redis.Connection(**options)  # type: ignore[no-untyped-call]


def _has(kind: type, names: str) -> bool:
    return all(callable(getattr(kind, name, None)) for name in names.split())


# Who uses what; each is true while the driver has it.
PSYCOPG: dict[str, Callable[[], object]] = {
    "l3/failures, greenlets: errors._WaitTimeout": lambda: issubclass(errors._WaitTimeout, psycopg.OperationalError),
    "l3/failures: Error._info": _hides_the_row,
    "l3/failures: errors.lookup": lambda: errors.lookup("23505") is errors.UniqueViolation,
    "l3/connection: Connection._connect_gen": lambda: _takes(psycopg.Connection._connect_gen, "conninfo"),
    "l3/connection: Connection.wait": lambda: _takes(psycopg.Connection.wait, "gen", "interval", "timeout"),
    "l3/connection: AdaptersMap": lambda: ADAPTERS.get_loader(1184, pq.Format.BINARY),
    "l3/connection: IntervalBinaryLoader": lambda: _takes(IntervalBinaryLoader.load, "data"),
    "l3/connection, statement: generators": lambda: callable(generators.execute) and callable(generators.send),
    "l3/connection, statement: error_from_result": lambda: _takes(errors.error_from_result, "result", "encoding"),
    "l3/statement, stage: Transformer": _transforms,
    "l3/stage: get_dumper_by_oid": lambda: ADAPTERS.get_dumper_by_oid(25, pq.Format.BINARY),
    "l3/reads: RawServerCursor._tx": lambda: "_tx" in _slots(psycopg.RawServerCursor),
    "l3/greenlets: wait_select": lambda: _takes(waiting.wait_select, "gen", "fileno", "interval", "timeout"),
    "l3/greenlets: WAIT and READY": lambda: (
        [int(kind) for kind in (waiting.WAIT_R, waiting.WAIT_W, waiting.READY_R, waiting.READY_W)] == [1, 2, 1, 2]
    ),
}
REDIS: dict[str, Callable[[], object]] = {
    "l2/wire: Connection._sock": lambda: _connection()._sock is None,
    "l2/wire: Connection.connect and others": lambda: _has(
        redis.Connection, "connect disconnect send_packed_command read_response"
    ),
    "l2/client: pool._available_connections": lambda: redis.ConnectionPool()._available_connections == [],
    "l2/client: pool._in_use_connections": lambda: redis.ConnectionPool()._in_use_connections == set(),
    "l2/wire: pool.connection_class and _kwargs": lambda: _connection(**redis.ConnectionPool().connection_kwargs),
    "l2/client: Sentinel.sentinels": lambda: len(_master().sentinel_manager.sentinels) == 1,
    "l2/address: SentinelConnectionPool": lambda: (_master().service_name, _master().is_master) == ("service", True),
    "l2/client: RedisCluster": lambda: _has(RedisCluster, "get_random_node get_redis_connection"),
    "l2/client, address: NodesManager": lambda: (
        {"nodes_cache", "slots_cache", "startup_nodes", "connection_kwargs"}
        <= set(NodesManager.__init__.__code__.co_names)
    ),
    "l2/client: ClusterNode.redis_connection": lambda: ClusterNode("localhost", 1).redis_connection is None,  # type: ignore[no-untyped-call]
    "endpoints/redis: Encoder": lambda: type(_connection().encoder) is Encoder,
    "endpoints/redis: the words for an unknown option": _names_the_option,
    "embedded/cluster: key_slot": lambda: key_slot(b"a") == 15495,
}


class Some(pydantic.BaseModel):
    field: int = 5


PYDANTIC: dict[str, Callable[[], object]] = {
    "model/instances: the slots of an instance": lambda: (
        set(pydantic.BaseModel.__slots__)
        == {"__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"}
    ),
    "model/validators: the core schema of a model": lambda: (
        Some.__pydantic_core_schema__["schema"]["fields"]["field"]["schema"]["type"] == "default"
    ),
    "model/validators: PydanticKnownError": lambda: (
        pydantic_core.PydanticKnownError("greater_than", {"gt": 0}).message() == "Input should be greater than 0"
    ),
    "model/pydantic_models: model_rebuild": lambda: _takes(pydantic.BaseModel.model_rebuild, "_types_namespace"),
    "model/pydantic_models: the factory of a field": lambda: (
        Some.model_fields["field"].default_factory_takes_validated_data is None
    ),
}


@pytest.mark.parametrize("what", PYDANTIC)
def test_pydantic_still_has_what_is_used_of_it(what: str) -> None:
    assert PYDANTIC[what](), f"pydantic {version('pydantic')} changed what strata/{what.replace(':', ' uses:')}"


@pytest.mark.parametrize("what", PSYCOPG)
def test_psycopg_still_has_what_is_used_of_it(what: str) -> None:
    assert PSYCOPG[what](), f"psycopg {version('psycopg')} changed what strata/{what.replace(':', ' uses:')}"


@pytest.mark.parametrize("what", REDIS)
def test_redis_py_still_has_what_is_used_of_it(what: str) -> None:
    assert REDIS[what](), f"redis-py {version('redis')} changed what strata/{what.replace(':', ' uses:')}"


def test_no_other_private_name_of_a_driver_is_used() -> None:
    """By name: what begins with `_`, is asked of another object, and is defined nowhere in these rooms."""
    asked: dict[str, str] = {}
    defined: set[str] = set()
    for path in (path for room in ROOMS for path in sorted((ROOT / "strata" / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                if own and isinstance(node.ctx, ast.Store):
                    defined.add(node.attr)
                elif not own:
                    asked[node.attr] = str(path.relative_to(ROOT))
    known = "".join([*PSYCOPG, *REDIS])
    assert {name: path for name, path in asked.items() if name not in defined and name not in known} == {}


def test_releases_that_are_not_known_yet_are_not_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounded = {item.partition("[")[0] for item in project["dependencies"] if "<" in item}
    assert {"psycopg", "redis"} <= bounded
    assert all("<" in item for item in project["optional-dependencies"]["pydantic"])
