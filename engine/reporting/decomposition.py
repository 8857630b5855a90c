"""The parts of a run's score apart: the network, what neutralisation does to it, trees beside it, the refitted last
layer, and the online regression.

The network is scored twice, with and without neutralisation. The online regression, which takes a pass over the whole
history of the panel, is what the scores have beyond the network.

N rows, H horizons
"""

import numpy as np

from engine.evaluation.sources import Source
from engine.inputs import open_loader, resolve_device
from engine.model.ensemble import Ensemble
from engine.model.neutral import Neutral
from engine.score.online.last_layer import refit_last_layer
from engine.score.predict import TrainedRun, first_validated, score_part
from engine.score.rows import Float32, present_rows
from loaders.panel import Int, Panel
from loaders.split import Days


def scores_apart(run: TrainedRun, panel: Panel, part: Days, source: Source, rows: Int) -> dict[str, Float32]:
    """Scores [N, H] of some rows by each of the parts of the model, and by all of them last.

    Args:
        source: the run's scores of the part.
        rows: [N] of the source's.
    """
    config, device = run.config, resolve_device(run.config.train.device)
    settings = config.model
    alone = config.model_copy(update={"model": settings.model_copy(update={"online_weight": 0.0})})
    model = run.model_of(panel, part).to(device)
    plain = Ensemble(model.members, Neutral(panel.features.shape[1], 1, 0.0), model.deviations).to(device)
    present = present_rows(panel, part).rows
    order = np.argsort(present)
    place = order[np.searchsorted(present[order], rows)]
    every = np.stack([source.at(rows, h) for h in panel.manifest.horizons], 1)
    with open_loader(config, panel, device) as loaded:
        found = {"network": score_part(plain, loaded, part, alone).cpu().numpy()[place]}
        if settings.neutralize and (settings.online_weight or run.trees is not None):
            found["network, neutralised"] = score_part(model, loaded, part, alone).cpu().numpy()[place]
    network, neutralised = list(found.values())[-1], ", neutralised" if settings.neutralize else ""
    if run.trees is not None:
        trees, weight = run.trees.scores(panel, part)[place], np.float32(config.trees.weight)
        found[f"trees{neutralised}"] = trees
        network = (1 - weight) * network + weight * trees
    if settings.online_weight:
        added = every - network
        if settings.last_layer_weight:
            refitted = found[f"last layer refitted{neutralised}"] = _refitted(run, panel, part)[place]
            added = added - np.float32(settings.last_layer_weight) * refitted
        found[f"online regression{neutralised}"] = added / np.float32(settings.online_weight)
        beside = run.trees is not None or settings.last_layer_weight
        found["all: the score" if beside else "both: the score"] = every
    elif run.trees is not None:
        found["both: the score"] = every
    elif settings.neutralize:
        found["network, neutralised: the score"] = every
    return found


def _refitted(run: TrainedRun, panel: Panel, part: Days) -> Float32:
    device = resolve_device(run.config.train.device)
    with open_loader(run.config, panel, device) as loaded:
        return refit_last_layer(run.best.to(device), loaded, part, run.config, first_validated(run.state, panel)).scores
