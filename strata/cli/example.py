"""The application of `strata dev` where none is named: one schema, written behind, to play with.

It has a namespace of its own, so that its worker takes no tasks of whoever uses these servers with another store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from strata.config import Config
from strata.datastore import DataStore
from strata.model import AutoNow, PrimaryKey
from strata.policies import MemPolicy, PostgresPolicy, RedisPolicy, WriteMode
from strata.schema import Schema


@dataclass
class Note:
    """A note with some tags."""

    id: Annotated[str, PrimaryKey]
    text: str
    tags: list[str] = field(default_factory=list)
    updated_at: Annotated[datetime | None, AutoNow] = None


store = DataStore(Config.from_env(namespace=os.environ.get("STRATA_NAMESPACE", "example")))
notes = store.register(
    Schema(
        Note,
        name="notes",
        l1=MemPolicy(),
        l2=RedisPolicy(),
        l3=PostgresPolicy(),
        write_mode=WriteMode.WRITE_BEHIND,
    )
)
