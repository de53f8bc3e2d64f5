"""Keys of another type than Strata keeps under their names: left by somebody else, they would hold up for ever what is
kept there. They are renamed, to `<key>:stray`, so that whoever put them there finds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from strata.l2.script import load

if TYPE_CHECKING:
    from strata.l2.client import RedisServer

_stray = load("strata.l2.scripts", "stray")


def put_aside(server: RedisServer, kinds: Mapping[str, str]) -> dict[str, str]:
    """Rename those of the keys, which share one slot of a Cluster, that are not of the type given (as TYPE names it);
    returns them with the type that they have. Raises `L2UnavailableError`, `L2RefusedError`."""
    found = server.run(_stray, list(kinds), list(kinds.values()))
    return {key: kind.decode() for key, kind in zip(kinds, found, strict=True) if kind}
