"""L1 with its claims and flights, the clock, and what arrives by the bus.

Mirrors `strata/l1/tier.py`, `claims.py` and `strata/coherence/inbox.py`; each function is one hold of the claims' lock,
or several that nothing can come between.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.property.model import buffer
from tests.property.model.rules import Rule, Setup
from tests.property.model.state import FAR, NODES, Entry, Link, Message, Op, Proc, World


class Seen(NamedTuple):
    """A record, or that there is none, with the version by which the promises know it."""

    version: int
    deleted: bool
    pending: bool = False
    raw: bool = False


def stamp(proc: Proc, number: int) -> tuple[Proc, int]:
    """A new version. The clock is a Lamport clock: the slowest that the protocol allows."""
    version = (proc.clock // NODES + 1) * NODES + number + 1
    left = proc.stamps - 1
    return proc._replace(clock=version if left else 0, stamps=left), version


def observe(proc: Proc, version: int) -> Proc:
    """Stay ahead of a version met."""
    return proc._replace(clock=version) if version > proc.clock and proc.stamps else proc


def void(proc: Proc, setup: Setup) -> Proc:
    """No claim is good any more, and nobody boards the flight."""
    if not proc.claims and proc.flight < 0:
        return proc
    return proc._replace(claims=frozenset(), flight=-1 if setup.keeps(Rule.FLIGHT_IS_DETACHED) else proc.flight)


def forget(proc: Proc, setup: Setup, below: int = 0) -> Proc:
    """Drop the entry if it is older than `below`, 0: whatever it is; claims are void."""
    proc = void(proc, setup)
    if proc.l1 is not None and (not below or proc.l1.version < below):
        return proc._replace(l1=None)
    return proc


def fill(proc: Proc, setup: Setup, thread: int, entry: Entry) -> tuple[Proc, bool]:
    """Put what was read from below, or committed, if the claim is good and nothing newer is there."""
    if not setup.l1:
        return proc, False
    held = proc.l1
    slot = proc.slot if setup.keeps(Rule.FILL_ASKS_BUFFER) else None
    newer = held is not None and _newer(held, entry)
    if newer or thread not in proc.claims or (slot is not None and entry.version < slot.version):
        return met(proc, setup, thread, entry.version), False
    if setup.keeps(Rule.FILL_VOIDS_OTHERS):
        proc = _void_others(proc, thread)
    return proc._replace(l1=entry), True


def met(proc: Proc, setup: Setup, thread: int, version: int) -> Proc:
    """A read found this version (0: no record), but does not fill: what is older must not be served after it."""
    if not setup.keeps(Rule.READ_SUPERSEDES_L1):
        return proc
    proc = _void_others(proc, thread)
    if proc.l1 is not None and (not version or proc.l1.version < version):
        return proc._replace(l1=None)
    return proc


def _void_others(proc: Proc, thread: int) -> Proc:
    return proc._replace(claims=proc.claims & {thread}, flight=proc.flight if proc.flight == thread else -1)


def write(proc: Proc, setup: Setup, entry: Entry) -> Proc:
    """Put an own deferred write."""
    proc = void(proc, setup)
    if not setup.l1 or (proc.l1 is not None and _newer(proc.l1, entry)):
        return proc
    return proc._replace(l1=entry)


def _newer(held: Entry, entry: Entry) -> bool:
    return held.version > entry.version or (held.version == entry.version and entry.pending and not held.pending)


def release(proc: Proc, thread: int, result: Seen | None = None) -> Proc:
    """The call that took the claim is over; whoever waits for its flight gets the result."""
    waiting = frozenset(pair for pair in proc.boarded if pair[0] == thread)
    return proc._replace(
        claims=proc.claims - {thread},
        flight=-1 if proc.flight == thread else proc.flight,
        boarded=proc.boarded - waiting,
        landed=proc.landed | {(who, result) for _, who in waiting},
    )


def deliver(world: World, number: int, setup: Setup) -> World:
    """The oldest message in a process's inbox is handled."""
    proc = world.procs[number]
    message, rest = proc.inbox[0], proc.inbox[1:]
    proc = proc._replace(inbox=rest)
    if message.version >= FAR and setup.keeps(Rule.FAR_MESSAGE_ENDS_NO_WRITE):
        message = Message(Op.INVALIDATE, 0, message.source)
    if message.version and message.version < FAR:
        proc = observe(proc, message.version)
    return world.with_proc(number, _handle(proc, message, setup))


def _handle(proc: Proc, message: Message, setup: Setup) -> Proc:
    claims, flight = proc.claims, proc.flight
    if message.op is Op.PURGE:
        proc = forget(proc, setup, message.version + 1)
        proc = buffer.drop(proc, message.version)
    elif message.op is Op.INTENT and not setup.keeps(Rule.DROP_AT_INTENT):
        return proc
    elif message.op in (Op.SET, Op.DELETE) and message.version:
        proc = buffer.supersede(forget(proc, setup, message.version), message.version)
    elif message.op is not Op.INVALIDATE or setup.keeps(Rule.INVALIDATE_VOIDS_CLAIMS):
        proc = forget(proc, setup)
    if not setup.keeps(Rule.VOID_CLAIMS_ON_MESSAGE):
        proc = proc._replace(claims=claims, flight=flight)
    return proc


def confirmed(proc: Proc, setup: Setup) -> Proc:
    """The new subscription is confirmed: messages may have been missed, so nothing in L1 can be trusted."""
    if setup.keeps(Rule.CLEAR_AFTER_RESUBSCRIBE):
        voided = void(proc, setup) if setup.keeps(Rule.CLEAR_VOIDS_CLAIMS) else proc
        proc = voided._replace(l1=None)
    return proc._replace(link=Link.FINE, woken=True)


def serves(proc: Proc, setup: Setup) -> bool:
    """Whether L1 may be served whatever its age."""
    return proc.link in (Link.FINE, Link.CUT)
