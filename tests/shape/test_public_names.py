"""The names that users rely on exist, are exported and documented."""

from __future__ import annotations

import inspect

import strata

CONTRACT = """
    PrimaryKey Unique Indexed Default OmitCache OmitL1 AutoNowAdd AutoNow Encrypted Ignore UNLOADED
    Schema MemPolicy RedisPolicy PostgresPolicy WriteMode EvictionPolicy Index SchemaHooks
    DataStore Collection Config L1PoolConfig L2PoolConfig L3PoolConfig Durability EncryptionKeys JSON MsgPack
    Q Query MigrationReport KeyRotation Undecrypted Stats Codec Logger MetricsRecorder
    StrataError SchemaNotFoundError SchemaDuplicateError NoPrimaryKeyError InvalidModelError MissingPrimaryKeyError
    NotFoundError DecodeError EncodeError ConstraintError UnavailableError L1UnavailableError L2UnavailableError
    L3UnavailableError TxFailedError TxTimeoutError InvalidConfigError HookError WriteBehindMaxRetryError
    WriteBehindFullError FlushTimeoutError QueryError MigrationError ClosedError
""".split()

CALLS = """
    register get get_many set set_many delete delete_many search search_cached exists count tx invalidate warm_cache
    flush_dirty migrate migrate_from migration_status stats close dead_letters rotate_keys
""".split()


def test_every_name_of_the_contract_is_exported() -> None:
    assert [name for name in CONTRACT if name not in strata.__all__ or not hasattr(strata, name)] == []


def test_every_export_exists_and_is_sorted() -> None:
    assert [name for name in strata.__all__ if not hasattr(strata, name)] == []


def test_every_call_of_the_store_exists_and_says_what_it_does() -> None:
    assert [name for name in CALLS if not inspect.getdoc(getattr(strata.DataStore, name, None))] == []


def test_the_handle_has_the_stores_calls_without_the_schema() -> None:
    calls = set(CALLS) - {
        "register", "tx", "flush_dirty", "migrate", "migrate_from", "migration_status", "stats", "close",
        "dead_letters", "rotate_keys",
    }  # fmt: skip
    assert [name for name in sorted(calls) if not hasattr(strata.Collection, name)] == []


def test_every_error_is_of_the_family() -> None:
    errors = [
        item
        for name in strata.__all__
        if inspect.isclass(item := getattr(strata, name)) and issubclass(item, Exception)
    ]
    assert len(errors) > 20
    assert all(issubclass(error, strata.StrataError) and inspect.getdoc(error) for error in errors)
    assert issubclass(strata.NotFoundError, LookupError)
    for tier in (strata.L1UnavailableError, strata.L2UnavailableError, strata.L3UnavailableError):
        assert issubclass(tier, strata.UnavailableError)
