"""Baselines on the same cache, the same split and the same metrics: rivals that a network has to beat.

    reversal   minus one feature, nothing fitted
    ridge      linear in the day's features, on rank targets within the day; penalty chosen on validation RankIC
    lightgbm   boosted trees on the same rank targets, stopped early on the validation part
    online     the online regression alone (engine/score/online.py); on wide panels its features are chosen once, before
               validation

Ridge never holds the panel: it streams the rows once per horizon into F x F sums, in float64. The trees hold their
training samples as float32 [N, F]. A new rival is a function and an entry of RIVALS.

N rows or samples, F features, H horizons
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.score.cross_section import ranks_within_day
from engine.score.metrics import daily_rank_ic
from engine.score.online import online_scores, online_slopes
from engine.score.rows import present_rows
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.progress import Progress, counted, part_of, quiet
from loaders.split import Days, Split

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

CHUNK_ROWS = 1 << 17
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # relative to the variance of a feature
TREES = {
    "objective": "regression",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "max_bin": 63,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
MOST_TREES, PATIENCE, LEAF_ROWS = 500, 50, 1000
LEAST_FILTERED = 400  # samples: a twentieth of them are the 20 that LightGBM expects in a leaf


@dataclass(frozen=True)
class Options:
    """Settings of rivals."""

    feature: str = "ret_1"  # that `reversal` bets against
    seed: int = 0  # of the trees' sampling of rows and features
    online_features: int | None = None  # most that `online` uses; None: all
    without: tuple[int, ...] = ()  # features that `online` leaves out, such as ids
    progress: Progress = quiet


PartScores = dict[str, npt.NDArray[np.float32]]  # "valid" and "test" -> [N, H], in the order of `present_rows`


def run_baseline(panel: Panel, split: Split, kind: str, options: Options | None = None) -> PartScores:
    """Fit a rival of that name and score the parts "valid" and "test".

    Raises InputError for a name that RIVALS lacks, a feature the cache lacks, a part without samples, and an absent
    lightgbm.
    """
    if kind not in RIVALS:
        raise InputError("--kind", f"no rival {kind!r}", f"Use {', '.join(RIVALS)}")
    return RIVALS[kind](panel, split, options or Options())


def _online(panel: Panel, split: Split, options: Options) -> PartScores:
    start = split.valid.start
    days = Days(start, split.test.stop)
    slopes = online_slopes(panel, days, list(options.without), options.online_features, progress=options.progress)
    parts = {name: split.part(name) for name in ("valid", "test")}
    return {
        name: online_scores(panel, part, slopes[part.start - start : part.stop - start], None)
        for name, part in parts.items()
    }


def _reversal(panel: Panel, split: Split, options: Options) -> PartScores:
    names = panel.manifest.features
    if options.feature not in names:
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise InputError("--feature", f"no feature {options.feature!r} in {panel.folder}", f"Choose one of {shown}")
    column = names.index(options.feature)
    scores = {}
    for name in ("valid", "test"):
        rows, _, _ = present_rows(panel, split.part(name))
        values = -panel.features[rows, column].astype(np.float32)
        scores[name] = np.repeat(values[:, None], len(panel.manifest.horizons), 1)
    return scores


def _by_horizon(
    fit: Callable[[Panel, Split, int, Options], PartScores],
) -> Callable[[Panel, Split, Options], PartScores]:
    """A rival whose fit takes one horizon at a time, by its number."""

    def every(panel: Panel, split: Split, options: Options) -> PartScores:
        count = len(panel.manifest.horizons)
        parts = [replace(options, progress=part_of(options.progress, i / count, (i + 1) / count)) for i in range(count)]
        columns = [fit(panel, split, i, part) for i, part in enumerate(parts)]
        return {name: np.stack([column[name] for column in columns], 1) for name in ("valid", "test")}

    return every


def _samples(panel: Panel, split: Split, name: str, horizon: int) -> tuple[Int, Int]:
    """Rows of the panel and calendar indices of a part's samples for the horizon of that number, ordered by day."""
    part: Days = split.part(name)
    rows, day, _ = present_rows(panel, part)
    sample = (panel.presence[rows] == SCORED) & np.isfinite(panel.targets[rows, horizon])
    if not sample.any():
        dates = f"{panel.calendar[part.start]} to {panel.calendar[part.stop - 1]}"
        what = f"the {name} part, {dates}, has no sample for horizon {panel.manifest.horizons[horizon]}"
        raise InputError(str(panel.folder), what, "Choose another split")
    return rows[sample], day[sample]


def _chunks(day: Int) -> Iterator[slice]:
    """Slices of whole days, of about CHUNK_ROWS rows; `day` is ascending."""
    borders = np.append(np.flatnonzero(np.diff(day, prepend=-1)), len(day))
    start = 0
    while start < len(day):
        stop = int(borders[np.searchsorted(borders, start + CHUNK_ROWS, "right") - 1])
        stop = stop if stop > start else int(borders[np.searchsorted(borders, start, "right")])
        yield slice(start, stop)
        start = stop


def _ridge(panel: Panel, split: Split, horizon: int, options: Options) -> PartScores:
    """Least squares of the rank targets on features centred within the day, with the best of PENALTIES."""
    rows, day = _samples(panel, split, "train", horizon)
    target = ranks_within_day(panel.targets[rows, horizon], day)
    width = panel.features.shape[1]
    gram, moment = np.zeros((width, width)), np.zeros(width)
    for piece in counted(_chunks(day), -(-len(day) // CHUNK_ROWS), options.progress, "ridge"):
        x = panel.features[rows[piece]].astype(np.float64)
        starts = np.flatnonzero(np.diff(day[piece], prepend=-1))
        counts = np.diff(np.append(starts, len(x)))
        x -= np.repeat(np.add.reduceat(x, starts, 0) / counts[:, None], counts, 0)
        gram += x.T @ x
        moment += x.T @ target[piece]
    if not np.isfinite(gram).all():
        what = "features are not finite, or so large that their squares are not"
        raise InputError(str(panel.folder), what, "Build it with --transform rank, or check it with `cache verify`")
    scale = np.sqrt(np.diag(gram) / len(rows))
    scale[scale == 0] = np.inf  # a constant feature has no coefficient
    correlation = gram / len(rows) / np.outer(scale, scale)
    covariance = moment / len(rows) / scale
    candidates = np.stack([np.linalg.solve(correlation + a * np.eye(width), covariance) for a in PENALTIES], 1)
    coefficients = candidates / scale[:, None]

    rows, day = _samples(panel, split, "valid", horizon)
    tried = _linear(panel, rows, coefficients)
    figures = [_mean_rank_ic(s, panel.targets[rows, horizon], day) for s in tried.T]
    best = coefficients[:, [int(np.argmax(figures))]]
    return {
        name: _linear(panel, present_rows(panel, split.part(name))[0], best)[:, 0].astype(np.float32)
        for name in ("valid", "test")
    }


def _mean_rank_ic(scores: Float, targets: npt.NDArray[np.float32], day: Int) -> float:
    """Mean daily RankIC; -inf where no day defines one, so that it is never the best."""
    values = daily_rank_ic(scores, targets, day)[1]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else -np.inf


def _linear(panel: Panel, rows: Int, coefficients: Float) -> Float:
    """Features of the rows times coefficients [F, K], float64 [N, K]."""
    pieces = [rows[i : i + CHUNK_ROWS] for i in range(0, len(rows), CHUNK_ROWS)]
    return np.concatenate([panel.features[piece].astype(np.float64) @ coefficients for piece in pieces])


def _trees(panel: Panel, split: Split, horizon: int, options: Options) -> PartScores:
    try:
        import lightgbm
    except ImportError as error:
        raise InputError("--kind lightgbm", f"not available ({error})", "pip install 'atft-engine[peers]'") from error

    of_train = _samples(panel, split, "train", horizon)
    # Of few samples a leaf will hold fewer than those by which the library leaves features out beforehand.
    of_data = TREES | {"feature_pre_filter": len(of_train[0]) >= LEAST_FILTERED}

    def dataset(samples: tuple[Int, Int], reference: "lightgbm.Dataset | None" = None) -> "lightgbm.Dataset":
        rows, day = samples
        target = ranks_within_day(panel.targets[rows, horizon], day)
        return lightgbm.Dataset(_float32(panel, rows), target, reference=reference, params=of_data).construct()

    train = dataset(of_train)
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    # Small panels still split: a leaf asks for a twentieth of the samples at most.
    parameters = of_data | {"seed": options.seed, "min_data_in_leaf": min(LEAF_ROWS, train.num_data() // 20)}
    valid = dataset(_samples(panel, split, "valid", horizon), train)

    def told(state: "lightgbm.callback.CallbackEnv") -> None:
        options.progress(state.iteration, MOST_TREES, "trees")

    booster = lightgbm.train(parameters, train, MOST_TREES, valid_sets=[valid], callbacks=[stop, told])
    scores = {}
    for name in ("valid", "test"):
        rows, _, _ = present_rows(panel, split.part(name))
        pieces = [rows[i : i + CHUNK_ROWS] for i in range(0, len(rows), CHUNK_ROWS)]
        scores[name] = np.concatenate([booster.predict(_float32(panel, piece)) for piece in pieces]).astype(np.float32)
    return scores


def _float32(panel: Panel, rows: Int) -> npt.NDArray[np.float32]:
    """Features of the rows, float32 [N, F], converted piece by piece."""
    x = np.empty((len(rows), panel.features.shape[1]), np.float32)
    for i in range(0, len(rows), CHUNK_ROWS):
        x[i : i + CHUNK_ROWS] = panel.features[rows[i : i + CHUNK_ROWS]]
    return x


RIVALS: dict[str, Callable[[Panel, Split, Options], PartScores]] = {
    "ridge": _by_horizon(_ridge),
    "reversal": _reversal,
    "lightgbm": _by_horizon(_trees),
    "online": _online,
}
