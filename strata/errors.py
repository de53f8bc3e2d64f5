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
├── UnavailableError             every tier that could answer is down
│   ├── L1UnavailableError
│   ├── L2UnavailableError
│   └── L3UnavailableError
├── TxFailedError                a transaction was rolled back
├── TxTimeoutError               ... because its deadline passed
├── InvalidConfigError           a setting that cannot work
├── HookError                    a before_* hook raised
├── WriteBehindMaxRetryError     a deferred write was given up
├── WriteBehindFullError         no room for a deferred write, nor a way around
├── FlushTimeoutError            deferred writes were left when the time was up
├── QueryError                   a query that is never sent
├── MigrationError               a migration that cannot be applied
└── ClosedError                  the store was closed
```

A message says what was wrong, where, and what would be right. The driver's error is the `__cause__`
where it carries nothing private; no message carries a password, a key, a row or an encrypted value.
"""

from __future__ import annotations

from typing import Any


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


class ConstraintError(StrataError):
    """The database refused the row: UNIQUE, NOT NULL, CHECK or a foreign key.

    `sqlstate` is PostgreSQL's five characters, `constraint` the constraint's name where it has one.
    """

    def __init__(self, message: str, *, sqlstate: str = "", constraint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint


class UnavailableError(StrataError):
    """No tier that could have answered was there to ask.

    `outcome_unknown` is true where a write may have happened although its answer was lost.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class L1UnavailableError(UnavailableError):
    """Memory cannot be used."""


class L2UnavailableError(UnavailableError):
    """Redis did not answer, or refused, and no other tier could stand in."""


class L3UnavailableError(UnavailableError):
    """PostgreSQL did not answer, and the call could not do without it."""


class TxFailedError(StrataError):
    """The transaction was rolled back; nothing of it was written.

    `sqlstate` and `constraint` are as in `ConstraintError`.
    """

    def __init__(self, message: str, *, sqlstate: str = "", constraint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint


class TxTimeoutError(StrataError):
    """The transaction's deadline passed; it was rolled back."""


class InvalidConfigError(StrataError):
    """A setting is missing or cannot work."""


class HookError(StrataError):
    """A `before_*` hook raised; its exception is the `__cause__`, and nothing was written."""


class WriteBehindMaxRetryError(StrataError):
    """A deferred write failed more than `write_behind_max_retry` times.

    `sqlstate` is that of the last failure; empty where the database never answered.
    """

    def __init__(self, message: str, *, sqlstate: str = "", attempts: int = 0) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.attempts = attempts


class WriteBehindFullError(StrataError):
    """The dirty buffer is full, and neither Redis nor PostgreSQL took the record in time."""


class FlushTimeoutError(StrataError):
    """Deferred writes were still pending when the time was up; `remaining` says how many."""

    def __init__(self, message: str, *, remaining: int = 0) -> None:
        super().__init__(message)
        self.remaining = remaining


class QueryError(StrataError):
    """The query was refused before any tier was asked."""


class MigrationError(StrataError):
    """A migration could not be applied; the database is as it was before the failing step."""


class ClosedError(StrataError):
    """The store was closed and takes no more calls."""
