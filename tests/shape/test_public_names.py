"""The names that users rely on: exported, documented, from where they are imported; and no others."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import sys
import traceback
import typing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import strata
import strata.embedded
import strata.testing
from strata.integrations import celery, flask, opentelemetry, prometheus, sqlalchemy, starlette
from tests.models import Player

ROOT = Path(__file__).parents[2]
MODELS = """
    PrimaryKey Generated Unique Indexed Default OmitCache OmitL1 AutoNowAdd AutoNow Encrypted Ignore UNLOADED
    loaded whole
""".split()
SETTINGS = """
    Config L1PoolConfig L2PoolConfig L3PoolConfig Retention Durability EncryptionKeys JSON MsgPack StandardLogger
    Schema MemPolicy RedisPolicy PostgresPolicy WriteMode EvictionPolicy SearchExpiry Index SchemaHooks
    Codec Logger MetricsRecorder Tracer
""".split()
STORE = """
    DataStore AsyncDataStore Collection AsyncCollection Tx AsyncTx Q Query Job AsyncJob JobState Progress
    Cached AsyncCached DeadLetter DeadLetters AsyncDeadLetters SchemaRef Key Record
""".split()
RESULTS = """
    MigrationReport MigrationRecord ManualChange KeyRotation Undecrypted AuditReport SchemaAudit StaleKey
    Stats Health TierHealth TierState Page
""".split()
ERRORS = """
    StrataError SchemaNotFoundError SchemaDuplicateError NoPrimaryKeyError InvalidModelError MissingPrimaryKeyError
    NotFoundError DecodeError EncodeError ConstraintError AlreadyExistsError ConflictError UnavailableError
    L1UnavailableError L2UnavailableError L3UnavailableError RefusedError L2RefusedError L3RefusedError L3TimeoutError
    TxFailedError TxTimeoutError
    InvalidConfigError HookError WriteBehindMaxRetryError WriteBehindFullError FlushTimeoutError JobFailedError
    JobTimeoutError QueryError MigrationError ClosedError
""".split()
CONTRACT = {*MODELS, *SETTINGS, *STORE, *RESULTS, *ERRORS, "__version__", "compiled"}
VALUES = {"UNLOADED", "SchemaRef", "Key", "Record", "__version__", "compiled"}  # which have no docstring of their own

PACKAGES: list[ModuleType] = [
    strata, strata.embedded, strata.testing, celery, flask, opentelemetry, prometheus, sqlalchemy, starlette,
]  # fmt: skip

CALLS = """
    register get get_many get_batch prefetch get_or_set cached set set_many touch delete delete_many search search_page
    search_cached exists count tx invalidate invalidate_many invalidate_all invalidate_tag warm_cache flush_dirty
    migrate migrate_from migration_status stats health close dead_letters rotate_keys insert insert_many update modify
    increment update_where delete_where
""".split()
OF_THE_STORE = """
    register get_batch prefetch cached tx invalidate_tag flush_dirty migrate migrate_from migration_status stats health
    close dead_letters rotate_keys
""".split()


def exported(package: ModuleType) -> list[tuple[str, Any]]:
    """The classes and functions among what a package exports."""
    items = [(name, getattr(package, name)) for name in package.__all__]
    return [(name, item) for name, item in items if isinstance(item, type) or inspect.isfunction(item)]


EXPORTED = [pytest.param(package, name, item, id=name) for package in PACKAGES for name, item in exported(package)]
CLASSES = [item for _, item in exported(strata) if isinstance(item, type)]


def test_the_exported_names_are_those_of_the_contract_and_no_others() -> None:
    assert set(strata.__all__) == CONTRACT
    assert {name for name, _ in exported(strata)} == CONTRACT - VALUES


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_dir_shows_what_is_exported_and_nothing_else(package: ModuleType) -> None:
    assert dir(package) == sorted(set(package.__all__))
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


@pytest.mark.parametrize(("package", "name", "item"), EXPORTED)
def test_what_is_exported_is_documented_and_says_that_it_is_from_where_it_is_imported(
    package: ModuleType, name: str, item: Any
) -> None:
    assert item.__doc__ and not item.__doc__.startswith(f"{name}(")
    assert (item.__module__, item.__qualname__) == (package.__name__, name)


@pytest.mark.parametrize(("package", "name", "item"), EXPORTED)
def test_what_is_exported_can_be_pickled_and_its_annotations_be_read(package: ModuleType, name: str, item: Any) -> None:
    assert pickle.loads(pickle.dumps(item)) is item
    assert isinstance(typing.get_type_hints(item), dict)


def test_the_source_of_methods_and_functions_is_found_and_that_of_a_class_is_none_rather_than_another_s() -> None:
    assert "def from_env" in inspect.getsource(strata.Config.from_env)
    assert "def get" in inspect.getsource(strata.DataStore.get)
    assert "def observe" in inspect.getsource(strata.testing.observe)
    for kind in CLASSES:
        with pytest.raises(OSError, match=r"source|class"):
            inspect.getsource(kind)


def test_a_class_and_an_error_are_shown_by_the_name_that_users_write() -> None:
    assert repr(strata.DataStore) == "<class 'strata.DataStore'>"
    last = traceback.format_exception_only(strata.NotFoundError("no record"))
    assert last == ["strata.NotFoundError: no record\n"]


def test_no_pickle_names_a_module_inside() -> None:
    for value in [
        strata.UNLOADED, strata.WriteMode.WRITE_BEHIND, strata.NotFoundError("", key=1), strata.Index(["id"]),
        strata.MemPolicy(ttl=1), strata.L3PoolConfig(), strata.Query(), strata.Q().limit(3), strata.Progress(1, 2),
        strata.Page([], "x"),
    ]:  # fmt: skip
        raw = pickle.dumps(value)
        assert b"strata." not in raw
        assert repr(pickle.loads(raw)) == repr(value)
    assert pickle.loads(pickle.dumps(strata.UNLOADED)) is strata.UNLOADED is copy.deepcopy(strata.UNLOADED)


def test_what_is_not_exported_says_where_its_code_is() -> None:
    assert {kind.__module__ for kind in strata.PrimaryKey.__mro__} == {"strata", "strata.model.markers", "builtins"}


def test_every_call_of_the_store_exists_and_says_what_it_does() -> None:
    assert [name for name in CALLS if not inspect.getdoc(getattr(strata.DataStore, name, None))] == []


def test_the_handle_has_the_stores_calls_without_the_schema() -> None:
    calls = set(CALLS) - set(OF_THE_STORE)
    assert [name for name in sorted(calls) if not hasattr(strata.Collection, name)] == []


def test_the_handle_may_be_annotated_with_and_without_the_type_of_its_ids() -> None:
    assert typing.get_args(strata.Collection[Player]) == (Player, Any)
    assert typing.get_args(strata.Collection[Player, str]) == (Player, str)


def test_hooks_schemas_and_handles_may_be_made_of_an_annotated_class() -> None:
    hooks = strata.SchemaHooks[Player](after_set=print)
    schema = strata.Schema[Player](Player, l1=strata.MemPolicy(), hooks=hooks)
    assert (hooks, schema.hooks) == (strata.SchemaHooks(after_set=print), hooks)
    assert strata.Schema(Player, l1=strata.MemPolicy()).hooks == strata.SchemaHooks()


def test_every_error_is_of_the_family_and_every_one_of_the_family_is_exported() -> None:
    assert all(issubclass(getattr(strata, name), strata.StrataError) for name in ERRORS)
    known = {name for name, item in vars(sys.modules["strata.errors"]).items() if isinstance(item, type)}
    assert {name for name in known if name.endswith("Error")} == set(ERRORS)
    assert issubclass(strata.NotFoundError, LookupError)
    for tier in (strata.L1UnavailableError, strata.L2UnavailableError, strata.L3UnavailableError):
        assert issubclass(tier, strata.UnavailableError)


def test_a_name_of_a_class_means_one_thing_in_the_whole_package() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "strata").rglob("*.py")):
        if "demo" not in path.parts:  # an application of its own
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    several = {name for name, found in places.items() if len(found) > 1}
    assert several == {"StrataCache"}, places  # which is what each framework's own are called
