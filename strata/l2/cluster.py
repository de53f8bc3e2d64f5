"""A Redis Cluster: which node has a key, and connections of our own to each.

redis-py asks the nodes for their slots and opens connections. Commands are sent as to a single Redis, once; what a node
answers that does not have the key any more is followed, as the Redis Cluster specification ("Redirection and
resharding") has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.cluster import RedisCluster
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError
from redis.exceptions import ConnectionError as LostError

from strata import waits
from strata.l2.wire import Wire, Wires, WireTimeouts, raised
from strata.runtime.breaker import Breaker
from strata.waits.clock import Clock

HOPS = 16  # answers in a row that lead elsewhere, beyond which the nodes are thought not to agree
PAUSE = 0.05  # seconds until a key is asked for again of which the half has moved
KEYLESS = frozenset({"PUBLISH", "TIME", "INFO", "CLUSTER", "PUBSUB", "SCAN", "PING"})


class Node(NamedTuple):
    """Where a command goes; `asking`: to a node that is just being given the key."""

    host: str
    port: int
    asking: bool = False


class Cluster:
    """As `Wires`, over several nodes, with so many connections to each. Thread-safe: `_wires` gets and loses an entry
    in one call, and so does `_breakers`; `_stale` and `_anyone` are set by any thread, and asking the nodes once more
    does no harm. The child of a fork makes another one."""

    def __init__(self, client: RedisCluster, size: int, patience: WireTimeouts, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._nodes: Any = client.nodes_manager
        self._size = size
        self._patience = patience
        self._wires: dict[tuple[str, int], Wires] = {}
        self._breakers: dict[tuple[str, int], Breaker] = {}  # of nodes that did not answer
        self._stale = False  # whether the nodes are to be asked for their slots
        self._anyone: Node | None = None  # who is asked what is of no key

    def call(self, command: Sequence[Any]) -> Any:
        """The answer to one command. Raises `redis.RedisError` or `OSError`."""
        return raised(self.call_many([command]))

    def call_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers to many commands, in one round trip to each node that has some of their keys; error answers are
        among them, as exceptions. Raises where a node does not answer, whatever others have done."""
        self._ask_for_slots()
        answers: list[Any] = [None] * len(commands)
        left: dict[Node, list[int]] = {}
        for place, command in enumerate(commands):
            left.setdefault(self._home(command), []).append(place)
        for hop in range(HOPS):
            elsewhere: dict[Node, list[int]] = {}
            for node, places in left.items():
                found = self._ask(node, [commands[place] for place in places])
                for place, answer in zip(places, found, strict=True):
                    answers[place] = answer
                    if isinstance(answer, Exception) and (following := self._following(node, answer)) is not None:
                        elsewhere.setdefault(following, []).append(place)
            if not elsewhere:
                break
            if hop and any(isinstance(answer, TryAgainError) for answer in answers):
                waits.sleep(PAUSE)
            left = elsewhere
        return answers

    def masters(self) -> list[Wires]:
        """The connections to each node that has slots."""
        self._ask_for_slots()
        return [self._to(node) for node in self._masters()]

    def open(self) -> Wire:
        """A connection outside the pools: every node of a Cluster passes on what is published on any of them."""
        self._ask_for_slots()
        node = self._some()
        try:
            return self._to(node).open()
        except (RedisError, OSError):
            self._failed(node)
            raise

    def close(self) -> None:
        """Close what is idle; what is shared, once nobody waits for an answer."""
        for wires in list(self._wires.values()):
            wires.close()

    def _ask(self, node: Node, commands: Sequence[Sequence[Any]]) -> list[Any]:
        breaker = self._breakers.get(node[:2])
        if breaker is not None and not breaker.allow():
            raise LostError(f"node {node.host}:{node.port} was not asked, and is tried again shortly")
        try:
            if not node.asking:
                answers = self._to(node).call_many(commands)
            else:
                both = [part for command in commands for part in (("ASKING",), command)]
                answers = self._to(node).call_many(both)[1::2]
        except (RedisError, OSError):
            self._failed(node)
            raise
        if breaker is not None:
            self._breakers.pop(node[:2], None)
        return answers

    def _following(self, node: Node, answer: Exception) -> Node | None:
        """Who is to be asked instead; None where the answer stands."""
        if isinstance(answer, MovedError | AskError):
            moved = isinstance(answer, MovedError)
            self._stale = self._stale or moved
            host, port = self._nodes.remap_host_port(answer.host or node.host, answer.port)
            return Node(host, port, asking=not moved)
        if isinstance(answer, ClusterDownError):
            self._stale = True
        return node if isinstance(answer, TryAgainError) else None

    def _failed(self, node: Node) -> None:
        # The others are asked for their slots at once, since it may be that another one has its slots by now; and then
        # each time that it is tried again, and still does not answer.
        self._stale = True
        breaker = self._breakers.setdefault(node[:2], Breaker(self._clock, threshold=1))
        breaker.failed("it did not answer")
        others = [other for other in self._masters() if other[:2] != node[:2]]
        self._anyone = waits.chance().choice(others) if others else None

    def _ask_for_slots(self) -> None:
        """Where they are not known any more."""
        if not self._stale:
            return
        self._stale = False
        try:
            waits.call(self._initialize)
        except BaseException:
            self._stale = True
            raise
        known = {(node.host, node.port) for node in self._nodes.nodes_cache.values()}
        for place in [place for place in list(self._wires) if place not in known]:
            if (gone := self._wires.pop(place, None)) is not None:
                gone.close()

    def _initialize(self) -> None:
        # Not those that keep one waiting; who answers tells of them again.
        away = {f"{host}:{port}" for host, port in list(self._breakers)}
        others = {name: node for name, node in list(self._nodes.startup_nodes.items()) if name not in away}
        if others:
            self._nodes.startup_nodes = others
        self._nodes.initialize()

    def _home(self, command: Sequence[Any]) -> Node:
        name = command[0]
        if name in ("EVALSHA", "EVAL"):
            key = command[3] if int(command[2]) else None
        else:
            key = None if name in KEYLESS else command[1]
        if key is None:
            return self._some()
        slot = key_slot(key if isinstance(key, bytes) else str(key).encode())
        nodes = self._nodes.slots_cache.get(slot)
        # The method, which says it where nobody has the slot, looks at its arguments for longer than all else takes.
        node = nodes[0] if nodes else self._nodes.get_node_from_slot(slot)
        return Node(node.host, node.port)

    def _some(self) -> Node:
        node = self._anyone
        if node is None:
            node = self._anyone = waits.chance().choice(self._masters())
        return node

    def _masters(self) -> list[Node]:
        return [Node(node.host, node.port) for node in self._client.get_primaries()]  # type: ignore[no-untyped-call]

    def _to(self, node: Node) -> Wires:
        wires = self._wires.get(node[:2])
        if wires is None:
            place = Place(self._client.get_redis_connection(self._nodes.default_node).connection_pool, node)
            wires = self._wires.setdefault(node[:2], Wires(place, self._size, self._patience))
        return wires


class Place:
    """How redis-py connects to a node: as to any other one of the Cluster."""

    def __init__(self, pool: Any, node: Node) -> None:
        self.connection_class = pool.connection_class
        self.connection_kwargs = pool.connection_kwargs | {"host": node.host, "port": node.port}
