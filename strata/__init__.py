"""Strata: memory, Redis and PostgreSQL behind one API, with write-behind through a Celery worker fleet."""

from strata._compiled import compiled
from strata.aio.cached import AsyncCached
from strata.aio.collection import AsyncCollection
from strata.aio.jobs import AsyncDeadLetters, AsyncJob
from strata.aio.store import AsyncDataStore
from strata.aio.tx import AsyncTx
from strata.codec import JSON, MsgPack
from strata.collection import Collection
from strata.config import Config
from strata.contracts import Codec, Logger, MetricsRecorder, Tracer
from strata.datastore import DataStore
from strata.encryption_keys import EncryptionKeys
from strata.engine.tx import Tx
from strata.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    ConstraintError,
    DecodeError,
    EncodeError,
    FlushTimeoutError,
    HookError,
    InvalidConfigError,
    InvalidModelError,
    JobFailedError,
    JobTimeoutError,
    L1UnavailableError,
    L2RefusedError,
    L2UnavailableError,
    L3RefusedError,
    L3TimeoutError,
    L3UnavailableError,
    MigrationError,
    MissingPrimaryKeyError,
    NoPrimaryKeyError,
    NotFoundError,
    QueryError,
    RefusedError,
    SchemaDuplicateError,
    SchemaNotFoundError,
    StrataError,
    TxFailedError,
    TxTimeoutError,
    UnavailableError,
    WriteBehindFullError,
    WriteBehindMaxRetryError,
)
from strata.exports import export
from strata.hooks import SchemaHooks
from strata.jobs.job import Job, JobState, Progress
from strata.l3.report import ManualChange, MigrationRecord, MigrationReport
from strata.maintenance.audit import AuditReport, SchemaAudit, StaleKey
from strata.maintenance.rotate_keys import KeyRotation, Undecrypted
from strata.memo.cached import Cached
from strata.model import (
    UNLOADED,
    AutoNow,
    AutoNowAdd,
    Default,
    Encrypted,
    Generated,
    Ignore,
    Indexed,
    OmitCache,
    OmitL1,
    PrimaryKey,
    Unique,
    loaded,
    whole,
)
from strata.observe import StandardLogger
from strata.observe.counters import Stats
from strata.observe.health import Health, TierHealth, TierState
from strata.paging import Page
from strata.policies import (
    Durability,
    EvictionPolicy,
    Index,
    L1PoolConfig,
    L2PoolConfig,
    L3PoolConfig,
    MemPolicy,
    PostgresPolicy,
    RedisPolicy,
    Retention,
    SearchExpiry,
    WriteMode,
)
from strata.query import Q, Query
from strata.schema import Key, Record, Schema, SchemaRef
from strata.writebehind.persist.dead_letters import DeadLetter, DeadLetters

__version__ = "0.1.0"

__all__ = [
    "JSON",
    "UNLOADED",
    "AlreadyExistsError",
    "AsyncCached",
    "AsyncCollection",
    "AsyncDataStore",
    "AsyncDeadLetters",
    "AsyncJob",
    "AsyncTx",
    "AuditReport",
    "AutoNow",
    "AutoNowAdd",
    "Cached",
    "ClosedError",
    "Codec",
    "Collection",
    "Config",
    "ConflictError",
    "ConstraintError",
    "DataStore",
    "DeadLetter",
    "DeadLetters",
    "DecodeError",
    "Default",
    "Durability",
    "EncodeError",
    "Encrypted",
    "EncryptionKeys",
    "EvictionPolicy",
    "FlushTimeoutError",
    "Generated",
    "Health",
    "HookError",
    "Ignore",
    "Index",
    "Indexed",
    "InvalidConfigError",
    "InvalidModelError",
    "Job",
    "JobFailedError",
    "JobState",
    "JobTimeoutError",
    "Key",
    "KeyRotation",
    "L1PoolConfig",
    "L1UnavailableError",
    "L2PoolConfig",
    "L2RefusedError",
    "L2UnavailableError",
    "L3PoolConfig",
    "L3RefusedError",
    "L3TimeoutError",
    "L3UnavailableError",
    "Logger",
    "ManualChange",
    "MemPolicy",
    "MetricsRecorder",
    "MigrationError",
    "MigrationRecord",
    "MigrationReport",
    "MissingPrimaryKeyError",
    "MsgPack",
    "NoPrimaryKeyError",
    "NotFoundError",
    "OmitCache",
    "OmitL1",
    "Page",
    "PostgresPolicy",
    "PrimaryKey",
    "Progress",
    "Q",
    "Query",
    "QueryError",
    "Record",
    "RedisPolicy",
    "RefusedError",
    "Retention",
    "Schema",
    "SchemaAudit",
    "SchemaDuplicateError",
    "SchemaHooks",
    "SchemaNotFoundError",
    "SchemaRef",
    "SearchExpiry",
    "StaleKey",
    "StandardLogger",
    "Stats",
    "StrataError",
    "TierHealth",
    "TierState",
    "Tracer",
    "Tx",
    "TxFailedError",
    "TxTimeoutError",
    "UnavailableError",
    "Undecrypted",
    "Unique",
    "WriteBehindFullError",
    "WriteBehindMaxRetryError",
    "WriteMode",
    "__version__",
    "compiled",
    "loaded",
    "whole",
]

__dir__ = export(globals())
