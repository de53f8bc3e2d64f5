"""Redis: there, recent enough, on time, and not about to forget what was not written yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from strata.cli.doctor.clocks import clock
from strata.cli.doctor.finding import Finding, FindingState, fail, good, refused, warn
from strata.cli.doctor.rights import lacking
from strata.cli.inside import ownership, redis_servers
from strata.coherence.ownership import refusal
from strata.datastore import DataStore
from strata.errors import StrataError
from strata.l2.client import RedisServer

OLDEST = (6, 2)
KEEPS = ("noeviction", "volatile-lru")  # policies that evict neither ledger nor queue


def redis(store: DataStore) -> Iterator[Finding]:
    """The findings about each Redis of the store."""
    for what, (server, ledger) in redis_servers(store).items():
        server.guard(None)  # it is looked at whosever it is, and not claimed
        server.breaker.reset()  # the cause is told, not that there was one a moment ago
        try:
            yield from lacking(what, server, server.keys.channel(store.config.invalidation_channel))
            yield (owned := _owner(store, what, server))
            if owned.state is FindingState.FAIL:
                continue
            facts = _facts(server)
            yield _version(what, facts)
            yield clock(what, lambda server=server: server.time_ms() / 1000)  # type: ignore[misc]
            yield from _forgetting(what, facts, ledger=ledger)
        except StrataError as error:
            yield refused(what, error)


def _owner(store: DataStore, what: str, server: RedisServer) -> Finding:
    name = f"namespace {server.keys.namespace!r}" if server.keys.namespace else "no namespace"
    what, mine = f"owner of {what}", ownership(store)
    if mine is None:
        return good(what, f"{name}; nobody, since no schema has an L3")
    owner = mine.owner(server)
    said = f"{name}; {owner or 'nobody yet'}"
    try:
        own = mine.own()
    except StrataError:
        return warn(what, said, "see to PostgreSQL first, to know whether that is the store's database")
    if owner is None or owner == own:
        return good(what, said)
    mine.guard(server)  # what is another's is not to be reported as the store's
    return fail(what, refusal(server, owner, own), "set namespace; or, where the data was moved, `strata adopt`")


def _version(what: str, facts: Mapping[str, Any]) -> Finding:
    # Valkey says which Redis it stands for, and its own version beside it.
    shown = f"Valkey {facts['valkey_version']}" if "valkey_version" in facts else f"Redis {facts['redis_version']}"
    numbers = tuple(int(part) for part in str(facts["redis_version"]).split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        return fail(what, shown, "use Redis 6.2 or later, or Valkey")
    return good(what, shown)


def _forgetting(what: str, facts: Mapping[str, Any], *, ledger: bool) -> Iterator[Finding]:
    policy, limit = str(facts.get("maxmemory_policy", "unknown")), int(facts.get("maxmemory", 0))
    eviction, saving = f"eviction of {what}", f"persistence of {what}"
    said = f"maxmemory-policy {policy}, maxmemory {f'{limit / 2**20:,.0f} MiB' if limit else 'unlimited'}"
    if not ledger:
        yield (
            warn(eviction, said, "set volatile-lru: a full cache should forget, not refuse")
            if limit and policy == "noeviction"
            else good(eviction, said)
        )
        return
    if policy in KEEPS:
        yield good(eviction, said)
    else:
        yield fail(eviction, said, "set noeviction: this policy can evict what was not written yet")
    if int(facts.get("aof_enabled", 0)):
        yield good(saving, "appendonly yes")
    else:
        yield warn(
            saving, "appendonly no", "set appendonly yes: a restart forgets what processes that ended handed off"
        )


def _facts(server: RedisServer) -> Mapping[str, Any]:
    text = server.execute("INFO").decode(errors="replace")  # of a Cluster, any node's
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
