"""Scores of a trained model, for every present row of a part of the panel.

N rows, S codes, D days, H horizons
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from engine.checkpoint import BEST, LAST, load_checkpoint, restore_model
from engine.config import Config, config_hash, load_config
from engine.model.ensemble import Ensemble, build_ensemble
from engine.scores import Scores, scores_of
from loaders.errors import InputError
from loaders.panel import Panel, open_panel
from loaders.plan import scoring_blocks
from loaders.source import Source, open_source
from loaders.split import Days, Split, gap_days, split_by_date, split_by_fraction, walk_forward


def make_split(config: Config, panel: Panel) -> Split:
    """The dates of training, validation and test that a configuration means on a panel. Raises InputError if empty."""
    gap = gap_days(config.data.context, panel.manifest.horizons)
    split = config.split
    if split.valid_start is not None and split.test_start is not None:
        return split_by_date(panel.calendar, split.valid_start, split.test_start, split.test_end, gap)
    if split.folds:
        folds = walk_forward(panel.calendar, split.folds, split.valid_fraction, split.test_fraction, gap, split.rolling)
        return folds[split.fold]
    return split_by_fraction(panel.calendar, split.valid_fraction, split.test_fraction, gap)


@torch.no_grad()
def score_part(model: Ensemble, source: Source, part: Days, config: Config) -> npt.NDArray[np.float32]:
    """Scores [N, H] of all present rows of a part, ordered by day and code; dropout off, every day's codes together."""
    was_training = model.training
    model.eval()
    context = config.data.context
    blocks = list(scoring_blocks(source.panel, part, config.data.scoring_days))
    pieces = []
    with source.load(part, blocks, config.data.scoring_days, context) as loader:
        for batch in loader:
            scores, _ = model(batch.x, (batch.presence > 0).float())
            inside = part.stop - batch.block.day
            present = batch.presence[:, context - 1 :][:, :inside].T.cpu().numpy() > 0
            pieces.append(scores.float().cpu().numpy()[:, :inside].swapaxes(0, 1)[present])
    model.train(was_training)
    return np.concatenate(pieces) if pieces else np.empty((0, model.horizons), np.float32)


def resolve_device(name: str) -> torch.device:
    """The torch device of `train.device`; "auto" is CUDA where there is one. Raises InputError for an absent device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError("train.device", f"{name!r} is no device", "Use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise InputError("train.device", f"{name!r} is not available here", "Use auto or cpu")
    return device


def check_agreement(features: list[str], horizons: list[int], panel: Panel, where: str) -> None:
    """Raise InputError where a run and a cache differ in the names or order of features, or in horizons."""
    manifest = panel.manifest
    if list(features) != manifest.features:
        odd = next(
            (f"{a} and {b}" for a, b in zip(features, manifest.features, strict=False) if a != b), "their number"
        )
        what = f"expects {len(features)} features, {panel.folder} has {len(manifest.features)}; first difference: {odd}"
        raise InputError(where, what, "Use the cache it was made for, or build one with the same recipe")
    if list(horizons) != manifest.horizons:
        what = f"expects horizons {list(horizons)}, {panel.folder} has {manifest.horizons}"
        raise InputError(where, what, "Use the cache it was made for, or build one with --horizons")


def load_run(run: Path, arrow: str | None) -> tuple[Config, Panel, Ensemble, str]:
    """Configuration, panel, best model (on the CPU) and run id of a run folder.

    Raises InputError where the folder holds no trained run, files of two runs, or the cache does not fit.
    """
    path = run / "checkpoints" / BEST
    if not (run / "config.toml").exists():
        raise InputError(str(run), "no run here (config.toml is missing)", "Name a folder made by `atft-engine train`")
    config = load_config(run / "config.toml", [], arrow)
    state, tensors = load_checkpoint(path)
    last, _ = load_checkpoint(run / "checkpoints" / LAST)
    if state.run_id != last.run_id or state.config_hash != config_hash(config):
        raise InputError(
            str(path), "belongs to another run than config.toml and last.safetensors", "Train the run again"
        )
    panel = open_panel(config.data.arrow, config.data.store)
    check_agreement(state.features, state.horizons, panel, str(run))
    model = build_ensemble(config, len(state.features), len(state.horizons))
    restore_model(model, tensors, path)
    model.bypass(state.off)
    return config, panel, model, state.run_id


def predict_run(run: Path, arrow: str | None, split_name: str) -> Scores:
    """Scores of a run's best checkpoint on one part (train, valid or test) of its own or another cache."""
    config, panel, model, run_id = load_run(run, arrow)
    device = resolve_device(config.train.device)
    part = make_split(config, panel).part(split_name)
    with open_source(panel, device, config.data.tier, config.data.device_share) as source:
        values = score_part(model.to(device), source, part, config)
    return scores_of(panel, part, values, split=split_name, run_id=run_id)
