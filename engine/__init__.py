"""Train, score and evaluate cross-sectional ranking models on blocks of a cache.

The names of `__all__` are the Python API. Each is imported when it is first used, so that `import engine` takes
milliseconds and needs no package that the names in use do not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.api.runs import Run
    from engine.config import Config
    from loaders.errors import InputError

__all__ = ["Config", "InputError", "Run"]

_WHERE = {
    "Config": "engine.config",
    "InputError": "loaders.errors",
    "Run": "engine.api.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
