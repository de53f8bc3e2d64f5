"""What the child of a fork must not keep: descriptors of the parent's sockets.

While the child has them, a server does not see that the parent is gone: its sessions stay, and one that listens fills
PostgreSQL's queue of notifications. So the child closes its copies, and says nothing on them: no farewell of the
protocol, no TLS alert, no `shutdown`, each of which would reach the server in the parent's name.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol

from strata.forks.living import Living


class Inherited(Protocol):
    """What has descriptors. `abandon` is called in the child, where no other thread runs: it closes them, so that
    nothing that is done with the object later, in whatever state it was, reaches a server or another's descriptor."""

    def abandon(self) -> None: ...


# Added to by whoever opens a connection; read in the child, where nobody else is left.
_known: Living[Inherited] = Living()


def abandon_in_child(thing: Inherited) -> None:
    """From now on, for as long as it lives: in the child of a fork it is abandoned."""
    _known.add(thing)


def _in_child() -> None:
    for thing in _known.all():
        with contextlib.suppress(Exception):
            thing.abandon()
    _known.clear()


os.register_at_fork(after_in_child=_in_child)
