"""`increment`: numbers are added to, and none of it is lost or counted twice.

Of what is written behind only what is added is kept, and what several processes add meets on its way to the row
(`strata.protocol.added`). Otherwise the row is locked and added to, in one step against every other writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.load import FAILED
from strata.engine.modify import RETRIES, Modifier, missing
from strata.engine.read import Reader
from strata.engine.write import Writer, check_kind
from strata.errors import ConflictError, EncodeError, StrataError
from strata.l3.diagnosis import NoRowError
from strata.model.numbers import deltas_of
from strata.writebehind.dirty.slot import Addition

if TYPE_CHECKING:
    from strata.writebehind.service import WriteBehind


OR_DEFAULT = ", or give increment a default"


class Meanwhile(StrataError):
    """Another has made the row that there was not; it ends the transaction, and gets no further than this module."""


class Incrementer:
    """Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, reader: Reader, writer: Writer, modifier: Modifier) -> None:
        self._context = context
        self._reader = reader
        self._writer = writer
        self._modifier = modifier

    def increment(self, bound: Bound, id: Any, given: Mapping[str, Any], default: Any) -> Any:
        """Add to columns of a record; returns it as it is then, as far as that is known here."""
        plan = bound.plan
        id, key_text = plan.key_and_text(id)
        deltas = deltas_of(plan, given)
        made = None if default is None else self._default(bound, id, default)
        if bound.deferred and self._context.writebehind is not None:
            return self._add(bound, self._context.writebehind, id, key_text, deltas, made)
        for _ in range(RETRIES):
            try:
                return self._modifier.decided(bound, id, key_text, _Increment(bound, id, deltas, made, self._writer))
            except Meanwhile:
                pass
        raise ConflictError(
            f"a record of schema {bound.name!r} was made and deleted by others {RETRIES} times meanwhile; try again",
            schema=bound.name,
            key=id,
        )

    def _default(self, bound: Bound, id: Any, default: Any) -> Any:
        check_kind(bound, default)
        unloaded = bound.plan.unloaded(default)
        if unloaded:
            raise EncodeError(
                f"{bound.plan.model.__name__}.{unloaded[0]} of the default is UNLOADED; a record that is to be made "
                "must have every field"
            )
        return self._writer.prepare(bound, id, default)

    def _add(
        self, bound: Bound, deferred: WriteBehind, id: Any, key_text: str, deltas: dict[str, Any], made: Any
    ) -> Any:
        writer, part = self._writer, None
        self._context.listen()
        self._context.ready()
        if not bound.hooks.before_set_given:
            part = writer.prepare_part(bound, id, {}) if bound.plan.stamped else None
            added = deferred.add_on(bound, id, Addition(deltas, part, made))
            if added is not None:
                return self._told(bound, id, key_text, part, added.known)
        if part is None:
            part = writer.prepare_part(bound, id, {})
        seen, known = deferred.tallies.seen((bound.name, id)), self._known(bound, deferred, id, key_text)
        if known is ABSENT and made is None:
            raise missing(bound, id, OR_DEFAULT)
        known = made if known is ABSENT else known
        try:
            found = deferred.add(bound, id, key_text, Addition(deltas, part, made, known, seen))
        except NoRowError:
            raise missing(bound, id, OR_DEFAULT) from None
        return self._told(bound, id, key_text, part, found)

    def _told(self, bound: Bound, id: Any, key_text: str, part: Any, found: Any) -> Any:
        """What the caller, and a hook, are told of the record: as it was found, or as far as it can be."""
        if found is None:
            found = self._stored(bound, id, key_text, part)
        bound.counters.sets += 1
        bound.hooks.after_set(found)
        return found

    def _stored(self, bound: Bound, id: Any, key_text: str, part: Any) -> Any:
        """The record with what was just added, where it was known a moment before, and is not any more; the part of it
        that was written where no tier can say more."""
        try:
            record = self._reader.find(bound, id, key_text, False)
        except FAILED:
            record = ABSENT
        if record is not ABSENT:
            return record
        return self._writer.prepare_part(bound, id, {}) if part is None else part

    def _known(self, bound: Bound, deferred: WriteBehind, id: Any, key_text: str) -> Any:
        """The record as a read would show it; ABSENT where there is none, None where that is not known, or L1 or the
        buffer has it, to which it is added there."""
        if bound.l1.lookup(id, self._context.clock.monotonic()) is not None or deferred.tallies.knows((bound.name, id)):
            return None
        try:
            return self._reader.find(bound, id, key_text, False)
        except FAILED:
            return None  # whoever brings it to L3 finds out


class _Increment:
    """What is added to a row, or to a default in its place."""

    changes = True

    def __init__(self, bound: Bound, id: Any, deltas: Mapping[str, Any], made: Any, writer: Writer) -> None:
        self.inserts = False
        self._bound = bound
        self._id = id
        self._deltas = deltas
        self._made = made
        self._writer = writer

    def __call__(self, held: Any, /) -> Any:
        bound, plan = self._bound, self._bound.plan
        if self.inserts and held is not ABSENT:
            raise Meanwhile("there is a row by now")
        if held is ABSENT and self._made is None:
            raise missing(bound, self._id, OR_DEFAULT)
        record = plan.counted(self._made if held is ABSENT else held, self._deltas)
        if record is None:
            raise EncodeError(
                f"what was added to {', '.join(self._deltas)} of schema {bound.name!r} makes it more than BIGINT can "
                "hold; nothing was added"
            )
        self.inserts = held is ABSENT
        if held is ABSENT:
            return plan.check(record)
        fields = {name: getattr(record, name) for name in self._deltas}
        return self._writer.prepare(bound, self._id, plan.part({**plan.key.given(self._id), **fields}))
