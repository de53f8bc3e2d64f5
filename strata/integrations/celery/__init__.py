"""Strata's tasks in a Celery app that an application has already: `install(app)`."""

from strata.exports import export
from strata.integrations.celery.install import install

__all__ = ["install"]

__dir__ = export(globals())
