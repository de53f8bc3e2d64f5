"""What a span says, in the names of OpenTelemetry's conventions for databases where these have one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from opentelemetry.util.types import AttributeValue

_NAMES = {
    "schema": "strata.schema",
    "shard": "strata.shard",
    "server": "strata.server",
    "system": "db.system.name",
    "operation": "db.operation.name",
}
_PLACE = re.compile(r"([^,]+):(\d+)(?:/([^/]+))?")  # of one server: its host, its port, and the database


def described(given: Mapping[str, Any], *, keys: bool) -> dict[str, AttributeValue]:
    """The attributes of a span; that of the record's key where `keys` are told."""
    told: dict[str, AttributeValue] = {name: given[word] for word, name in _NAMES.items() if given.get(word, "") != ""}
    if keys and given.get("key") is not None:
        told["strata.key"] = str(given["key"])
    if place := _PLACE.fullmatch(given.get("address", "")):
        told |= {"server.address": place[1], "server.port": int(place[2])}
        if place[3]:
            told["db.namespace"] = place[3]
    return told
