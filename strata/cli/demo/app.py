"""The demonstration's application, which its processes and the worker import by STRATA_APP."""

from strata.cli.demo.model import SCHEMA
from strata.config import Config
from strata.datastore import DataStore

store = DataStore(Config.from_env())
places = store.register(SCHEMA)
