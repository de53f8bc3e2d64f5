"""Transactions: sets and deletes over several schemas, atomic in L3, in the caches only after the commit."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, overload

from strata.bound import Bound
from strata.engine.commit import Commit
from strata.engine.context import Context
from strata.engine.write import Writer
from strata.errors import ClosedError, ConstraintError, DecodeError, EncodeError, TxFailedError
from strata.schema import Key, Record, SchemaRef

T = TypeVar("T", bound=Record)


class Lookup(Protocol):
    """Finds a registered schema by name or class."""

    def __call__(self, schema: Any) -> Bound: ...


class Tx:
    """Collects operations; `commit` applies them, leaving the `with` block without an exception does so too.

    Records are checked and copied when they are given; `before_set` runs then. Not thread-safe: one transaction
    belongs to one caller. Schemas without L3 are applied after the commit.

    >>> store.tx().set(Player, "p1", Player("p1", "andrew")).delete("sessions", "s9").commit()
    """

    def __init__(self, lookup: Lookup, context: Context, writer: Writer, timeout: float | None) -> None:
        self._lookup = lookup
        self._context = context
        self._writer = writer
        self._timeout = timeout
        self._commit = Commit(context)
        self._others: list[tuple[Bound, Any, str, Any]] = []  # of schemas without L3
        self._told: list[tuple[Bound, Any]] = []
        self._over = False

    @overload
    def set(self, schema: type[T], id: Key, value: T) -> Self: ...
    @overload
    def set(self, schema: str, id: Key, value: Record) -> Self: ...
    def set(self, schema: SchemaRef[Any], id: Key, value: Any) -> Self:
        """Queue a record; nothing is sent yet, and the transaction is returned.

        Raises `EncodeError` or `MissingPrimaryKeyError` for a record or id that cannot be stored, `HookError` where
        `before_set` raised, `SchemaNotFoundError`, and `ClosedError` where the transaction is over.
        """
        self._open()
        bound = self._lookup(schema)
        id, key_text = bound.plan.key_and_text(id)
        self._queue(bound, id, key_text, self._writer.prepare(bound, id, value))
        return self

    def delete(self, schema: SchemaRef[Any], id: Key) -> Self:
        """Queue a deletion, and return the transaction; deleting what is not there is no error.

        Raises `EncodeError` or `MissingPrimaryKeyError` for an id that can be no key, `SchemaNotFoundError`, and
        `ClosedError` where the transaction is over.
        """
        self._open()
        bound = self._lookup(schema)
        self._queue(bound, *bound.plan.key_and_text(id), None)
        return self

    def commit(self) -> None:
        """Apply everything, once; in L3 all of it or nothing.

        Raises `TxFailedError` or `TxTimeoutError` where all was rolled back, `L3UnavailableError` whose
        `outcome_unknown` says if it may have been written, `L2UnavailableError` for schemas without L3, and
        `ClosedError` where the transaction, or the store, is over.
        """
        self._open()
        self._context.check_open()
        self._over = True
        self._context.listen()
        try:
            self._commit.run(self._timeout)
        except ConstraintError as error:
            raise TxFailedError(
                f"the transaction was rolled back: {error}", sqlstate=error.sqlstate, constraint=error.constraint
            ) from error
        except (EncodeError, DecodeError) as error:
            raise TxFailedError(f"the transaction was rolled back: {error}") from error
        for bound, id, key_text, record in self._others:
            self._writer.write(bound, id, key_text, record)
        for bound, record in self._told:
            self._tell(bound, record)

    def rollback(self) -> None:
        """Drop what was queued, of which nothing was sent; raises nothing, also where the transaction is over."""
        self._over = True
        self._commit = Commit(self._context)
        self._others.clear()
        self._told.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.rollback()
        elif not self._over:
            self.commit()

    def _awaits(self, schema: SchemaRef[Any]) -> bool:
        """Whether `set` of this schema calls a hook that is to be awaited. Raises `SchemaNotFoundError`."""
        return self._lookup(schema).hooks.before_set_awaited

    def _open(self) -> None:
        if self._over:
            raise ClosedError("the transaction is over; start another with tx()")

    def _queue(self, bound: Bound, id: Any, key_text: str, record: Any) -> None:
        if bound.l3 is None:
            self._others.append((bound, id, key_text, record))
        else:
            self._commit.add(bound, id, key_text, record)
        self._told.append((bound, record))

    def _tell(self, bound: Bound, record: Any) -> None:
        if record is None:
            bound.counters.deletes += 1
        else:
            bound.counters.sets += 1
            bound.hooks.after_set(bound.plan.copy(record))
