"""`touch`: a record that is there gets another life in the caches, and is not written.

In L2 one script does it, to whatever value stands there that is not newer: so a write or a deletion that comes
meanwhile is neither undone nor given a life that was meant for what it took the place of. Copies in L1, which may know
the life before, go; that of this process gets the new one, unless something has happened to the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from strata.bound import Bound
from strata.engine.context import ABSENT, Context
from strata.engine.modify import missing
from strata.engine.read import Reader
from strata.l1.claims import Claim
from strata.l2.values import Put
from strata.protocol.messages import MessageOp

if TYPE_CHECKING:
    from strata.l2.tier import L2Tier

RETRIES = 5  # of a touch that met something newer, or nothing; whoever writes all the time gives lives all the time


class Toucher:
    """Thread-safe: it keeps no state of its own."""

    def __init__(self, context: Context, reader: Reader) -> None:
        self._context = context
        self._reader = reader

    def touch(self, bound: Bound, id: Any, life: float | None) -> None:
        """Give the record a life of so many seconds, infinity being for ever, or None: that of its policies."""
        id, key_text = bound.plan.key_and_text(id)
        self._context.listen()
        began = self._context.clock.monotonic()
        own = self._context.pending(bound, id)
        if own is not None and own.newest and own.record is None:
            raise missing(bound, id)
        deferred = self._context.writebehind
        if own is not None and own.newest and deferred is not None:
            ends = None if life is None else began + life
            if deferred.touch(bound, id, ends):
                bound.l1.touch(Claim(id), life, began)
                return
        if bound.l2 is not None:
            self._in_l2(bound, bound.l2, id, key_text, life)
        elif not bound.l1.touch(Claim(id), life, began):
            self._find(bound, id, key_text)
            bound.l1.touch(Claim(id), life, began)

    def _in_l2(self, bound: Bound, l2: L2Tier, id: Any, key_text: str, life: float | None) -> None:
        context, announcer = self._context, self._context.announcer
        # Not signed: if the answer is lost, and the script is run later, this instance must hear of it as well.
        message = announcer.message(bound.name, key_text, MessageOp.INVALIDATE, signed=False)
        for _ in range(RETRIES):
            claim, began = Claim(id), context.clock.monotonic()
            try:
                bound.l1.claims.enter(claim)
                put = Put(key_text, context.stamp(), None, message, life=life)
                version, touched = l2.touch(announcer.channel, put)
                if touched:
                    if not bound.l1.touch(claim, life, began, version or 0):
                        bound.l1.forget(id)  # what was read before, and has come meanwhile
                    return
            except BaseException:
                bound.l1.forget(id)  # the outcome may be unknown
                raise
            finally:
                bound.l1.claims.release(claim)
            if version is not None:
                context.versions.observe(version)
            else:
                self._find(bound, id, key_text)
        bound.l1.forget(id)  # a commit is under way, or L2 takes nothing: what it gets next has the life of that

    def _find(self, bound: Bound, id: Any, key_text: str) -> None:
        """Bring the record to the caches. Raises `NotFoundError` where there is none."""
        if bound.l3 is None or self._reader.find(bound, id, key_text, bound.l2 is not None) is ABSENT:
            raise missing(bound, id)
