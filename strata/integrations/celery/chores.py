"""What is to be done now and then, by one worker: leases in Redis say when, and whose turn it is."""

from __future__ import annotations

from strata.errors import RefusedError, StrataError, UnavailableError
from strata.jobs.fleet import MIGRATE, WARM, Fleet
from strata.observe.log import SafeLogger, StandardLogger

JOBS = (WARM, MIGRATE)
log = SafeLogger(StandardLogger("strata.worker"))


def chores(fleet: Fleet) -> None:
    """Those that are due. Raises nothing: one's mistake keeps no other from being done."""
    for chore in (fleet.make_partitions, fleet.keep_house, fleet.ring_for_audit):
        try:
            chore()
        except (UnavailableError, RefusedError) as error:  # which is said for all that need it
            log.debug("a periodic job waits", reason=str(error))
        except StrataError as error:
            log.warning("a periodic job waits", reason=str(error))
        except Exception as error:  # noqa: BLE001 of any mistake of ours, or of a driver
            log.error("a periodic job failed", error=type(error).__name__)
