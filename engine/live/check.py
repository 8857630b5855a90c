"""Whether an exported file gives what the run's network gives: on drawn inputs of many sizes, and on a cache."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import RunFailed
from engine.inputs import check_agreement, open_loader
from engine.live.export import load_exported
from engine.score.predict import TrainedRun, score_part
from loaders.cache.format import SCORED
from loaders.gather import gather
from loaders.panel import Panel
from loaders.plan import scoring_blocks
from loaders.split import Days
from loaders.verify import verified

SIZES = (1, 2, 3, 10, 100, 1000, 3000)  # codes
TOLERANCE = 1e-5  # largest difference of scores, which are z-scores where models are averaged


def check_export(run: TrainedRun, path: Path, to: str, days: int, panel: Panel | None) -> dict[str, float]:
    """Largest difference of scores by number of codes, as text, and "last day" with a panel.

    Args:
        days: that the file scores at a time.
        panel: whose last days are compared with the network's part of `predict`.

    Raises RunFailed where one is above TOLERANCE, InputError where the panel does not fit the run.
    """
    call = load_exported(path, to)
    found = {f"{codes:,}": _difference(run, call, codes, days) for codes in SIZES}
    if panel is not None:
        with verified(panel):
            found["last day"] = _of_last_day(run, call, days, panel)
    if not max(found.values()) <= TOLERANCE:
        worst = ", ".join(f"{codes} codes {value:.1e}" for codes, value in found.items() if not value <= TOLERANCE)
        raise RunFailed(f"{path}: scores differ from the run's by more than {TOLERANCE:g}: {worst}")
    return found


def _difference(run: TrainedRun, call: Callable[[Tensor, Tensor, Tensor], Tensor], codes: int, days: int) -> float:
    draw = torch.Generator().manual_seed(codes)
    span = days + run.config.data.context - 1
    x = torch.randn(codes, span, len(run.state.features), generator=draw)
    for name, count in run.config.model.categories.items():
        ids = torch.randint(count, (codes, span), generator=draw)
        x[..., run.state.features.index(name)] = ids.float()
    present = (torch.rand(codes, span, generator=draw) > 0.1).float()
    present[:, -days:] = 1
    scored = torch.ones(codes, span)
    # With fewer codes than risk factors, exposures of codes outside the universe have no slopes to be removed by.
    if codes >= 100:
        scored[torch.rand(codes, span, generator=draw) < 0.2] = 0
    with torch.inference_mode():
        expected, _ = run.model.cpu().eval()(x, present, scored)
        return float((call(x, present, scored) - expected).abs().max())


def _of_last_day(run: TrainedRun, call: Callable[[Tensor, Tensor, Tensor], Tensor], days: int, panel: Panel) -> float:
    check_agreement(run.state.features, run.state.horizons, panel, str(run.folder))
    part, context = Days(len(panel.calendar) - days, len(panel.calendar)), run.config.data.context
    model = run.config.model.model_copy(update={"online_weight": 0})
    config = run.config.model_copy(update={"model": model})
    device = torch.device("cpu")
    with open_loader(config, panel, device) as source:
        expected = score_part(run.model.to(device), source, part, config)
    (block,) = scoring_blocks(panel, part, days)
    batch = gather(panel, part, block, days, context)
    present = batch.presence > 0
    with torch.inference_mode():
        scores = call(batch.x, present.float(), (batch.presence == SCORED).float())
    found = scores.transpose(0, 1)[present[:, context - 1 :].T]
    return float((found - expected).abs().max())
