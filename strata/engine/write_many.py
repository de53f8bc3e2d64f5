"""`set_many` and `delete_many`: synchronous in every mode but for deletions of write-behind schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from strata.bound import Bound
from strata.engine.batch import Batch
from strata.engine.context import Context
from strata.engine.many import listed
from strata.engine.write import Writer
from strata.errors import EncodeError


class ManyWriter:
    """Writes records by their keys. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, writer: Writer) -> None:
        self._context = context
        self._writer = writer

    def set_many(self, bound: Bound, values: Mapping[Any, Any]) -> dict[Any, Any]:
        """Store the records, all or nothing in L3; returns them as stored, by id."""
        if not isinstance(values, Mapping):
            raise EncodeError(f"set_many takes a mapping of ids to records, not a {type(values).__name__}")
        prepared = {id: self._writer.prepare(bound, id, value) for id, value in values.items()}
        if bound.table is None:
            stored = {
                id: self._writer.write(bound, id, bound.plan.key_text(id), record) for id, record in prepared.items()
            }
        else:
            changes = self._commit(bound, {bound.plan.key_text(id): (id, record) for id, record in prepared.items()})
            stored = {change.id: change.record for change in changes}
        bound.counters.sets += len(stored)
        for record in stored.values():
            bound.hooks.after_set(record)
        return stored

    def delete_many(self, bound: Bound, ids: Iterable[Any]) -> None:
        """Remove the records; those of write-through schemas in one transaction."""
        texts = {bound.plan.key_text(id): id for id in listed(ids)}
        if bound.deferred or bound.table is None:
            for id in texts.values():
                self._writer.delete(bound, id)
            return
        self._commit(bound, {key_text: (id, None) for key_text, id in texts.items()})
        bound.counters.deletes += len(texts)

    def _commit(self, bound: Bound, changes: Mapping[str, tuple[Any, Any]]) -> Iterable[Any]:
        self._context.listen()
        batch = Batch(self._context)
        for key_text, (id, record) in changes.items():
            batch.add(bound, id, key_text, record)
        batch.commit()
        return batch.parts[bound.name].changes.values() if changes else ()
