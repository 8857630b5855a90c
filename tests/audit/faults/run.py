"""Faults of runs: a small one is trained without a fault; then its dates, its settings or its network are changed."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from engine.audit.audit import audit_run
from engine.audit.finding import Finding
from engine.checkpoint import load_checkpoint
from engine.config import Config
from engine.config_file import config_content, config_hash, load_config
from engine.training.loop import train
from loaders.disk.tensors import tensors_content
from loaders.panel import Panel
from tests.audit.faults.fault import Dose, Fault
from tests.panels import write_panel

HORIZON, CONTEXT = 5, 3
SETTINGS = (
    f"data.context={CONTEXT}", "data.block_days=8", "data.block_codes=24", "train.epochs=1", "train.blocks=2",
    "model.name=tests.audit.faults.run:Looking", "objective.quantile=0", "model.risk_factors=2",
)  # fmt: skip


class Looking(nn.Module):
    """A layer on the last days of a code, less a share of its mean over the block's days: 0 while it is trained."""

    context = CONTEXT
    codes_are_independent = True
    ahead = 0.0  # that share
    least = 0  # days of a block from which it looks ahead

    def __init__(self, features: int, horizons: int, context: int) -> None:
        super().__init__()
        self.head = nn.Linear(CONTEXT * features, horizons)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        found: Tensor = torch.tanh(self.head(x.unfold(1, CONTEXT, 1).flatten(2)))
        share = Looking.ahead if x.shape[1] >= Looking.least else 0.0
        return found - share * found.mean(1, keepdim=True) if share else found


def small_run(folder: Path, seed: int) -> tuple[Panel, Path]:
    """A run without a fault, of two blocks."""
    folder.mkdir(exist_ok=True)
    panel = write_panel(folder / "cache", n_codes=40, n_days=160, horizons=(1, HORIZON), signal=0.05, seed=seed)
    config = load_config(None, [*SETTINGS, f"train.seed={seed}"], str(panel.folder))
    train(config, folder / "run", False, Console(quiet=True))
    return panel, folder / "run"


def with_dates(run: Path, part: str, place: int, date: str) -> None:
    """Store another first (0) or last (1) day of a part in a run's checkpoints, with their checksums."""
    for path in sorted((run / "checkpoints").iterdir()):
        state, tensors = load_checkpoint(path)
        span = list(state.split[part])
        span[place] = date
        changed = replace(state, split=state.split | {part: span})
        path.write_bytes(tensors_content(path.stem, asdict(changed), tensors))


def with_config(run: Path, change: Callable[[Config], Config]) -> None:
    """Store other settings, in the checkpoints and with their checksums."""
    config = change(load_config(run / "config.toml", []))
    (run / "config.toml").write_bytes(config_content(config))
    for path in sorted((run / "checkpoints").iterdir()):
        state, tensors = load_checkpoint(path)
        path.write_bytes(tensors_content(path.stem, asdict(replace(state, config_hash=config_hash(config))), tensors))


def of_run(
    name: str, by: tuple[str, ...], doses: Mapping[Dose, float], plant: Callable[[Panel, Path, float], None]
) -> Fault:
    """A fault of a run folder."""

    def audit(folder: Path, dose: float, seed: int) -> list[Finding]:
        panel, run = small_run(folder, seed)
        plant(panel, run, dose)
        try:
            return list(audit_run(panel, run))
        finally:
            Looking.ahead, Looking.least = 0.0, 0

    return Fault(name, by, doses, audit)


def _near(before: str, after: str) -> Callable[[Panel, Path, float], None]:
    """So many days between two parts; fewer than 0: they overlap."""

    def plant(panel: Panel, run: Path, dose: float) -> None:
        state, _ = load_checkpoint(run / "checkpoints" / "best.safetensors")
        first = int(np.searchsorted(panel.calendar, np.datetime64(state.split[after][0])))
        with_dates(run, before, 1, str(panel.calendar[first - 1 - int(dose)]))

    return plant


def _tuned(panel: Panel, run: Path, dose: float) -> None:
    """Tuning saw a share of the test, one day of it at least."""
    state, _ = load_checkpoint(run / "checkpoints" / "best.safetensors")
    first, last = (int(np.searchsorted(panel.calendar, np.datetime64(day))) for day in state.split["test"])
    until = str(panel.calendar[first + int(dose * (last - first))])
    with_config(run, lambda c: c.model_copy(update={"split": c.split.model_copy(update={"tuned_until": until})}))


def _ahead(panel: Panel, run: Path, dose: float) -> None:
    Looking.ahead = dose


def _hidden(panel: Panel, run: Path, dose: float) -> None:
    """In blocks of more days than those that a network is tried on before its training."""
    Looking.ahead, Looking.least = dose, 9


FAULTS_OF_RUN: list[Fault] = [
    of_run(
        "validation overlaps training", ("splits",), {"strong": -20, "weak": 0, "borderline": HORIZON - 1},
        _near("train", "valid"),
    ),
    of_run(
        "the test follows validation at once", ("splits",), {"strong": -20, "weak": 0, "borderline": HORIZON - 1},
        _near("valid", "test"),
    ),
    of_run("tuning saw the test", ("tuning",), {"strong": 1.0, "weak": 0.1, "borderline": 0.0}, _tuned),
    of_run(
        "the network looks ahead", ("future of scores",), {"strong": 1.0, "weak": 0.01, "borderline": 1e-5}, _ahead
    ),
    of_run(
        "the network looks ahead in long blocks", ("future of scores",),
        {"strong": 1.0, "weak": 0.01, "borderline": 1e-5}, _hidden,
    ),
]  # fmt: skip
