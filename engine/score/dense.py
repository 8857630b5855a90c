"""Metrics of scores that lie on a GPU: the daily series of `metrics.py`, computed there, and only the series travel.

Samples are cells of a table of days and codes, so that a day's cross-section is a row for the kernels of
`kernels.correlation` and a book is a row of weights. Values equal those of the host to the rounding of float64.

N rows, H horizons, D days, C codes, G days that count
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.score.cross_section import Float, Later, Samples
from engine.score.metrics import Daily, Metrics, metrics_of_daily
from kernels.correlation import average_ranks, pearson


@dataclass(frozen=True)
class Cells:
    """Samples of one horizon as a table."""

    mask: Tensor  # bool [D, C] there is a sample
    targets: Tensor  # float32 [D, C], 0 where there is none
    ranks: Tensor  # float32 [D, C] of the targets within their day


@dataclass(frozen=True)
class DenseSamples:
    """What a device needs of a part's samples, for scores of every epoch."""

    places: Tensor  # int64 [N] cell of each row, counted day by day
    shape: tuple[int, int]  # D, C
    cells: dict[int, Cells]  # horizon -> its samples
    later: dict[int, Cells | None]  # horizon -> those that have a target on the next day too, with that one


def dense_samples(
    day: npt.NDArray[np.int64],
    code: npt.NDArray[np.int64],
    samples: dict[int, Samples],
    later: dict[int, Later | None],
    device: torch.device,
) -> DenseSamples:
    """Upload samples.

    Args:
        day, code: [N] of all rows.
        samples, later: of each horizon, see `PartSamples`.
    """
    days, row = np.unique(day, return_inverse=True)
    codes, column = np.unique(code, return_inverse=True)
    shape, places = (len(days), len(codes)), row * len(codes) + column

    def cells(rows: npt.NDArray[np.int64], targets: Float) -> Cells:
        here = torch.from_numpy(places[rows]).to(device)
        mask = torch.zeros(shape, dtype=torch.bool, device=device)
        table = torch.zeros(shape, device=device)
        mask.view(-1)[here] = True
        table.view(-1)[here] = torch.from_numpy(targets.astype(np.float32)).to(device)
        return Cells(mask, table, average_ranks(table, mask))

    of_samples = {h: cells(s.rows, s.targets) for h, s in samples.items()}
    of_later = {
        h: None if late is None else cells(samples[h].rows[late.samples.rows], late.samples.targets)
        for h, late in later.items()
    }
    return DenseSamples(torch.from_numpy(places).to(device), shape, of_samples, of_later)


def dense_metrics(
    dense: DenseSamples, scores: Tensor, cost_bps: float, periods_per_year: float | None
) -> dict[str, Metrics]:
    """`part_metrics` of scores [N, H] on the device of the samples."""
    found = {}
    for i, (h, cells) in enumerate(dense.cells.items()):
        table = torch.zeros(dense.shape, device=scores.device)
        table.view(-1)[dense.places] = scores[:, i].float()
        found[str(h)] = metrics_of_daily(_daily(table, cells, dense.later[h], h, cost_bps, periods_per_year))
    return found


def _daily(
    scores: Tensor, cells: Cells, later: Cells | None, horizon: int, cost_bps: float, periods_per_year: float | None
) -> Daily | None:
    """None where no day counts or a score is not finite."""
    mask, ranks = cells.mask, average_ranks(scores, cells.mask)
    ic, rank_ic = pearson(scores, cells.targets, mask), pearson(ranks, cells.ranks, mask)
    counted = torch.isfinite(ic) & torch.isfinite(rank_ic)
    if not counted.any() or not (torch.isfinite(scores) | ~mask).all():
        return None
    weights = _weights(ranks[counted], mask[counted])
    before = torch.cat([weights.new_zeros(horizon, weights.shape[1]), weights])[: len(weights)]
    spread = (weights * cells.targets[counted]).sum(1).cpu().numpy()
    turnover = ((weights - before).abs().sum(1) / 2).cpu().numpy()
    late = np.empty(0)
    if later is not None:
        late = pearson(average_ranks(scores, later.mask), later.ranks, later.mask).cpu().numpy()
    return Daily(
        horizon=horizon,
        periods_per_year=periods_per_year,
        ic=ic[counted].cpu().numpy(),
        rank_ic=rank_ic[counted].cpu().numpy(),
        rank_ic_late=late[np.isfinite(late)],
        spread=spread,
        turnover=turnover,
        net=spread - cost_bps / 1e4 * turnover,
        samples=int(mask[counted].sum()),
    )


def _weights(ranks: Tensor, mask: Tensor) -> Tensor:
    """The book of each day [G, C] float64: +1 spread over its top tenth, -1 over its bottom tenth.

    A day has 20 names or more. Names that tie across a border share the places inside it.
    """
    n = mask.sum(1, keepdim=True)
    k, places = n // 10, mask.shape[1]
    ordered = ranks.sort(1).values  # ranks of names come last: those of all others are 0
    lowest, highest = ordered.gather(1, places - k), ordered.gather(1, places - n + k - 1)

    def share(inside: Tensor, border: Tensor) -> Tensor:
        of_border = (k - inside.sum(1, keepdim=True)) / border.sum(1, keepdim=True).double()
        return torch.where(border, of_border, inside.double())

    long = share((ranks > lowest) & mask, (ranks == lowest) & mask)
    short = share((ranks < highest) & mask, (ranks == highest) & mask)
    return (long - short) / k
