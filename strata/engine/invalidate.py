"""Invalidation: of keys, and by markers of a whole schema or of a tag. What is pending stays, and so does the lowest
tier of a schema: only the results of memoized functions, which are made again, go from every tier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from strata.bound import Bound
from strata.engine.context import Context
from strata.engine.many import listed
from strata.engine.unfinished import Again
from strata.errors import WITHOUT_L2, EncodeError
from strata.protocol.markers import TagsError, checked_tag
from strata.protocol.messages import MessageOp


class Invalidator:
    """Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def one(self, bound: Bound, id: Any) -> None:
        """Drop a record from L1 and L2 of every instance."""
        self._keys(bound, [id])

    def many(self, bound: Bound, ids: Iterable[Any]) -> None:
        """As `one`, for many records."""
        self._keys(bound, listed(ids))

    def committed(self, bound: Bound, ids: Iterable[Any] | None) -> None:
        """As `many`, or as `all` where `ids` is None, for rows of L3 that are committed, whose writer must not fail any
        more: what Redis cannot be told it is told as soon as it can be."""
        try:
            self.all(bound) if ids is None else self._keys(bound, ids, committed=True)
        except WITHOUT_L2:
            again = {"": partial(self._all, bound)} if ids is None else self._again(bound, _by_text(bound, ids))
            for key_text, call in again.items():
                self._context.unfinished.undecided(bound, key_text, call)

    def _keys(self, bound: Bound, ids: Iterable[Any], *, committed: bool = False) -> None:
        context = self._context
        keys = _by_text(bound, ids)
        context.listen()
        if not keys:
            return
        if bound.l3 is not None:
            context.drop(bound, keys)
            if committed and bound.schema.l3 is not None and bound.schema.l3.watch:
                return  # of others, which may be under way, the triggers tell
            again = self._again(bound, keys)
            context.unfinished.note(bound, {(bound.name, key_text): call for key_text, call in again.items()})
        elif bound.l2 is not None:
            bound.l1.forget_many(list(keys.values()))
            said = [(key_text, MessageOp.INVALIDATE, None) for key_text in keys]
            context.publish(*context.messages(bound, said).values())

    def _again(self, bound: Bound, keys: Mapping[str, Any]) -> dict[str, Again]:
        return {key_text: partial(self._context.drop, bound, {key_text: id}) for key_text, id in keys.items()}

    def all(self, bound: Bound) -> None:
        """Drop all of a schema from L1 and L2 of every instance, by one marker."""
        self._context.listen()
        self._all(bound)
        if bound.l3 is not None:
            self._context.unfinished.note(bound, {(bound.name, ""): partial(self._all, bound)})

    def _all(self, bound: Bound) -> None:
        if bound.remade or (bound.l3 is not None and bound.l2 is not None):
            self._context.ready()
            self._context.marking.schema(bound)
        elif bound.heard_by_bus:
            bound.l1.forget_all()
            self._context.publish(self._context.message(bound, "", MessageOp.CLEAR))

    def tag(self, tag: Any, bounds: Sequence[Bound]) -> None:
        """Drop what has a tag from L1 and L2 of every instance, in all schemas, by one marker."""
        try:
            tag = checked_tag(tag)
        except TagsError as error:
            raise EncodeError(f"tags {error}") from None
        marking = self._context.marking
        self._context.listen()
        self._context.ready()
        marking.tag(tag)
        tagged = [bound for bound in bounds if bound.tagger is not None and bound.l3 is not None]
        if tagged:  # one primary serves all schemas
            again = {("", tag): partial(marking.tag, tag)}
            self._context.unfinished.note(tagged[0], again, partial(self._each, tagged))

    def _each(self, bounds: Sequence[Bound]) -> None:
        for bound in bounds:
            self._all(bound)


def _by_text(bound: Bound, ids: Iterable[Any]) -> dict[str, Any]:
    return {key_text: id for id, key_text in map(bound.plan.key_and_text, ids)}
