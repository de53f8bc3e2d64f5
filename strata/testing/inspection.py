"""`inspect`: a look behind a store, for Strata's own tests, and for whoever has to find out what a store is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from strata import DataStore, InvalidConfigError
from strata._wiring import Wiring
from strata.aio.store import AsyncDataStore, plain
from strata.bound import Bound
from strata.coherence.bus import Bus
from strata.coherence.inbox import Inbox
from strata.coherence.outside import Outside
from strata.coherence.ownership import Ownership
from strata.coherence.repairs import Repairs
from strata.engine.background import Background
from strata.engine.context import Context
from strata.engine.unfinished import Unfinished
from strata.l1.sweeper import Sweeper
from strata.l2.client import RedisServer
from strata.l3.listener import Listener
from strata.l3.pool import Database
from strata.maintenance.housekeeping import Housekeeping
from strata.observe.feed import Feed
from strata.observe.log import SafeLogger
from strata.protocol.markers import Markers
from strata.protocol.versions import VersionClock
from strata.runtime.breaker import Breaker
from strata.runtime.daemon import Daemon
from strata.writebehind.dirty.buffer import DirtyBuffer
from strata.writebehind.dirty.journal import Journal
from strata.writebehind.fleet.doorbell import Doorbell
from strata.writebehind.fleet.keyed_worker import KeyedWorker
from strata.writebehind.fleet.workers import Workers
from strata.writebehind.ledger.ledger import Ledger
from strata.writebehind.persist.bypass import Bypass
from strata.writebehind.persist.giving_up import GivingUp
from strata.writebehind.persist.lease_renewer import LeaseRenewer
from strata.writebehind.persist.outcomes import Outcomes
from strata.writebehind.persist.persister import Persister
from strata.writebehind.process import Process
from strata.writebehind.service import WriteBehind
from strata.writebehind.writer.flusher import Flusher
from strata.writebehind.writer.handoff import HandOff
from strata.writebehind.writer.redrive import Redrive
from strata.writebehind.writer.replay import Replay

T = TypeVar("T")


def inspect(store: DataStore | AsyncDataStore) -> Inspection:
    """What is behind a store. It builds, starts and asks nothing; the parts are the store's own, so what is done to
    them is done to it. Raises `InvalidConfigError` for what is no `DataStore`."""
    store = plain(store)
    if not isinstance(store, DataStore):
        raise InvalidConfigError(f"inspect takes a DataStore, not a {type(store).__name__}")
    return Inspection(store)


@dataclass(frozen=True, slots=True)
class Inspection:
    """The parts of one store, each as it is at the moment: the child of a fork has others than its parent.

    A part that the store does not have, or has not made yet, raises `InvalidConfigError`. Thread-safe, as the parts
    are. Their types are internal, and change without notice.
    """

    store: DataStore

    # -- the store ----------------------------------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """The name under which other instances know this one."""
        return self._wiring.instance

    @property
    def schemas(self) -> Mapping[str, Bound]:
        """What is registered, by name, with the tiers of each."""
        return MappingProxyType(self.store._schemas)

    @property
    def versions(self) -> VersionClock:
        """The clock of versions."""
        return self._context.versions

    @property
    def sure(self) -> bool:
        """Whether L1 may be read now: the bus is heard."""
        return self._wiring.trust.sure(self._wiring.clock.monotonic())

    @property
    def log(self) -> SafeLogger:
        """Through which all lines go."""
        return self._wiring.log

    @property
    def feed(self) -> Feed:
        """What tells the recorder of metrics."""
        return self._wiring.feed

    @property
    def background(self) -> Background:
        """The pool of loads."""
        return self._context.background

    @property
    def unfinished(self) -> Unfinished:
        """The invalidations that wait for transactions."""
        return self._context.unfinished

    @property
    def daemons(self) -> list[Daemon]:
        """Its threads, started or not."""
        return self._wiring.daemons

    @property
    def sweeper(self) -> Sweeper:
        """What takes expired entries out of L1."""
        return self._wiring.sweeper

    @property
    def housekeeping(self) -> Housekeeping:
        """What removes tombstones, among others."""
        return self._wiring.housekeeping

    def stamp(self) -> int:
        """Take a new version, as a write does. Raises as a write does, where servers are away."""
        return self._context.stamp()

    def listen(self) -> None:
        """Have the store hear of others, as its first call does."""
        self._context.listen()

    # -- its servers --------------------------------------------------------------------------------------------

    @property
    def redis(self) -> RedisServer:
        """The Redis of L2 and of the bus."""
        return _there(self._wiring.server, "Redis")

    @property
    def ledger_redis(self) -> RedisServer:
        """The Redis of ledger and jobs."""
        return _there(self._wiring._ledger or self._wiring.server, "Redis for a ledger")

    @property
    def databases(self) -> Mapping[str, Database]:
        """By DSN: the primary, and the replicas."""
        return MappingProxyType(self._wiring.databases)

    @property
    def database(self) -> Database:
        """The primary."""
        return _there(self._wiring.databases.get(self.store.config.postgres_dsn), "primary database")

    @property
    def breakers(self) -> dict[str, Breaker]:
        """Of each server, by its name in metrics."""
        return {name: server.breaker for name, server in self._wiring._by_name().items()}

    # -- what it hears of others --------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        """The subscription to other instances' messages."""
        return _there(self._context.bus, "bus")

    @property
    def inbox(self) -> Inbox:
        """Where those messages are applied."""
        return self._wiring.inbox

    @property
    def listener(self) -> Listener:
        """The connection that hears of changes made outside."""
        return _there(self._context.listener, "listener")

    @property
    def outside(self) -> Outside:
        """Where those changes are applied."""
        return self._wiring.outside

    @property
    def repairs(self) -> Repairs:
        """What invalidates again that may have been missed."""
        return self._context.repairs

    @property
    def markers(self) -> Markers:
        """What was invalidated as a whole, as far as it was heard of."""
        return self._context.marking.markers

    @property
    def ownership(self) -> Ownership:
        """Whether the Redis servers are this database's."""
        return _there(self._context.ownership, "ownership of a Redis")

    # -- what it writes behind ----------------------------------------------------------------------------------

    @property
    def writebehind(self) -> WriteBehind:
        """The deferred writes."""
        return _there(self._context.writebehind, "write-behind")

    @property
    def ledger(self) -> Ledger:
        """What has been handed off, in Redis."""
        return self.writebehind._ledger

    @property
    def buffer(self) -> DirtyBuffer:
        """What this process wrote and L3 does not have."""
        return self._process.buffer

    @property
    def journal(self) -> Journal:
        """The files of this process's writes."""
        return _there(self._process.journal, "journal")

    @property
    def replay(self) -> Replay:
        """What takes over the journals of dead processes."""
        return _there(self._process.replay, "journal")

    @property
    def flusher(self) -> Flusher:
        """The thread that hands off."""
        return self._process.flusher

    @property
    def handoff(self) -> HandOff:
        """The way from the buffer to the ledger."""
        return self._process.handoff

    @property
    def doorbell(self) -> Doorbell:
        """The thread that wakes the fleet."""
        return self._process.doorbell

    @property
    def workers(self) -> Workers:
        """Whether there are workers, and how they are called."""
        return self._process.workers

    @property
    def drainer(self) -> KeyedWorker:
        """The thread that persists where there is no fleet."""
        return self._process.drainer

    @property
    def redrive(self) -> Redrive:
        """What looks after overdue entries."""
        return self._process.redrive

    @property
    def persister(self) -> Persister:
        """The way from the ledger to L3."""
        return self._process.drain._persister

    @property
    def renewer(self) -> LeaseRenewer:
        """What keeps a batch its worker's."""
        return self._process.renewer

    @property
    def source(self) -> str:
        """The name of this instance."""
        return self._context.announcer.source

    @property
    def outcomes(self) -> Outcomes:
        """What workers report to this process."""
        return self._process.outcomes

    @property
    def giving_up(self) -> GivingUp:
        """The way of a write that is given up."""
        return self._process.giving_up

    @property
    def bypass(self) -> Bypass:
        """The way from the buffer straight to L3."""
        return self._process.bypass

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def _wiring(self) -> Wiring:
        return self.store._wiring

    @property
    def _context(self) -> Context:
        return self._wiring.context

    @property
    def _process(self) -> Process:
        return self.writebehind._process


def _there(part: T | None, name: str) -> T:
    if part is None:
        raise InvalidConfigError(f"this store has no {name}; see which schemas and addresses it was given")
    return part
