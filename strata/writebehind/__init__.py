"""Write-behind: placeholder until the facade stands."""
from typing import Any
class WriteBehind:
    def __init__(self, *a: Any, **k: Any) -> None: raise NotImplementedError
