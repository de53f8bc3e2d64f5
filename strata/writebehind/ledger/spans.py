"""The spans that wrote what waits in a shard of the ledger, kept beside it, so that whoever persists links to them.

They are in a list of their own, not in the entries, nor in doorbells: an older release reads entries as it knows them,
and one ring stands for many writes, or is lost. A release that knows nothing of the list neither reads nor fills it,
and where nothing is traced there is none. It is a hint: what is lost of it costs a link.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from strata.errors import WITHOUT_L2, L2RefusedError
from strata.observe.tracing import MOST
from strata.protocol.entry import version_of
from strata.protocol.versions import text
from strata.writebehind.ledger.shard import Shard

if TYPE_CHECKING:
    from strata.writebehind.ledger.ledger import Ledger

PART = "spans"  # of a shard: a list of `<version> <span>`, the newest first
KEPT = 3600  # seconds after the last traced write


class WriterSpans:
    """Thread-safe: it keeps no state. A Redis that does not answer, or refuses, is as one without any spans."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def leave(self, written: Iterable[tuple[Shard, int, str]]) -> None:
        """Before a hand-off: which span has written which version, "" being none. The last `MOST` of a shard stay."""
        by_shard: dict[Shard, list[str]] = {}
        for shard, version, span in written:
            if span:
                by_shard.setdefault(shard, []).append(f"{text(version)} {span}")
        asked = [
            (shard, command)
            for shard, lines in by_shard.items()
            for command in (
                ("LPUSH", PART, *lines[-MOST:]),
                ("LTRIM", PART, 0, MOST - 1),
                ("EXPIRE", PART, KEPT),
            )
        ]
        if asked:
            with contextlib.suppress(*WITHOUT_L2):
                self._ledger.ask(asked)

    def of(self, shard: Shard, entries: Iterable[bytes]) -> list[str]:
        """Those that have written these entries, as far as they are known."""
        lines: list[bytes] | L2RefusedError = []
        with contextlib.suppress(*WITHOUT_L2):
            [lines] = self._ledger.ask([(shard, ("LRANGE", PART, 0, MOST - 1))])
        if isinstance(lines, L2RefusedError):
            return []
        wanted = {text(version_of(entry)) for entry in entries}
        known = (line.decode(errors="replace").partition(" ") for line in lines)
        return [span for version, _, span in known if version in wanted]
