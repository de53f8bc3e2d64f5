"""`manage.py strata ...`: Strata's command line on the project's store."""

from __future__ import annotations

import os
from collections.abc import Sequence

from django.core.management.base import BaseCommand

from strata.cli.main import main


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """Its options and arguments are those of `strata`."""

    help = "Strata's command line on this project's store: stats, warm, audit, doctor, dead-letters and others."

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """All that follows is `strata`'s."""
        os.environ.setdefault("STRATA_APP", "strata.integrations.django:store")
        main(args=list(argv[2:]), prog_name=f"{os.path.basename(argv[0])} {argv[1]}")  # noqa: PTH119 a word, not a path

    def handle(self, *args: str, **options: object) -> None:
        """By `call_command("strata", "stats")`."""
        os.environ.setdefault("STRATA_APP", "strata.integrations.django:store")
        main(args=list(args), standalone_mode=False)
