"""Scores of a trained model, for every present row of a part of a panel.

    score = neutralised network scores  +  model.online_weight x neutralised scores of the online regression
                                        +  model.last_layer_weight x those of the refitted last layer

With trees beside the network (`trees.kind`), their neutralised scores have a share `trees.weight` of the first term.

`score_part` is that definition, for validation, `evaluate`, `predict` and tuning alike.

N rows, S codes, D days, H horizons
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.checkpoint import BEST, LAST, REFIT, State, check_best, load_checkpoint, restore_model
from engine.config import Config
from engine.config_file import config_hash, load_config
from engine.dates import Asked, choose_days
from engine.distributed import SINGLE, World
from engine.inputs import check_agreement, open_loader, resolve_device
from engine.model.ensemble import Ensemble, build_ensemble
from engine.model.features import categorical_features, check_features
from engine.model.neutral import Neutral
from engine.rivals.beside import load_trees
from engine.rivals.fit import Rival
from engine.score.online.features import device_of, fit_online, online_scores, online_slopes
from engine.score.online.last_layer import refit_last_layer
from engine.score.pieces import block_days, in_pieces
from engine.score.rows import Float32, PartRows, RowScores, row_scores, scatter, universe_blocks
from loaders.batch import Request
from loaders.cache.format import SCORED
from loaders.disk.content import is_there
from loaders.errors import InputError
from loaders.panel import Int, Panel
from loaders.plan import scoring_blocks
from loaders.progress import Progress, counted, part_of, quiet
from loaders.split import Days
from loaders.tiers.choose import Source


def score_part(
    model: Ensemble,
    source: Source,
    part: Days,
    config: Config,
    *,
    online: Float32 | None = None,
    trees: Float32 | None = None,
    refitted: Float32 | None = None,
    metrics_only: PartRows | None = None,
    world: World = SINGLE,
    progress: Progress = quiet,
) -> Tensor:
    """Scores [N, H] of all present rows of a part, ordered by day and code; dropout off, every day's codes together.

    Float32, on the model's device. Each rank scores a shard of the part's days, and all of them get all scores.

    Args:
        online: what `weighted_online_scores` gave for the part; None: it is computed here.
        trees: scores of those beside the network; None: it is alone.
        refitted: scores of the refitted last layer; None: it adds nothing.
        metrics_only: the part's present rows, where the scores go to metrics alone, which need rows of the universe. A
            code that has none in a block's days is then left out and its rows are NaN, unless codes see one another.
        progress: of both, each of which is taken for half of the work.

    Raises RankLost.
    """
    alone = online is not None or not config.model.online_weight
    own = progress if alone else part_of(progress, 0, 0.5)
    network = network_scores(model, source, part, config, metrics_only, world, own)
    if online is None:
        own = part_of(progress, 0.5, 1)
        online = weighted_online_scores(config, source.panel, part, model.neutral, progress=own)
    return combined_scores(config, network, online, trees, refitted)


def combined_scores(
    config: Config, network: Tensor, online: Float32 | None, trees: Float32 | None, refitted: Float32 | None
) -> Tensor:
    """The score [N, H] of its parts; arguments as of `score_part`, None for a part that there is not.

    Args:
        network: what `network_scores` gave.
    """
    if trees is not None:
        network = torch.lerp(network, torch.from_numpy(trees).to(network.device), config.trees.weight)
    for added in (online, None if refitted is None else config.model.last_layer_weight * refitted):
        network = network if added is None else network + torch.from_numpy(added).to(network.device)
    return network


def weighted_online_scores(
    config: Config,
    panel: Panel,
    part: Days,
    neutral: Neutral,
    slopes: Float32 | None = None,
    progress: Progress = quiet,
) -> Float32 | None:
    """What the online regression adds to the scores of a part [N, H], neutralised like them; None where it is off.

    Args:
        slopes: of the part's days, where they are known already.
    """
    if not config.model.online_weight:
        return None
    if slopes is None:
        ids = categorical_features(config, panel)
        slopes = online_slopes(panel, part, ids, config.model.online_features, device_of(neutral), progress)
    return config.model.online_weight * online_scores(panel, part, slopes, neutral)


@torch.no_grad()
def network_scores(
    model: Ensemble,
    source: Source,
    part: Days,
    config: Config,
    metrics_only: PartRows | None = None,
    world: World = SINGLE,
    progress: Progress = quiet,
) -> Tensor:
    """The neutralised scores of the network alone, [N, H]; arguments as of `score_part`. Raises RankLost."""
    was_training = model.training
    model.eval()
    panel, context, device = source.panel, config.data.context, next(model.parameters()).device
    days = block_days(model, panel, part, config, device)
    some = metrics_only if model.codes_are_independent else None
    blocks = scoring_blocks(panel, part, days) if some is None else universe_blocks(panel, part, some, days)
    values, here = [], []
    mine = world.shard(blocks)
    loading = source.load(Request(part, mine, days, context))
    with in_pieces(model, days, context, len(panel.manifest.features), device) as pieces, loading as loader:
        for batch in counted(loader, len(mine), progress, "scoring"):
            present = batch.presence > 0
            with torch.inference_mode():  # not around the loader, whose memory training uses again
                scores, _ = pieces(batch.x, present.float(), (batch.presence == SCORED).float())
            inside = slice(0, part.stop - batch.block.day)
            values.append(scores[:, inside].float().transpose(0, 1).flatten(0, 1))
            here.append(present[:, context - 1 :][:, inside].T.flatten())
    model.train(was_training)
    # Selected at the end: the device is waited for once, not block by block.
    none = torch.empty(0, model.horizons, device=device)
    found = world.all_gather_cat(torch.cat(values)[torch.cat(here)] if values else none)
    return found if some is None else scatter(found, blocks, days, some)


@dataclass(frozen=True)
class TrainedRun:
    """A run folder's configuration and models, on the CPU."""

    folder: Path
    config: Config
    model: Ensemble  # scores the days after validation
    state: State
    trees: Rival | None = None  # beside the network
    chosen: Ensemble | None = None  # the best epoch's, which scores the days until then; None: it was not refitted

    @property
    def trained_until(self) -> str:
        """Last day that the model was trained on, ISO."""
        return self.state.split["train" if self.chosen is None else "valid"][1]

    @property
    def best(self) -> Ensemble:
        """The best epoch's model, whose last layer is refitted each day: validation days did not train it."""
        return self.model if self.chosen is None else self.chosen

    def model_of(self, panel: Panel, days: Days) -> Ensemble:
        """The model that scores some days of a panel."""
        until = np.datetime64(self.state.split["valid"][1])
        return self.model if self.chosen is None or panel.calendar[days.stop - 1] > until else self.chosen


def load_run(run: Path) -> TrainedRun:
    """Read a run folder. Raises InputError where it holds no trained run, or files of two runs."""
    path = run / "checkpoints" / BEST
    if not is_there(run / "config.toml"):
        raise InputError(str(run), "no run here (config.toml is missing)", "Name a folder made by `atft-engine train`")
    config = load_config(run / "config.toml", [])
    state, tensors = load_checkpoint(path)
    last, _ = load_checkpoint(run / "checkpoints" / LAST)
    check_best(state, last, path)
    if state.config_hash != config_hash(config):
        what = "its settings are not those that this run was trained with: it was edited, or is of another run"
        raise InputError(str(run / "config.toml"), what, "Restore it, or train the run again")
    model = _model_of(config, state, tensors, path)
    trees = load_trees(config, run, state.run_id, state.features, state.horizons)
    if not config.train.refit:
        return TrainedRun(run, config, model, state, trees)
    path = run / "checkpoints" / REFIT
    if not is_there(path):
        raise InputError(str(path), "is missing: its training has not ended", "Resume it: a refit comes at the end")
    kept, tensors = load_checkpoint(path)
    check_best(kept, last, path)
    return TrainedRun(run, config, _model_of(config, state, tensors, path), state, trees, model)


def _model_of(config: Config, state: State, tensors: dict[str, Tensor], path: Path) -> Ensemble:
    model = build_ensemble(config, len(state.features), len(state.horizons))
    restore_model(model, tensors, path)
    model.bypass(state.off)
    return model


def predict_run(run: TrainedRun, panel: Panel, split_name: str, member: int | None = None) -> RowScores:
    """Scores of a run on its train, valid or test days, in its own cache or another one.

    Raises what `predict_days` raises, and InputError where the cache has none of these days.
    """
    days, _ = choose_days(run.state, Asked(split_name), panel, str(run.folder))
    return predict_days(run, panel, days, split_name, member)


def features_used(run: TrainedRun) -> Int:
    """Places of the features that the online regression of a run uses."""
    return np.array([run.state.features.index(name) for name in run.state.online])


def first_validated(state: State, panel: Panel) -> int:
    """Calendar index of a run's first validation day, or of the next that a panel has."""
    return int(np.searchsorted(panel.calendar, np.datetime64(state.split["valid"][0])))


def predict_days(
    run: TrainedRun,
    panel: Panel,
    days: Days,
    name: str,
    member: int | None = None,
    slopes: Float32 | None = None,
    refitted: Float32 | None = None,
    progress: Progress = quiet,
) -> RowScores:
    """Scores of a run on any days of a panel: those that reach beyond validation by its refitted model.

    Args:
        name: of the days, `Asked.name`.
        member: of a run of several models, this one alone, without trees beside it and with the heads that it was
            trained with; the first is 0.
        slopes: of the online regression on these days; None: fitted here, to all days of the panel before them.
        refitted: scores of the refitted last layer on these days; None: fitted here too.

    Raises InputError where the cache does not fit the run, and for a member that the run does not have.
    """
    config, model = run.config, run.model_of(panel, days)
    check_agreement(run.state.features, run.state.horizons, panel, str(run.folder))
    check_features(config, panel)
    if member is not None:
        if member >= len(model.members):
            what = f"the run has {len(model.members)} models, and so no number {member}"
            raise InputError("--member", what, "Count from 0, or leave it out for the average of all")
        model = model.with_members([model.members[member]])
    device = resolve_device(config.train.device)
    model = model.to(device)
    if slopes is None and config.model.online_weight:
        ids = categorical_features(config, panel)
        used, part = features_used(run), part_of(progress, 0, 0.5)
        slopes = fit_online(panel, days, used, ids, device, progress=part).slopes
        progress = part_of(progress, 0.5, 1)
    online = weighted_online_scores(config, panel, days, model.neutral, slopes)
    trees = None if run.trees is None or member is not None else run.trees.scores(panel, days)
    with open_loader(config, panel, device) as source:
        if refitted is None and config.model.last_layer_weight and member is None:
            begin, part = first_validated(run.state, panel), part_of(progress, 0, 0.5)
            refitted = refit_last_layer(run.best.to(device), source, days, config, begin, progress=part).scores
            progress = part_of(progress, 0.5, 1)
        scored = score_part(
            model, source, days, config, online=online, trees=trees, refitted=refitted, progress=progress
        )
    values = scored.cpu().numpy()
    scores = row_scores(panel, days, values, name, run.state.run_id, run.state.horizons)
    return replace(scores, trained_until=run.state.split["valid"][1], tuned_until=config.split.tuned_until)
