"""`engine.train`: a training from Python, by the function that the command line calls."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.api.panels import Panel
from engine.api.runs import Run
from engine.callbacks.protocol import Callback, check_callback
from engine.config import Config
from engine.config_file import configured, load_config
from engine.own.names import remember
from engine.screen.console import make_console
from engine.training import loop
from engine.training.run import resumed_config
from loaders.errors import InputError

Term = Callable[[Tensor, Tensor, Tensor], Tensor]
Weighted = Term | tuple[float, Term]


def train(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *,
    cache: str | Path | Panel | None = None,
    model: str | Callable[..., nn.Module] | None = None,
    objective: Weighted | Mapping[str, Weighted] | None = None,
    callbacks: Sequence[Callback] = (),
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    settings: Sequence[str] = (),
) -> Run:
    """Train a model, evaluate it on validation and test, and open the run that was written.

    Args:
        config: settings: a Config, a TOML file, or a dict by section; default: the engine's, or with `resume` the
            run's own.
        cache: a cache's folder or URL, or an open panel; default: data.arrow of the settings.
        model: a factory of a network of your own, or its name `package.module:factory`; see docs/own_models.md.
        objective: terms of the loss of your own beside those of [objective]: term(scores [G, N], targets [G, N],
            mask [G, N] bool) -> loss [G] or []. A function, a pair (weight, function), or a dict of either by name.
        callbacks: see engine.Callback.
        out: folder to write; default: runs/<run id>.
        resume: continue from the last checkpoint in `out`.
        quiet: print nothing.
        settings: as --set, such as "train.epochs=4"; they win over `config`.

    Raises InputError for bad input, RunFailed for a training that cannot go on, and Stopped after Ctrl-C, when a
    checkpoint has been saved.
    """
    for callback in callbacks:
        check_callback(callback, repr(callback))
    folder = None if out is None else Path(out)
    arrow = str(cache.folder) if isinstance(cache, Panel) else None if cache is None else str(cache)
    settings = list(settings)
    if model is not None:
        settings.append(f"model.name={model if isinstance(model, str) else remember(model)}")
    settings += _own_settings(objective)
    if config is None:
        resolved = resumed_config(folder, settings, arrow) if resume else load_config(None, settings, arrow)
    elif isinstance(config, str | Path):
        resolved = load_config(Path(config), settings, arrow)
    else:
        values = config.model_dump() if isinstance(config, Config) else dict(config)
        resolved = configured(Config, values, settings, arrow)
    return Run.load(loop.train(resolved, folder, resume, make_console(quiet=quiet), callbacks))


def _own_settings(objective: Weighted | Mapping[str, Weighted] | None) -> list[str]:
    """[objective.own] of terms that are given as functions."""
    if objective is None:
        return []
    if not isinstance(objective, Mapping):
        function = objective[1] if isinstance(objective, tuple) else objective
        objective = {getattr(function, "__name__", "own").strip("<>"): objective}
    found = []
    for name, given in objective.items():
        weight, function = given if isinstance(given, tuple) else (1.0, given)
        if not callable(function):
            what = f"{name!r} is {type(function).__name__}, no function"
            raise InputError("objective", what, "Give a function, (weight, function), or a dict of them by name")
        found += [f"objective.own.{name}.term={remember(function)}", f"objective.own.{name}.weight={float(weight)}"]
    return found
