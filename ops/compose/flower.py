"""Flower's own configuration file: in FLOWER_BASIC_AUTH a comma would end the password, and begin another login."""

import os

basic_auth = [f"{os.environ['STRATA_FLOWER_USER']}:{os.environ['STRATA_FLOWER_PASSWORD']}"]
