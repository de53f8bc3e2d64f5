"""What tests keep in Redis is apart from what the site keeps there, from what other runs do, and other tests."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256

from strata.config import Config
from strata.datastore import DataStore
from strata.drop_in import shared
from strata.errors import StrataError
from strata.integrations.django.settings import database, names

SCANNED = 1_000  # keys that are looked at in one step


class Isolation:
    """While tests run, every namespace of the project's has more to it. Its parts are written by the thread that runs
    the tests, and by the one that starts Django before. The child of a fork has what its parent had, and leaves it to
    the parent to sweep.
    """

    def __init__(self) -> None:
        self._mark = secrets.token_hex(4)  # of the process, and its children
        self._process = os.getpid()
        self._turn = 0
        self._names: dict[str, str] = {}  # of the databases in the settings, as Django found them
        self._stores: list[DataStore] = []  # of caches
        self._places: set[str] = set()  # of the stores that there are
        self._seen: dict[str, Config] = {}  # the settings of all stores, by namespace
        self.used = False

    def start(self) -> None:
        """Django starts: its settings are what they will be, but for a test runner."""
        self._names = names()

    def namespace(self) -> str:
        """What is added to the namespace of a store that is made now: "" where no tests run. A test runner's database
        has the names, and the ids, of its last run, and must find nothing of that in Redis."""
        place = self._place()
        self._places.add(place)
        return f"{place}-{self._turn}" if place else ""

    @property
    def moved(self) -> bool:
        """Whether a store was made for another database than there is now."""
        return bool(self._places) and self._places != {self._place()}

    def _place(self) -> str:
        alias = database()
        name = names().get(alias, "")
        tested = hasattr(sys.modules.get("django.core.mail"), "outbox")  # as `setup_test_environment` leaves it
        if not tested and name == self._names.get(alias, name):
            return ""
        self.used = True
        return f"test-{self._mark}-{sha256(name.encode()).hexdigest()[:8]}"

    def apart(self, config: Config) -> Config:
        """The settings of a store that is made now."""
        if not (more := self.namespace()):
            return config
        made = replace(config, namespace=shared.added(config.namespace, more))
        self._seen[made.namespace] = made
        return made

    def follow(self, store: DataStore) -> None:
        """A cache's store was made while tests run."""
        self._seen[store.config.namespace] = store.config
        self._stores.append(store)

    def forget(self, timeout: float) -> None:
        """From now on all is kept apart from what was kept until now. Raises as `DataStore.close` does."""
        self._turn += 1
        self._places.clear()
        stores, self._stores = self._stores, []
        for store in stores:
            shared.forget(store)
            store.close(timeout)

    def sweep(self, more: Iterable[Config]) -> None:
        """Leave nothing in Redis of what this process and its children have kept there. `more`: settings by which
        children may have made stores."""
        if os.getpid() != self._process:
            return
        seen, self._seen = [*self._seen.values(), *more], {}
        tests = f"test-{self._mark}-"
        places = {(made.redis_addr, made.ledger_addr, made.namespace.partition(tests)[0]): made for made in seen}
        for (*_, front), config in places.items():
            with suppress(StrataError):  # a server that is away by now
                _remove(config, f"{front}{tests}*")


def _remove(config: Config, pattern: str) -> None:
    store = DataStore(config)
    store._wiring.ledger()  # which is one of them from now on
    for server in store._wiring.redis_servers():
        server.guard(None)  # the database may be gone
        for keys in server.scan(pattern, SCANNED):
            server.pipeline([("UNLINK", key) for key in keys])
        server.close()
