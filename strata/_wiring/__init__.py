"""The only place that builds concrete parts from settings and schemas.

What needs a driver is imported where it is built, when the first store asks for it: a store without Redis never imports
redis-py, and so on. Nothing that runs in a call is imported so.
"""

from strata._wiring.wiring import Wiring

__all__ = ["Wiring"]
