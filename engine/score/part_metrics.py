"""Metrics of the scores of a part of a panel, per horizon.

N rows, H horizons
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.score.cross_section import Later, Samples, samples_of, with_later
from engine.score.dense import DenseSamples, dense_metrics, dense_samples
from engine.score.metrics import Metrics, metrics_of
from engine.score.rows import PartRows, later_targets, present_rows
from loaders.cache.format import SCORED
from loaders.panel import Panel
from loaders.split import Days


@dataclass(frozen=True)
class PartSamples:
    """What the metrics of a part need and no score changes: made once, for scores of every epoch."""

    present: PartRows
    samples: dict[int, Samples]  # horizon -> those of the N present rows that are scored and have a target
    later: dict[int, Later | None]  # horizon -> those that have one on the next day too; None: not asked
    periods_per_year: float | None  # of the panel's calendar
    on_devices: dict[torch.device, DenseSamples] = field(default_factory=dict)  # once they were asked for

    def on(self, device: torch.device) -> DenseSamples:
        """The same on a device."""
        if device not in self.on_devices:
            present = self.present
            self.on_devices[device] = dense_samples(present.day, present.code, self.samples, self.later, device)
        return self.on_devices[device]


def part_samples(panel: Panel, part: Days, late: bool = True) -> PartSamples:
    """The samples of a part, for `part_metrics`.

    Args:
        late: for `rank_ic_late` too, which takes a fifth of the time of all metrics; else it is NaN.
    """
    present = present_rows(panel, part)
    targets = panel.targets[present.rows]
    targets[panel.presence[present.rows] != SCORED] = np.nan
    later = later_targets(panel, present.rows, present.code) if late else None
    horizons = panel.manifest.horizons
    samples = {h: samples_of(targets[:, i], present.day) for i, h in enumerate(horizons)}
    of_later = {
        h: None if later is None else with_later(samples[h], later[:, i], present.day) for i, h in enumerate(horizons)
    }
    return PartSamples(present, samples, of_later, panel.manifest.periods_per_year)


def part_metrics(
    part: PartSamples,
    scores: npt.NDArray[np.floating] | Tensor,
    cost_bps: float = 10.0,
    periods_per_year: float | None = None,
) -> dict[str, Metrics]:
    """Metrics per horizon (keyed "1", "5", ...) of scores [N, H] in the order of `present_rows`.

    Only samples count: scored rows with a target. A metric that is not defined is NaN. Those of scores on a GPU are
    computed there.

    Args:
        cost_bps: see `split_metrics`.
        periods_per_year: of Sharpe ratios. None: those of the panel's calendar, which may be unknown.
    """
    periods = part.periods_per_year if periods_per_year is None else periods_per_year
    expected = (len(part.present.rows), len(part.samples))
    if scores.shape != expected:
        raise ValueError(f"scores of shape {scores.shape} for a part of {expected[0]} rows and {expected[1]} horizons")
    if isinstance(scores, Tensor):
        if scores.is_cuda:
            return dense_metrics(part.on(scores.device), scores, cost_bps, periods)
        scores = scores.numpy()
    return {
        str(h): metrics_of(samples, scores[:, i], part.present.code, h, cost_bps, periods, part.later[h])
        for i, (h, samples) in enumerate(part.samples.items())
    }
