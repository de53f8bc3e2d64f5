"""How markers are set, heard of, and told again (`strata.protocol.markers` says what they are).

Redis has them in two sorted sets, of tags and of schemas, and every process in memory: it loads them once its
subscription stands, and hears of new ones over the bus. So a read of L2 judges what it finds without another round
trip. A process that is not sure of its bus asks Redis for those that it has not heard of, once a second at most.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from strata import waits
from strata.bound import Bound
from strata.errors import L2UnavailableError, StrataError
from strata.l1.trust import BUS_GRACE, Trust
from strata.l2.script import load
from strata.protocol.markers import MOST, Markers
from strata.protocol.messages import Announcer, MessageOp
from strata.protocol.versions import NODE_BITS, VersionClock
from strata.waits.clock import Clock

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

PAGE = 5_000  # markers that are read in one command
TOGETHER = 250  # markers that are told again in one command
RETRIES = 20  # of setting a marker that another process was quicker to set one above
LOOK = 1.0  # seconds from one look at what Redis has to the next

_mark = load("strata.l2.scripts", "set_markers")
_markers = load("strata.l2.scripts", "read_markers")


class Marking:
    """Thread-safe: `_asked` and `_looked` are monotonic times, each written by any thread, twice being harmless.
    `_whole`, whether all was heard of that was set before the bus was heard, is cleared by the bus's thread, and set by
    any, after what it stands for. `server` is None without Redis. After fork: `after_fork`."""

    def __init__(
        self,
        server: RedisServer | None,
        schemas: Mapping[str, Bound],
        announcer: Announcer,
        versions: VersionClock,
        trust: Trust,
        clock: Clock,
    ) -> None:
        self.markers = Markers()
        self.markers.source = self
        self._server = server
        self._schemas = schemas
        self._announcer = announcer
        self._versions = versions
        self._trust = trust
        self._clock = clock
        self._asked = self._looked = -math.inf
        self._whole = False

    def after_fork(self) -> None:
        """In the child: not sure of anything yet."""
        self.markers.after_fork()
        self._asked = self._looked = -math.inf
        self._whole = False

    # -- setting ------------------------------------------------------------------------------------------------

    def tag(self, tag: str) -> None:
        """What has the tag is outdated, in every process. Raises `L2UnavailableError`."""
        self._set("", tag, MessageOp.TAG)

    def schema(self, bound: Bound) -> None:
        """All of the schema is outdated, in every process. Raises `L2UnavailableError`."""
        self._set(bound.name, "", MessageOp.CLEAR)

    def _set(self, schema: str, tag: str, op: MessageOp) -> None:
        number = self._versions.stamp() >> NODE_BITS
        if self._server is not None:
            try:
                number = self._set_there(self._server, schema, tag, op, number)
            except BaseException:
                self.forget(schema, tag)  # it may have been set
                raise
        self.heard(schema, tag, number)

    def _set_there(self, server: RedisServer, schema: str, tag: str, op: MessageOp, number: int) -> int:
        for _ in range(RETRIES):
            message = self._announcer.message(schema, tag, op, number << NODE_BITS)
            args = [self._announcer.channel, MOST, 0, schema, tag, number, message]
            last = server.run(_mark, self._keys(server), args)
            if not last:
                return number
            number = int(last) + 1 + waits.chance().randrange(1000)  # of several who try again one only is the highest
        raise L2UnavailableError(
            f"a marker was overtaken {RETRIES} times by those of other processes; check the clocks with `strata doctor`"
        )

    # -- hearing ------------------------------------------------------------------------------------------------

    def heard(self, schema: str, tag: str, number: int) -> None:
        """A marker was set, here or elsewhere: L1 drops what is older."""
        now = self._clock.monotonic()
        if self.markers.schema(schema, number) if schema else self.markers.tag(tag, number, now):
            self.forget(schema, tag)

    def forget(self, schema: str, tag: str) -> None:
        """Drop what L1 has of a schema, or of a tag."""
        for bound in list(self._schemas.values()):
            if bound.name == schema:
                _forget_copies(bound)
            elif not schema:
                bound.l1.forget_tag(tag)

    def catch_up(self) -> None:
        """Hear of what was missed; and tell again what Redis has lost. Raises `L2UnavailableError`."""
        server = self._server
        if server is None:
            return
        began, known = self._clock.monotonic(), self.markers.heard
        above, births = known, int(self._tagged or known > 0)
        while True:
            tags, schemas, count, *highest = server.run(_markers, self._keys(server), [above, PAGE, births])
            for name, number in self._pairs(schemas):
                if name:
                    self.heard(name, "", number)
                elif self.markers.raise_floor(number):
                    self._forget_all()
            for tag, number in self._pairs(tags):
                self.heard("", tag, number)
                above = number
            if len(tags) != 2 * PAGE:
                break
        self._asked, self._whole = began, True
        there = max((number for pair in highest for _, number in self._pairs(pair)), default=0)
        if known > there or count <= len(self.markers.schemas):
            self._tell(server, self.markers.after(0))

    def _forget_all(self) -> None:
        """Redis has lost markers. What was written since then is no more than what was before, to others, until it is
        known to all that they are lost; so it must be no more here."""
        for bound in list(self._schemas.values()):
            _forget_copies(bound)

    def begin(self) -> None:
        """The bus is heard from now on. What was missed before is asked for now, or else by whoever reads L2."""
        self._whole = False
        with contextlib.suppress(StrataError):
            self.catch_up()

    def look(self) -> None:
        """With a heartbeat, about once a second: whether Redis still has what it had. Raises `L2UnavailableError`."""
        now = self._clock.monotonic()
        if now >= self._looked + LOOK and (self._tagged or self.markers.heard):
            self._looked = now
            self.catch_up()

    def renew(self, within: float = BUS_GRACE) -> None:
        """Hear of what was missed, unless there is nothing, or so many seconds ago there was nothing. Raises
        `L2UnavailableError`."""
        now = self._clock.monotonic()
        if not (self._whole and self._trust.sure(now)) and now >= self._asked + within:
            self.catch_up()

    # -- telling again ------------------------------------------------------------------------------------------

    def tell_again(self, since: float) -> None:
        """A Redis that took another's place may lack what was set since then, a monotonic time. Raises
        `L2UnavailableError`."""
        if self._server is not None and self.markers.heard:
            age = int((self._clock.monotonic() - since) * 1_000_000)
            self._tell(self._server, self.markers.after((self._versions.stamp() >> NODE_BITS) - age))

    def _tell(self, server: RedisServer, markers: list[tuple[str, str, int]]) -> None:
        for start in range(0, len(markers), TOGETHER):
            args: list[object] = [self._announcer.channel, MOST, 1]
            for schema, tag, number in markers[start : start + TOGETHER]:
                op = MessageOp.CLEAR if schema else MessageOp.TAG
                message = self._announcer.message(schema, tag, op, number << NODE_BITS)
                args += [schema, tag, number, message]
            server.run(_mark, self._keys(server), args)

    @property
    def _tagged(self) -> bool:
        return any(bound.tagger is not None for bound in list(self._schemas.values()))

    @staticmethod
    def _keys(server: RedisServer) -> list[str]:
        return [server.keys.own("markers", "tags"), server.keys.own("markers", "schemas")]

    def _pairs(self, answer: list[bytes]) -> Iterable[tuple[str, int]]:
        """Members with their numbers, but for what is nobody's: no text, or of the far future."""
        for member, score in zip(answer[::2], answer[1::2], strict=True):
            with contextlib.suppress(UnicodeDecodeError, ValueError, OverflowError):
                number = int(float(score))
                if self._versions.believed(number << NODE_BITS):
                    yield member.decode(), number


def _forget_copies(bound: Bound) -> None:
    if bound.heard_by_bus or bound.remade:
        bound.l1.forget_all()
