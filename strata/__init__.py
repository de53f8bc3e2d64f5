"""Strata: memory, Redis and PostgreSQL behind one API, with write-behind through a Celery worker fleet."""

from strata.codec import JSON, MsgPack
from strata.collection import Collection
from strata.config import Config
from strata.contracts import Codec, Logger, MetricsRecorder
from strata.crypto import EncryptionKeys
from strata.datastore import DataStore
from strata.engine.audit import AuditReport, SchemaAudit, StaleKey
from strata.engine.jobs import Job, JobState, Progress
from strata.engine.rotate import KeyRotation, Undecrypted
from strata.engine.tx import Tx
from strata.errors import (
    ClosedError,
    ConstraintError,
    DecodeError,
    EncodeError,
    FlushTimeoutError,
    HookError,
    InvalidConfigError,
    InvalidModelError,
    L1UnavailableError,
    L2UnavailableError,
    L3UnavailableError,
    MigrationError,
    MissingPrimaryKeyError,
    NoPrimaryKeyError,
    NotFoundError,
    QueryError,
    SchemaDuplicateError,
    SchemaNotFoundError,
    StrataError,
    TxFailedError,
    TxTimeoutError,
    UnavailableError,
    WriteBehindFullError,
    WriteBehindMaxRetryError,
)
from strata.hooks import SchemaHooks
from strata.l3.migrations import ManualChange, MigrationRecord, MigrationReport
from strata.model import (
    UNLOADED,
    AutoNow,
    AutoNowAdd,
    Default,
    Encrypted,
    Ignore,
    Indexed,
    OmitCache,
    OmitL1,
    PrimaryKey,
    Unique,
)
from strata.observe import StandardLogger
from strata.observe.counters import Stats
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
    SearchExpiry,
    WriteMode,
)
from strata.query import Q, Query
from strata.schema import Schema
from strata.writebehind.deadletters import DeadLetter, DeadLetters

__version__ = "0.1.0"

__all__ = [
    "JSON",
    "UNLOADED",
    "AuditReport",
    "AutoNow",
    "AutoNowAdd",
    "ClosedError",
    "Codec",
    "Collection",
    "Config",
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
    "HookError",
    "Ignore",
    "Index",
    "Indexed",
    "InvalidConfigError",
    "InvalidModelError",
    "Job",
    "JobState",
    "KeyRotation",
    "L1PoolConfig",
    "L1UnavailableError",
    "L2PoolConfig",
    "L2UnavailableError",
    "L3PoolConfig",
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
    "PostgresPolicy",
    "PrimaryKey",
    "Progress",
    "Q",
    "Query",
    "QueryError",
    "RedisPolicy",
    "Schema",
    "SchemaAudit",
    "SchemaDuplicateError",
    "SchemaHooks",
    "SchemaNotFoundError",
    "SearchExpiry",
    "StaleKey",
    "StandardLogger",
    "Stats",
    "StrataError",
    "Tx",
    "TxFailedError",
    "TxTimeoutError",
    "UnavailableError",
    "Undecrypted",
    "Unique",
    "WriteBehindFullError",
    "WriteBehindMaxRetryError",
    "WriteMode",
]
