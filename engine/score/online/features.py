"""The online regression: a ridge regression on the features that is refitted every day to the returns known by then.

The network is frozen at the split. The regression adds what the last year's returns say. Its C = 2F regressors are the
features and their squares, standardised within the day; how it is fitted is in `sums.py`.

Width: a day costs O(N F^2) for its samples and O(F^3) for its slopes, per horizon: seconds with 2,000 features. So the
regression can be held to the features whose daily ICs have the largest mean, either sign, over the returns that are
known on one day. A run chooses them on its first validation day and keeps them.

Days need not be counted twice: the sums of a day are all that later days need of those before (see engine/live).

On a CPU everything runs in one thread: the products of a day are too small to be shared. On a GPU the host reads the
rows and all else is computed there, products in float64. Slopes of many days are solved at once.

N rows, F features, H horizons
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.model.neutral import Neutral, centred_and_scale
from engine.score.online.sums import Recursion, Sums, label_days, no_sums, prior, rank_targets
from engine.score.rows import CPU, Float32, present_rows
from engine.threads import one_thread_each
from loaders.by_day import features_by_day
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Int, Panel
from loaders.progress import Progress, counted, quiet
from loaders.split import Days

HALF_LIFE = 250.0  # days
ROWS = 1 << 20  # whose targets are ranked at a time
SOLVED_BYTES = 64 << 20  # of matrices that are solved at a time
EXPECTED = 0.06  # deviation of x'w by the prior, where returns deviate by 1: what is expected of a RankIC


@dataclass(frozen=True)
class Fit:
    """Slopes of some days, and the sums of one of them, from which later days go on."""

    slopes: Float32  # [D, 2F, H], in units of EXPECTED
    sums: Sums


def online_slopes(
    panel: Panel,
    part: Days,
    without: list[int],
    most: int | None = None,
    device: torch.device = CPU,
    progress: Progress = quiet,
) -> Float32:
    """Slopes of each day of a part, [D, 2F, H], in units of EXPECTED, fitted to all days of the panel before.

    Args:
        without: features that are left out, such as ids.
        most: features that are used, the slopes of others are 0; see `choose_features`. None: all.
        device: that computes them.
        progress: in days.

    Raises InputError for a panel without targets.
    """
    used = choose_features(panel, part.start, without, most, device)
    return fit_online(panel, part, used, without, device, progress=progress).slopes


def choose_features(
    panel: Panel, day: int, without: list[int], most: int | None = None, device: torch.device = CPU
) -> Int:
    """Places of the features that the regression uses, ascending: all where they are not more than `most`, else those
    of the largest mean IC over the returns that are known on a day.

    Args:
        day: calendar index; the features of a run are those chosen on its first validation day.
        without, device: as for `online_slopes`.
    """
    features = len(panel.manifest.features)
    if most is None or features - len(without) <= most:
        return np.arange(features)
    until = [max(day + 1 - days, 0) for days in label_days(panel)]
    with one_thread_each(1, "online") as threads:
        size = threads.submit(_ic_size, panel, until, device).result()
    size[without] = -1
    return np.sort(np.argsort(-size, stable=True)[:most])


def fit_online(
    panel: Panel,
    part: Days,
    used: Int,
    without: list[int],
    device: torch.device = CPU,
    *,
    after: tuple[int, Sums] | None = None,
    keep: int | None = None,
    progress: Progress = quiet,
) -> Fit:
    """Slopes of each day of a part, and the sums of a day.

    Args:
        used: features that are used, the slopes of others are 0.
        without, device: as for `online_slopes`.
        after: a day before the part, or its first, and the sums of that day; the panel must have the days whose
            returns were not known on it. None: the panel's first day is the first that is counted.
        keep: calendar index of the day whose sums are given, not before `after`; None: the part's last day.
        progress: in days.

    Raises InputError for a panel without targets.
    """
    if not panel.manifest.horizons:
        what = "has no targets (--targets none), which the online regression is fitted to"
        cure = "Score a cache with targets, or days that a kept state reaches; or train with model.online_weight=0"
        raise InputError(str(panel.folder), what, cure)
    with one_thread_each(1, "online") as threads:
        keep = part.stop - 1 if keep is None else keep
        return threads.submit(_fit, panel, part, used, without, device, after, keep, progress).result()


def _fit(
    panel: Panel,
    part: Days,
    used: Int,
    without: list[int],
    device: torch.device,
    after: tuple[int, Sums] | None,
    keep: int,
    progress: Progress,
) -> Fit:
    features, added = len(panel.manifest.features), prior(2 * len(used), EXPECTED, device)
    at_once = max(SOLVED_BYTES // (len(panel.manifest.horizons) * added.numel() * added.itemsize), 1)
    unsolved: list[tuple[Tensor, Tensor]] = []
    solved: list[Tensor] = []  # [days, H, C]
    kept = None
    last = max(part.stop - 1, keep)
    by_day = _sums_by_day(panel, last, used, without, device, after)
    first = 0 if after is None else after[0]
    for t, sums in counted(by_day, last - first + 1, progress, "online regression"):
        if t == keep:
            kept = sums.clone()
        if part.start <= t < part.stop:
            unsolved.append((sums.squares + added, sums.products.clone()))
        if len(unsolved) == at_once or (unsolved and t == part.stop - 1):
            left, right = (torch.stack(each) for each in zip(*unsolved, strict=True))
            solved.append((torch.linalg.solve(left, right) / EXPECTED).float().cpu())
            unsolved.clear()
    if kept is None:
        raise ValueError(f"day {keep} is before the last day that is counted")
    return Fit(_spread(torch.cat(solved), used, features), kept)


def slopes_of(sums: Sums, used: Int, features: int) -> Float32:
    """Slopes [1, 2F, H] of a day by its sums."""
    added = prior(sums.squares.shape[-1], EXPECTED, sums.squares.device)
    solved = (torch.linalg.solve(sums.squares + added, sums.products) / EXPECTED).float().cpu()
    return _spread(solved[None], used, features)


def _spread(solved: Tensor, used: Int, features: int) -> Float32:
    """Slopes [D, 2F, H] of those of the features that are used [D, H, C]."""
    slopes = torch.zeros(len(solved), 2 * features, solved.shape[1])
    slopes[:, np.concatenate([used, features + used])] = solved.mT
    return slopes.numpy()


def _sums_by_day(
    panel: Panel, last: int, used: Int, without: list[int], device: torch.device, after: tuple[int, Sums] | None
) -> Iterator[tuple[int, Sums]]:
    """Each day up to the `last`, from that of `after` or from the first on, and its sums: the next day changes them."""
    columns, waits = 2 * len(used), label_days(panel)
    if after is None:
        counted, sums = -1, no_sums(len(waits), columns, device)
    else:
        counted, sums = after[0], after[1].to(device).clone()
        yield counted, sums
    if counted >= last:
        return
    places, unused = (torch.from_numpy(index).to(device) for index in (used, np.flatnonzero(np.isin(used, without))))
    recursion = Recursion(sums, waits, HALF_LIFE)
    first = max(counted + 1 - max(waits), 0)
    for t, (x, ranks) in enumerate(_universe_by_day(panel, first, last + 1, device), first):
        x = x[:, places] if len(used) < len(panel.manifest.features) else x
        x[:, unused] = 0
        recursion.add_day(_columns(x, torch.ones(len(x), device=device)), ranks, t <= counted)
        if t > counted:
            yield t, sums


def _ic_size(panel: Panel, known: list[int], device: torch.device) -> npt.NDArray[np.float64]:
    """|Mean daily correlation| of each feature [F] with ranked returns, summed over horizons.

    Args:
        known: days from the first on whose returns are known, of each horizon.
    """
    totals = torch.zeros(len(known), len(panel.manifest.features), dtype=torch.float64, device=device)
    for t, (x, ranks) in enumerate(_universe_by_day(panel, 0, max(known), device)):
        centred, scale = centred_and_scale(x[None], torch.full((1, 1, len(x)), 1 / max(len(x), 1), device=device))
        z = (centred * scale)[0]
        for i, of_horizon in enumerate(known):
            if t < of_horizon:
                of_day = ranks[:, i]
                totals[i] += z.T @ of_day.nan_to_num() / torch.isfinite(of_day).sum().clamp(min=1)
    return (totals.abs().cpu() / torch.tensor(known).clamp(min=1)[:, None]).sum(0).numpy()


def online_scores(panel: Panel, part: Days, slopes: Float32, neutral: Neutral | None) -> Float32:
    """Scores [N, H] by slopes of the part's days, in the order of `present_rows`.

    Args:
        neutral: removes their exposure to risk factors, on its device; None: nothing does.
    """
    with one_thread_each(1, "online") as threads:
        return threads.submit(_scores, panel, part, slopes, neutral).result()


def device_of(neutral: Neutral | None) -> torch.device:
    """The device of the risk factors, which computes what is neutralised by them; None: the CPU."""
    return CPU if neutral is None else neutral.directions.device


def _scores(panel: Panel, part: Days, slopes: Float32, neutral: Neutral | None) -> Float32:
    rows, day, _ = present_rows(panel, part)
    borders = np.searchsorted(day, np.arange(part.start, part.stop + 1))
    device = device_of(neutral)
    of_days, found = torch.from_numpy(slopes).to(device), []
    for i, (x, scored) in enumerate(_by_day(panel, rows, borders, device)):
        scores = _columns(x, scored) @ of_days[i]
        if neutral is not None:
            scores = neutral(scores[:, None], x[:, None], scored[:, None])[:, 0]
        found.append(scores)
    return torch.cat(found).cpu().numpy()


def _universe_by_day(panel: Panel, first: int, stop: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [N, F] of the universe's rows on each of the days first..stop-1, and ranks [N, H] of their targets."""
    step = max(ROWS // len(panel.offset), 1)
    for start in range(first, stop, step):
        days = np.arange(start, min(start + step, stop) + 1)
        rows, day, _ = present_rows(panel, Days(start, int(days[-1])))
        universe = panel.presence[rows] == SCORED
        rows, day = rows[universe], day[universe]
        ranks, borders = rank_targets(panel.targets[rows], day).to(device), np.searchsorted(day, days)
        for i, (x, _) in enumerate(_by_day(panel, rows, borders, device)):
            yield x, ranks[borders[i] : borders[i + 1]]


def _by_day(panel: Panel, rows: Int, borders: Int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [N, F] of each day's rows, and which of them are of the universe [N] (float 0/1)."""
    for day, features in enumerate(features_by_day(panel, rows, borders)):
        scored = panel.presence[rows[borders[day] : borders[day + 1]]] == SCORED
        yield torch.from_numpy(features).to(device).float(), torch.from_numpy(scored).to(device).float()


def _columns(x: Tensor, scored: Tensor) -> Tensor:
    """Regressors [N, 2F] of a day: x [N, F] and its squares, standardised over the `scored` rows [N]."""
    share_of = (scored / scored.sum().clamp(min=1))[None, None]
    centred, scale = centred_and_scale(x[None], share_of)
    z = centred * scale
    centred, scale = centred_and_scale(z.square(), share_of)
    return torch.cat([z, centred * scale], -1)[0]
