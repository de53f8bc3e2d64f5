"""Every error that Strata raises, drawn as a tree.

```
StrataError
├── SchemaNotFoundError          a schema that was never registered
├── SchemaDuplicateError         a name, or a class, registered twice
├── InvalidModelError            a class that cannot be a model
│   └── NoPrimaryKeyError        ... because no field is its key
├── MissingPrimaryKeyError       an empty key
├── NotFoundError (LookupError)  no tier has the record
├── EncodeError                  a value that cannot be stored as it is
├── DecodeError                  stored bytes that cannot be read back
├── ConstraintError              the database refused the row
│   └── AlreadyExistsError       ... that insert was to be the first of
├── ConflictError                the record is not what expect said
├── UnavailableError             every tier that could answer is down
│   ├── L1UnavailableError       (never raised: memory is always there)
│   ├── L2UnavailableError
│   └── L3UnavailableError
├── RefusedError                 a server that is there refused what Strata asked
│   ├── L2RefusedError
│   └── L3RefusedError
│       └── L3TimeoutError       ... or gave it up (TimeoutError)
├── TxFailedError                a transaction was rolled back
├── TxTimeoutError               ... because its deadline passed (TimeoutError)
├── InvalidConfigError           a setting that cannot work
├── HookError                    a before_* hook, or a function of tags, raised
├── WriteBehindMaxRetryError     a deferred write failed too often: it is given up, or waits out an outage
├── WriteBehindFullError         no room for a deferred write, nor a way around
├── FlushTimeoutError            deferred writes were left when the time was up (TimeoutError)
├── JobFailedError               a job of the fleet was given up
├── JobTimeoutError              a job of the fleet was not at its end in time (TimeoutError)
├── QueryError                   a query that is never sent
├── MigrationError               a migration that cannot be applied
└── ClosedError                  the store was closed
```

A message says what was wrong, where, and what would be right. The driver's error is the `__cause__`
where it carries nothing private; no message carries a password, a key, a row or an encrypted value.
"""

from __future__ import annotations

import copy
import sys
from typing import Any


def shown(value: object, most: int = 80) -> str:
    """A caller's value in a message: its `repr`, at most so long; its class where it cannot be shown."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 a list in itself, a number of 5,000 digits, a class of the user's
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= most else f"{text[:most]}..."


def twin(error: Exception) -> Exception:
    """The same error for another thread, or task: one that many raise would gather the traceback, and the frames, of
    each."""
    try:
        return copy.copy(error)
    except Exception:  # noqa: BLE001 an error of the user's that cannot be copied
        return error


def where_of(error: BaseException, depth: int = sys.maxsize) -> str:
    """The module and line that raised it; or that which `depth` calls below the catcher led there."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and depth:
        trace, depth = trace.tb_next, depth - 1
    return "" if trace is None else f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"


class StrataError(Exception):
    """The root of the family: `except StrataError` catches all of it."""


class SchemaNotFoundError(StrataError):
    """The schema was never registered with this store."""


class SchemaDuplicateError(StrataError):
    """A schema of this name was registered before."""


class InvalidModelError(StrataError):
    """The class, or a name in its schema, cannot be mapped to the tiers."""


class NoPrimaryKeyError(InvalidModelError):
    """No field of the model is marked `PrimaryKey`."""


class MissingPrimaryKeyError(StrataError):
    """The key given, or the key of the record, is empty."""


class NotFoundError(StrataError, LookupError):
    """No tier has a record of this key: `schema` and `key` say which, the message does not repeat the key."""

    def __init__(self, message: str, *, schema: str = "", key: Any = None) -> None:
        super().__init__(message)
        self.schema = schema
        self.key = key


class EncodeError(StrataError):
    """The value cannot be stored without changing it, so nothing was written."""


class DecodeError(StrataError):
    """Stored bytes could not be read back. `schema`, `column` and `key` say which, as far as that is known; the message
    does not repeat the key."""

    def __init__(self, message: str, *, schema: str = "", column: str = "", key: Any = None) -> None:
        super().__init__(message)
        self.schema = schema
        self.column = column
        self.key = key

    def __str__(self) -> str:
        key = "; the row's key is in the error's `key`" if self.key is not None else ""
        return super().__str__() + (f" (schema {self.schema!r}{key})" if self.schema else "")


class ConstraintError(StrataError):
    """The database refused the row: UNIQUE, NOT NULL, CHECK or a foreign key.

    `sqlstate` is PostgreSQL's five characters, `constraint` the constraint's name where it has one.
    """

    def __init__(self, message: str, *, sqlstate: str = "", constraint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint


class AlreadyExistsError(ConstraintError):
    """`insert` of a key that is there: `schema` and `key` say which, the message does not repeat the key."""

    def __init__(
        self, message: str, *, sqlstate: str = "", constraint: str | None = None, schema: str = "", key: Any = None
    ) -> None:
        super().__init__(message, sqlstate=sqlstate, constraint=constraint)
        self.schema = schema
        self.key = key


class ConflictError(StrataError):
    """The record is not what `expect` said, so nothing was written: `schema` and `key` say which, and `fields` what
    differs; the message repeats neither key nor values."""

    def __init__(self, message: str, *, schema: str = "", key: Any = None, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.schema = schema
        self.key = key
        self.fields = fields


class UnavailableError(StrataError):
    """No tier that could have answered was there to ask: an outage, which passes, and nothing else.

    A server is away, too, that lets nobody in, or can serve nobody now: one that starts, is full, or is a standby.

    `outcome_unknown` is true where a write may have happened although its answer was lost. Then `keys` are those of
    what was to be inserted, in order, also of keys that the database had assigned: inserted again with these, what was
    stored is refused as there.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
        self.keys: tuple[Any, ...] = ()


class L1UnavailableError(UnavailableError):
    """Memory cannot be used. Never raised: memory is part of the process. The name is there to be caught beside those
    of the other tiers."""


class L2UnavailableError(UnavailableError):
    """Redis did not answer, or can serve nobody now, and no other tier could stand in."""


class L3UnavailableError(UnavailableError):
    """PostgreSQL did not answer, or can serve nobody now, and the call could not do without it."""


class RefusedError(StrataError):
    """A server is there, and refused what Strata asked: a right, a setting, a limit, or another transaction stood in
    the way. No outage, so that other calls go on; the message says what would be right. Nothing was written."""


class L2RefusedError(RefusedError):
    """Redis refused a command, and no other tier could stand in: a right that its user lacks, say."""


class L3RefusedError(RefusedError):
    """PostgreSQL refused a statement that is none of the record's or of the query's fault; `sqlstate` says why.

    40001 and 40P01 are transactions that met: the same call may be made again.
    """

    def __init__(self, message: str, *, sqlstate: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class L3TimeoutError(L3RefusedError, TimeoutError):
    """PostgreSQL gave a statement up, by a time-out of `L3PoolConfig`: it waited for a lock, or had too much to do."""


WITHOUT_L2 = (L2UnavailableError, L2RefusedError)
"""What is caught where a call can do without Redis, whether that is away or refuses."""

WITHOUT_L3 = (L3UnavailableError, L3RefusedError)
"""What is caught where a call can do without PostgreSQL, or tries it again."""


class TxFailedError(StrataError):
    """The transaction was rolled back; nothing of it was written.

    `sqlstate` and `constraint` are as in `ConstraintError`.
    """

    def __init__(self, message: str, *, sqlstate: str = "", constraint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint


class TxTimeoutError(StrataError, TimeoutError):
    """The transaction's deadline passed; it was rolled back."""


class InvalidConfigError(StrataError):
    """A setting is missing or cannot work."""


class HookError(StrataError):
    """A `before_*` hook, or a function of tags, raised; its exception is the `__cause__`, and nothing was written."""


class WriteBehindMaxRetryError(StrataError):
    """A deferred write failed more than `write_behind_max_retry` times.

    `final` is true where it was given up, being a dead letter now. Where it is not, an outage outlasts the retries: the
    write goes on waiting, and this error stands for all of its schema that do. `sqlstate` is that of the last failure;
    empty where the database never answered.
    """

    def __init__(self, message: str, *, sqlstate: str = "", attempts: int = 0, final: bool = True) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.attempts = attempts
        self.final = final


class WriteBehindFullError(StrataError):
    """The dirty buffer is full, and neither Redis nor PostgreSQL took the record in time."""


class FlushTimeoutError(StrataError, TimeoutError):
    """Deferred writes were still pending when the time was up; `remaining` says how many."""

    def __init__(self, message: str, *, remaining: int = 0) -> None:
        super().__init__(message)
        self.remaining = remaining


class JobFailedError(StrataError):
    """A job of the worker fleet was given up; the message has the reason, and `id` is the job's."""

    def __init__(self, message: str, *, id: str = "") -> None:
        super().__init__(message)
        self.id = id


class JobTimeoutError(StrataError, TimeoutError):
    """A job of the worker fleet, whose `id` it has, was not at its end when the time was up; the job goes on."""

    def __init__(self, message: str, *, id: str = "") -> None:
        super().__init__(message)
        self.id = id


class QueryError(StrataError):
    """The query was refused before any tier was asked."""


class MigrationError(StrataError):
    """A migration could not be applied; the database is as it was before the failing step."""


class ClosedError(StrataError):
    """The store was closed and takes no more calls."""
