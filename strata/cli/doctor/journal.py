"""The journals on this machine: whose directory it is, and what was set aside there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from strata.cli.doctor.finding import Finding, fail, good, warn
from strata.datastore import DataStore
from strata.policies import Durability
from strata.writebehind.dirty import directory as directories


def journal(store: DataStore) -> Iterator[Finding]:
    """The findings about the journal; none where no process keeps any."""
    config = store.config
    if config.write_behind_durability is not Durability.JOURNAL or config.journal_dir is None:
        return
    directory = Path(config.journal_dir)
    try:
        wrong, aside = directories.refusal(directory), directories.aside(directory)
        waiting = len(list(directory.glob("strata-*.journal")))
    except OSError as error:
        yield fail("journal", f"the directory cannot be read ({type(error).__name__})", "correct journal_dir")
        return
    if wrong:
        yield fail("journal", f"the directory {wrong}", "let it belong to the user of the processes, with mode 0700")
    elif aside:
        said = f"{len(aside)} unreadable file(s) were set aside, such as {aside[0]}"
        yield warn("journal", said, "what is whole in them was replayed; keep them for a look, or remove them")
    else:
        yield good("journal", f"{waiting} segment(s)")
