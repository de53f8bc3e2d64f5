"""Strata in Flask applications: a store an application, `flask strata ...`, and a health route (extra `flask`)."""

from strata.exports import export
from strata.integrations.flask.extension import Strata

__all__ = ["Strata"]

__dir__ = export(globals())
