"""Train, score and evaluate cross-sectional ranking models on blocks of a cache.

The names of `__all__` are the Python API. Each is imported when it is first used, so that `import engine` takes
milliseconds and needs no package that the names in use do not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.api.caches import append_cache, build_cache
    from engine.api.figures import Evaluation, evaluate, ic
    from engine.api.losses import rank_loss
    from engine.api.panels import Panel, PanelBlock, open_panel
    from engine.api.runs import Run
    from engine.api.training import train
    from engine.callbacks.mlflow import MLflow
    from engine.callbacks.protocol import Callback
    from engine.callbacks.wandb import WandB
    from engine.config import Config
    from engine.live.export import export_run
    from engine.live.latest import predict_latest
    from engine.model.causality import LookAhead, check_causal
    from engine.own.names import remember
    from engine.reporting.report import report
    from loaders.errors import InputError

__all__ = [
    "Callback", "Config", "Evaluation", "InputError", "LookAhead", "MLflow", "Panel", "PanelBlock", "Run", "WandB",
    "append_cache", "build_cache", "check_causal", "evaluate", "export_run", "ic", "open_panel", "predict_latest",
    "rank_loss", "remember", "report", "train",
]  # fmt: skip

_WHERE = {
    "Callback": "engine.callbacks.protocol",
    "Config": "engine.config",
    "Evaluation": "engine.api.figures",
    "InputError": "loaders.errors",
    "LookAhead": "engine.model.causality",
    "MLflow": "engine.callbacks.mlflow",
    "Panel": "engine.api.panels",
    "PanelBlock": "engine.api.panels",
    "Run": "engine.api.runs",
    "WandB": "engine.callbacks.wandb",
    "append_cache": "engine.api.caches",
    "build_cache": "engine.api.caches",
    "check_causal": "engine.model.causality",
    "evaluate": "engine.api.figures",
    "export_run": "engine.live.export",
    "ic": "engine.api.figures",
    "open_panel": "engine.api.panels",
    "predict_latest": "engine.live.latest",
    "rank_loss": "engine.api.losses",
    "remember": "engine.own.names",
    "report": "engine.reporting.report",
    "train": "engine.api.training",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
