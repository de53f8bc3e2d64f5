"""The fleet of `strata.worker`, with the settings of this repository's `celeryconfig.py`:
`STRATA_APP=package.module:store celery -A workers worker`.

For who works in a checkout; it is not installed, and an application may have a package of this name.
"""

import celeryconfig
from strata.worker import app
from strata.writebehind.fleet import settings

_given = vars(settings)
app.conf.update(
    {name: value for name, value in vars(celeryconfig).items() if name[0] != "_" and _given.get(name) is not value}
)

__all__ = ["app"]
