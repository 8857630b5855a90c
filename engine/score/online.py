"""The online regression: a ridge regression that is refitted every day to the returns known by then.

The network is frozen at the split. The regression adds what the last year's returns say; its slopes on day t are

    argmin_w  sum of 0.5^((t - k - u) / HALF_LIFE) (r - x'w)^2 over samples of days u <= t - k  +  C / EXPECTED^2 w'w,

r the rank of a return over h days within its day, of deviation 1, and x the C = 2F features and their squares,
standardised within the day. This is recursive least squares with exponential forgetting (Haykin 2002, "Adaptive Filter
Theory", chapter 9) and a normal prior on the slopes, which keeps them small where samples are few.

Timing: a return over h days from day u is known at the close of day u + k, where k is h plus the manifest's
`known_after`, 0 where it begins at the close of day u. So the slopes of day t use samples of days up to t - k and
nothing later, on days of validation and test as on any other.

Width: a day costs O(N F^2) for its samples and O(F^3) for its slopes, per horizon: seconds with 2,000 features. So the
regression can be held to the features whose daily ICs have the largest mean, either sign, over the returns that are
known on the first day of the part.

Everything runs in one thread: the products of a day are too small to be shared.

N rows, F features, H horizons
"""

from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.model.neutral import Neutral, centred_and_scale
from engine.score.cross_section import ranks_within_day
from engine.score.rows import present_rows
from engine.threads import one_thread_each
from loaders.by_day import features_by_day
from loaders.cache.format import SCORED
from loaders.panel import Int, Panel
from loaders.split import Days

HALF_LIFE = 250.0  # days
ROWS = 1 << 20  # whose targets are ranked at a time
EXPECTED = 0.06  # deviation of x'w by the prior, where returns deviate by 1: what is expected of a RankIC

Float32 = npt.NDArray[np.float32]


def online_slopes(panel: Panel, part: Days, without: list[int], most: int | None = None) -> Float32:
    """Slopes of each day of a part, [D, 2F, H], in units of EXPECTED, fitted to all days of the panel before.

    Args:
        without: features that are left out, such as ids.
        most: features that are used, the slopes of others are 0; those of the largest mean IC. None: all.
    """
    with one_thread_each(1, "online") as threads:
        return threads.submit(_slopes, panel, part, without, most).result()


def _slopes(panel: Panel, part: Days, without: list[int], most: int | None) -> Float32:
    horizons, features = panel.manifest.horizons, len(panel.manifest.features)
    known_after = panel.manifest.known_after
    used = np.arange(features)
    if most is not None and features - len(without) > most:
        until = [max(part.start + 1 - h - known_after, 0) for h in horizons]
        size = _ic_size(panel, until)
        size[without] = -1
        used = np.sort(np.argsort(-size, stable=True)[:most])
    unused = np.isin(used, without)
    columns = 2 * len(used)
    squares = torch.zeros(len(horizons), columns, columns, dtype=torch.float64)
    products = torch.zeros(len(horizons), columns, dtype=torch.float64)
    prior, fade = columns / EXPECTED**2 * torch.eye(columns, dtype=torch.float64), 0.5 ** (1 / HALF_LIFE)
    # Of each horizon's last days whose returns are not known yet, the oldest first.
    none = torch.zeros(columns, columns), torch.zeros(columns)
    waiting = [deque([none] * (h + known_after), h + known_after) for h in horizons]
    slopes = torch.zeros(len(part), 2 * features, len(horizons))
    places = torch.from_numpy(np.concatenate([used, features + used]))
    for t, (x, ranks) in enumerate(_universe_by_day(panel, part.stop)):
        x = x[:, used] if len(used) < features else x
        x[:, unused] = 0
        x = _columns(x, torch.ones(len(x)))
        for i, days in enumerate(waiting):
            square, product = days[0]
            squares[i].mul_(fade).add_(square)
            products[i].mul_(fade).add_(product)
            if t >= part.start:
                solved = torch.linalg.solve(squares[i] + prior, products[i]) / EXPECTED
                slopes[t - part.start, places, i] = solved.float()
            known = torch.isfinite(ranks[:, i])
            of_known = x[known]
            days.append((of_known.T @ of_known, of_known.T @ ranks[known, i]))
    return slopes.numpy()


def _ic_size(panel: Panel, known: list[int]) -> npt.NDArray[np.float64]:
    """|Mean daily correlation| of each feature [F] with ranked returns, summed over horizons.

    Args:
        known: days from the first on whose returns are known, of each horizon.
    """
    totals = torch.zeros(len(known), len(panel.manifest.features), dtype=torch.float64)
    for t, (x, ranks) in enumerate(_universe_by_day(panel, max(known))):
        centred, scale = centred_and_scale(x[None], torch.full((1, 1, len(x)), 1 / max(len(x), 1)))
        z = (centred * scale)[0]
        for i, of_horizon in enumerate(known):
            if t < of_horizon:
                of_day = ranks[:, i]
                totals[i] += z.T @ of_day.nan_to_num() / torch.isfinite(of_day).sum().clamp(min=1)
    return (totals.abs() / torch.tensor(known).clamp(min=1)[:, None]).sum(0).numpy()


def online_scores(panel: Panel, part: Days, slopes: Float32, neutral: Neutral | None) -> Float32:
    """Scores [N, H] by slopes of the part's days, in the order of `present_rows`.

    Args:
        neutral: removes their exposure to risk factors; None: nothing does.
    """
    with one_thread_each(1, "online") as threads:
        return threads.submit(_scores, panel, part, slopes, neutral).result()


def _scores(panel: Panel, part: Days, slopes: Float32, neutral: Neutral | None) -> Float32:
    rows, day, _ = present_rows(panel, part)
    borders = np.searchsorted(day, np.arange(part.start, part.stop + 1))
    found = []
    for i, (x, scored) in enumerate(_by_day(panel, rows, borders)):
        scores = _columns(x, scored) @ torch.from_numpy(slopes[i])
        if neutral is not None:
            of_day = (array[:, None].to(neutral.directions.device) for array in (scores, x, scored))
            scores = neutral(*of_day)[:, 0].cpu()
        found.append(scores)
    return torch.cat(found).numpy()


def _universe_by_day(panel: Panel, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [N, F] of the universe's rows on each of the first `stop` days, and ranks [N, H] of their targets."""
    step = max(ROWS // len(panel.offset), 1)
    for start in range(0, stop, step):
        days = np.arange(start, min(start + step, stop) + 1)
        rows, day, _ = present_rows(panel, Days(start, int(days[-1])))
        universe = panel.presence[rows] == SCORED
        rows, day = rows[universe], day[universe]
        ranks, borders = _ranks(panel.targets[rows], day), np.searchsorted(day, days)
        for i, (x, _) in enumerate(_by_day(panel, rows, borders)):
            yield x, ranks[borders[i] : borders[i + 1]]


def _by_day(panel: Panel, rows: Int, borders: Int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [N, F] of each day's rows, and which of them are of the universe [N] (float 0/1)."""
    for day, features in enumerate(features_by_day(panel, rows, borders)):
        scored = panel.presence[rows[borders[day] : borders[day + 1]]] == SCORED
        yield torch.from_numpy(features.astype(np.float32)), torch.from_numpy(scored).float()


def _columns(x: Tensor, scored: Tensor) -> Tensor:
    """Regressors [N, 2F] of a day: x [N, F] and its squares, standardised over the `scored` rows [N]."""
    share_of = (scored / scored.sum().clamp(min=1))[None, None]
    centred, scale = centred_and_scale(x[None], share_of)
    z = centred * scale
    centred, scale = centred_and_scale(z.square(), share_of)
    return torch.cat([z, centred * scale], -1)[0]


def _ranks(targets: Float32, day: Int) -> Tensor:
    """Ranks within the day of each horizon's targets [N, H], of deviation 1, NaN where there is none."""
    ranks = np.full(targets.shape, np.nan, np.float32)
    for i, column in enumerate(targets.T):
        known = np.isfinite(column)
        ranks[known, i] = ranks_within_day(column[known], day[known]) * np.sqrt(12)
    return torch.from_numpy(ranks)
