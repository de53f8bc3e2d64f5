"""What goes on while a server is away, in words for the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from strata.bound import Bound

if TYPE_CHECKING:
    from strata.l2.client import RedisServer


def without_redis(schemas: Sequence[Bound], server: RedisServer, *, ledger: bool) -> str:
    """Without this Redis; `ledger`: it is the one of the ledger."""
    cached = [bound for bound in schemas if bound.l2 is not None and bound.l2.server is server]
    said = []
    if any(bound.l3 is not None for bound in cached):
        said.append("reads go on from PostgreSQL")
    if any(bound.l3 is None for bound in cached):
        said.append("what is kept nowhere else fails")
    if ledger and any(bound.deferred for bound in schemas):
        said.append("deferred writes are kept in memory")
    return "; ".join(said) or "reads go on from PostgreSQL"


def without_postgres(schemas: Sequence[Bound], name: str) -> str:
    """Without the PostgreSQL of this name."""
    if name == "replica":
        return "searches that it would answer fail"
    said = []
    if any(bound.l1.store is not None or bound.l2 is not None for bound in schemas if bound.l3 is not None):
        said.append("reads of what is cached go on")
    if any(bound.deferred for bound in schemas):
        said.append("deferred writes wait in the ledger")
    return "; ".join([*said, "everything else fails"])
