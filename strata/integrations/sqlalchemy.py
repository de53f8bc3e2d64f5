"""Records of rows that SQLAlchemy's ORM changes leave the caches once that is committed (extra `sqlalchemy`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, sessionmaker
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from strata.aio.collection import AsyncCollection
from strata.aio.here import here
from strata.collection import Collection
from strata.errors import InvalidConfigError, shown
from strata.exports import export

__all__ = ["invalidate_after_commit"]

EVERY = object()  # among the ids of a model's records: all of them


def invalidate_after_commit(
    sessions: Any, collections: Mapping[type, Collection[Any, Any] | AsyncCollection[Any, Any]]
) -> None:
    """Drop the records of rows that these sessions change from the caches of every process, after the commit.

    `sessions` are a `sessionmaker`, a `scoped_session`, an `async_sessionmaker`, or a class of sessions; `collections`
    say by mapped class whose rows are whose records. Objects that are added, changed and deleted count by their keys;
    statements, such as `update(Article).where(...)`, drop all records of their table. After a rollback nothing is
    dropped. A commit does not fail for want of Redis, which is then told as soon as it answers.

    With `watch=True` or without it. The triggers of that see more: raw SQL, `bulk_save_objects` and its like, cascades
    of the database, what other programs change, and what a process did that was killed right after its commit, are not
    seen here. They tell some milliseconds after the commit; this has the process that commits read its change at once.

    Raises `InvalidConfigError` for what are no sessions, for what is no mapped class, and where the key of the record
    is not among the primary key of the mapped class; where it is of another type, a flush raises `EncodeError`, before
    the commit. Call it once, in one thread; the sessions may be used in any.

    ::

        invalidate_after_commit(Session, {ArticleRow: articles})
    """
    for model, records in collections.items():
        mapper: Any = sqlalchemy.inspect(model, raiseerr=False)
        if mapper is None:
            raise InvalidConfigError(f"{shown(model)} is no mapped class of SQLAlchemy's")
        if isinstance(records, Collection | AsyncCollection):  # others find them where an application is
            _id(mapper, dict.fromkeys(mapper.primary_key, 0), records)
    changes = _Changes(
        {
            model: records.sync if isinstance(records, AsyncCollection) else records
            for model, records in collections.items()
        }
    )
    target = _synchronous(sessions)
    try:
        event.listen(target, "after_flush", changes.flushed)
        event.listen(target, "do_orm_execute", changes.executed)
        event.listen(target, "after_commit", changes.committed)
        event.listen(target, "after_transaction_end", changes.ended)
    except SQLAlchemyError as error:
        raise InvalidConfigError(f"{shown(sessions)} makes no sessions of SQLAlchemy's; give a sessionmaker") from error


def _synchronous(sessions: Any) -> Any:
    """What makes the sessions that have events: those inside asynchronous ones."""
    if not isinstance(sessions, async_sessionmaker):
        return sessions
    if "sync_session_class" not in sessions.kw:
        sessions.configure(sync_session_class=sessionmaker(class_=sessions.class_.sync_session_class))
    return sessions.kw["sync_session_class"]


class _Changes:
    """What a session has changed and not committed is in its `info`, by mapped class, and is used by nobody else."""

    def __init__(self, collections: Mapping[type, Collection[Any, Any]]) -> None:
        self._collections = collections

    def flushed(self, session: Session, context: object) -> None:
        changed = (row for row in session.dirty if session.is_modified(row))
        for row in chain(session.new, changed, session.deleted):
            for model, records in self._collections.items():
                if isinstance(row, model):
                    self._of(session)[model].update(_ids(row, records))

    def executed(self, state: ORMExecuteState) -> None:
        if not (state.is_insert or state.is_update or state.is_delete):
            return
        table = getattr(state.statement, "table", None)
        for model in self._collections:
            if table in sqlalchemy.inspect(model).tables:
                self._of(state.session)[model].add(EVERY)

    def committed(self, session: Session) -> None:
        if session.in_nested_transaction():
            return  # a savepoint; what was rolled back to one is dropped as well in the end, which costs a read
        for model, ids in self._of(session).items():
            records = self._collections[model]
            tell = partial(records._store._committed, records.name, None if EVERY in ids else ids)
            await_only(here().call(tell)) if in_greenlet() else tell()

    def ended(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            session.info.pop(self, None)

    def _of(self, session: Session) -> dict[type, set[Any]]:
        found: dict[type, set[Any]] = session.info.setdefault(self, defaultdict(set))
        return found


def _ids(row: Any, records: Collection[Any, Any]) -> Iterator[Any]:
    """The id of the row's record; where the key was changed, as it was and as it is."""
    state, plan = sqlalchemy.inspect(row), records._hot.bound.plan
    columns = state.mapper.primary_key
    now = tuple(state.dict.get(state.mapper.get_property_by_column(column).key) for column in columns)
    for identity in {state.identity, now}:
        if identity is None or None in identity:
            continue  # not in the table before, or not loaded, and so not changed
        id = _id(state.mapper, dict(zip(columns, identity, strict=True)), records)
        yield plan.key_and_text(id)[0]


def _id(mapper: Any, identity: Mapping[Any, Any], records: Any) -> Any:
    """The id of a record, among the columns of a row's primary key."""
    key = records._hot.bound.plan.key
    id = key.within({column.name: part for column, part in identity.items()})
    if id is None:
        names = ", ".join(column.name for column in identity)
        raise InvalidConfigError(
            f"the key of {records.name!r} is {key.spelled}, that of {mapper.class_.__name__} is {names}"
        )
    return id


__dir__ = export(globals())
