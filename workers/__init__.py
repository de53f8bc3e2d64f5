"""The worker fleet: `STRATA_APP=package.module:store celery -A workers worker`."""

from workers.application import app

__all__ = ["app"]
