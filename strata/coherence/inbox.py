"""What an instance does with the messages of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from strata.bound import Bound
from strata.coherence.marking import Marking
from strata.errors import StrataError
from strata.protocol.messages import Message, MessageOp, parse
from strata.protocol.versions import NODE_BITS, VersionClock

# No text inside JSON has quotes that are not escaped, so these are found where they are meant only.
_SET, _DELETE, _INTENT = (f'"op":"{op}"'.encode() for op in (MessageOp.SET, MessageOp.DELETE, MessageOp.INTENT))


class Deferred(Protocol):
    """The dirty buffer, as far as messages concern it."""

    def supersede(self, bound: Bound, key: Any, version: int) -> None: ...

    def purged(self, bound: Bound, key: Any, version: int) -> None: ...


class Inbox:
    """Applies messages to L1 and the dirty buffer. Called by the bus's thread only, which alone writes the counters and
    `database`; the child of a fork renames it before that thread starts."""

    def __init__(
        self,
        schemas: Mapping[str, Bound],
        source: str,
        versions: VersionClock,
        deferred: Callable[[], Deferred | None],
        marking: Marking,
    ) -> None:
        self._schemas = schemas
        self._marking = marking
        self.rename(source)
        self._versions = versions
        self._deferred = deferred
        self.database = 0
        self.messages = 0
        self.unreadable = 0

    def rename(self, source: str) -> None:
        """This instance is called so from now on."""
        self.source = source
        self._mine = f'"src":"{source}"'.encode()

    def handle(self, data: bytes) -> None:
        """One message; what cannot be read, or names what is not registered here, is counted or ignored."""
        self.messages += 1
        if self._mine in data and (_SET in data or _DELETE in data or _INTENT in data):
            return  # the writer has seen to its own L1, with the claim that it took before
        message = parse(data)
        if message is None:
            self.unreadable += 1
            return
        if message.db != self.database and message.src is not None:
            return
        if message.op == MessageOp.TAG or (message.op == MessageOp.CLEAR and message.v is not None):
            self._marked(message)
            return
        bound = self._schemas.get(message.schema)
        if bound is None or not bound.heard_by_bus:
            return  # L1 is that schema's lowest tier: nobody else can know better
        if message.op == MessageOp.CLEAR:
            bound.l1.clear()
            return
        told = []
        for key_text, version in message.each():
            try:
                told.append((bound.plan.parse_key(key_text), version))
            except (StrataError, ValueError):
                self.unreadable += 1
        self._apply(bound, message.op, told)

    def clear(self) -> None:
        """Messages may have been missed: nothing in L1 can be trusted."""
        for bound in list(self._schemas.values()):
            if bound.heard_by_bus:
                bound.l1.clear()

    def _marked(self, message: Message) -> None:
        schema, tag = ("", message.id) if message.op == MessageOp.TAG else (message.schema, "")
        version = message.version
        if version is not None and self._versions.believed(version):
            self._versions.observe(version)
            self._marking.heard(schema, tag, version >> NODE_BITS)
        else:
            self.unreadable += message.v is not None
            self._marking.forget(schema, tag)

    def _apply(self, bound: Bound, op: str, told: Sequence[tuple[Any, int | None]]) -> None:
        """What was told of some keys, each with its version, None where it has none."""
        heard: list[tuple[Any, int]] = []
        for key, version in told:
            if version is not None and self._versions.believed(version):
                heard.append((key, version))
            else:
                # One of the far future may cost what is cached, as a message without a version does, and never a write.
                self.unreadable += version is not None
                bound.l1.forget(key)
        if heard:
            self._versions.observe(max(version for _, version in heard))
            self._hear(bound, op, heard)

    def _hear(self, bound: Bound, op: str, heard: Sequence[tuple[Any, int]]) -> None:
        deferred = self._deferred() if bound.deferred else None
        if op == MessageOp.PURGE:
            for key, version in heard:
                bound.l1.forget_up_to(key, version)
                if deferred is not None:
                    deferred.purged(bound, key, version)
        elif op in (MessageOp.SET, MessageOp.DELETE):
            # In this order: a write of this process then finds itself overtaken, or its L1 entry goes.
            if deferred is not None:
                for key, version in heard:
                    deferred.supersede(bound, key, version)
            bound.l1.forget_each(heard)
        else:
            bound.l1.forget_many([key for key, _ in heard])
