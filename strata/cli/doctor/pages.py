"""Pages: an index for each order that they are asked for in."""

from __future__ import annotations

import json
from collections.abc import Iterator

from strata.cli.doctor.finding import Finding, warn
from strata.cli.inside import missing_indexes
from strata.datastore import DataStore
from strata.errors import StrataError


def pages(store: DataStore) -> Iterator[Finding]:
    """The findings about orders of `search_page`; a server that does not answer is told of elsewhere."""
    try:
        missing = missing_indexes(store)
    except StrataError:
        return
    for name, conditional, (by, columns, sql) in missing:
        said = f"search_page was asked for by {by}, and no index has that order: each page sorts what it finds"
        advice = f"run {sql}"
        if columns is not None:
            advice = f"give the schema indexes=[Index({json.dumps(columns)})] and run `strata migrate`"
        if conditional:
            advice += "; better with those columns in front that its where compares by ="
        yield warn(f"pages of {name}", said, advice)
