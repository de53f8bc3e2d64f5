"""`set_many` and `delete_many`: synchronous in every mode but for deletions of write-behind schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from strata import waits
from strata.bound import Bound
from strata.engine.commit import Commit
from strata.engine.context import Context
from strata.engine.many import listed
from strata.engine.write import Prepared, Writer
from strata.errors import EncodeError


class ManyWriter:
    """Writes records by their keys. Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, writer: Writer) -> None:
        self._context = context
        self._writer = writer

    def set_many(self, bound: Bound, values: Mapping[Any, Any], life: float | None = None) -> dict[Any, Any]:
        """Store the records, all or nothing in L3, with lives of their own where one is given; returns them as stored,
        by id."""
        if not isinstance(values, Mapping):
            raise EncodeError(f"set_many takes a mapping of ids to records, not a {type(values).__name__}")
        prepare, named = self._writer.prepared, bound.plan.key_and_text
        keyed = [(*named(id), value) for id, value in waits.in_turns(values.items())]
        prepared = {key_text: prepare(bound, id, value) for id, key_text, value in waits.in_turns(keyed)}
        self._context.listen()
        if bound.l3 is None:
            self._writer.keep(bound, prepared, life)
            stored = {change.id: change.record for change in prepared.values()}
        else:
            stored = {change.id: change.record for change in self._commit(bound, prepared, life)}
        bound.counters.sets += len(stored)
        for record in waits.in_turns(stored.values()):
            bound.hooks.after_set(record)
        return stored

    def delete_many(self, bound: Bound, ids: Iterable[Any]) -> None:
        """Remove the records; those of write-through schemas in one transaction."""
        named = bound.plan.key_and_text
        gone = {key_text: Prepared(id, None) for id, key_text in map(named, waits.in_turns(listed(ids)))}
        self._context.listen()
        if bound.deferred:
            for key_text, change in waits.in_turns(gone.items()):
                self._writer.write(bound, change.id, key_text, None)
        elif bound.l3 is None:
            self._writer.keep(bound, gone)
        else:
            self._commit(bound, gone)
        bound.counters.deletes += len(gone)

    def _commit(self, bound: Bound, changes: Mapping[str, Prepared], life: float | None = None) -> Iterable[Any]:
        commit = Commit(self._context)
        for key_text, change in waits.in_turns(changes.items()):
            commit.add(bound, change.id, key_text, change.record, life)
        commit.run()
        return commit.parts[bound.name].changes.values() if changes else ()
