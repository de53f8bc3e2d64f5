"""The worker fleet: `STRATA_APP=package.module:store celery -A strata.worker worker`."""

from strata.worker.application import app

__all__ = ["app"]
