"""All codes of a panel, so many at a time that memory stays bounded: what one code alone can show."""

from collections.abc import Iterator

import numpy as np

from engine.audit.sample import CacheSample


def every_code(sample: CacheSample) -> Iterator[CacheSample]:
    """The sample itself where it holds all codes, else samples of its size that hold all of them together."""
    n, size = len(sample.panel.manifest.codes), len(sample.codes)
    if size == n:
        yield sample
        return
    for start in range(0, n, size):
        yield CacheSample(sample.panel, np.arange(start, min(start + size, n)))


def log_moves(close: np.ndarray) -> np.ndarray:
    """[T, S] float64 log returns from day t - 1 to t; NaN beside a close that is missing or not positive."""
    logs = np.log(np.where(close > 0, close, np.nan).astype(np.float64))
    found = np.full(logs.shape, np.nan)
    found[1:] = logs[1:] - logs[:-1]
    return found


def robust_scale(moves: np.ndarray, least: float) -> np.ndarray:
    """[S] 1.4826 x the median absolute move of each code, which is the deviation of normal ones; at least `least`."""
    sizes = np.sort(np.abs(moves), 0)  # NaN come last
    count = np.isfinite(moves).sum(0)
    middle = sizes[np.minimum(count // 2, len(sizes) - 1), np.arange(moves.shape[1])]
    return np.fmax(1.4826 * middle, least)
