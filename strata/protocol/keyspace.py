"""The names of everything that Strata keeps in a Redis or a broker: keys, channels, queues.

They are made here and nowhere else, so that none can lack the namespace in front of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from strata.errors import InvalidConfigError
from strata.protocol.shards import shard_of

# No colon, brace, blank or pattern of SCAN and of ACL rules: it ends where it ends, in every name.
MAX_NAMESPACE = 63
_NAMESPACE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_NAMESPACE - 1}}}")
_OWN = "strata"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The part of a Redis that belongs to one namespace; the empty one has names without anything in front.

    Raises `InvalidConfigError` for a namespace that could be taken for another.

    >>> Keyspace("shop").records("players")
    'shop:strata:players:'
    """

    namespace: str = ""
    _front: str = field(init=False, repr=False, compare=False)
    _head: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = self.namespace
        if not isinstance(name, str):
            raise InvalidConfigError(f"namespace is a {type(name).__name__}; it must be a str")
        # A namespace `strata` would put its records where the schema `strata` of no namespace has some.
        if name and (name == _OWN or not _NAMESPACE.fullmatch(name)):
            raise InvalidConfigError(
                f"namespace is {name[:80]!r}; it must be at most {MAX_NAMESPACE} letters, digits, _, . or -, beginning "
                f"with a letter or digit, and not {_OWN!r}"
            )
        object.__setattr__(self, "_front", f"{name}:" if name else "")
        object.__setattr__(self, "_head", f"{self._front}{_OWN}:")

    def records(self, prefix: str) -> str:
        """What stands in front of the keys of a schema's records."""
        return f"{self._head}{prefix}:"

    def results(self, prefix: str) -> str:
        """What stands in front of the keys of a schema's kept results, which share one slot of a Cluster."""
        return self.own("search", f"{_OWN}:{prefix}:")

    def calls(self, prefix: str, key_text: str) -> str:
        """The lease of a call that makes a record."""
        return self.own(f"{prefix}:{shard_of(key_text)}", f"call:{key_text}")

    def own(self, tag: str, name: str) -> str:
        """A key of Strata's own; all those of one tag share one slot of a Cluster."""
        return f"{self._head}{{{tag}}}:{name}"

    @property
    def pattern(self) -> str:
        """What fits every key of the namespace, and no other."""
        return f"{self._head}*"

    def channel(self, name: str) -> str:
        """A channel."""
        return self._front + name

    def queue(self, task: str) -> str:
        """The queue of a task; also an exchange, as that of the fleet's remote control."""
        return self._front + task

    @property
    def broker(self) -> str:
        """What stands in front of every key of a broker that is a Redis."""
        return self.own("celery", "")
