"""Means of resampled series, by the stationary bootstrap: blocks of geometric length from a circle of days.

Politis and Romano 1994, "The Stationary Bootstrap", Journal of the American Statistical Association 89(428).

T days, N series, R draws
"""

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

CHUNK = 1_000_000  # days of a round of draws


def resampled_days(days: int, block: float, draws: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """[R, T] days of each draw. A block begins on any day, goes on with probability 1 - 1 / `block`, and after the last
    day with the first."""
    begins = rng.random((draws, days)) < 1 / block
    begins[:, 0] = True
    place = np.arange(days)
    since = np.maximum.accumulate(np.where(begins, place, 0), 1)
    first = np.take_along_axis(rng.integers(0, days, (draws, days)), since, 1)
    return (first + place - since) % days


def resampled_means(series: Float, block: float, draws: int, seed: int) -> Float:
    """[R, N] means of series [T, N], whose days are drawn together."""
    days = len(series)
    rng, found = np.random.default_rng(seed), []
    step = max(CHUNK // days, 1)
    for start in range(0, draws, step):
        some = min(step, draws - start)
        drawn = resampled_days(days, block, some, rng)
        times = np.bincount((drawn + np.arange(some)[:, None] * days).ravel(), minlength=some * days)
        found.append(times.reshape(some, days) @ series / days)
    return np.concatenate(found)


def long_run_variance(series: Float, block: float) -> Float:
    """[N] T times the variance of the resampled means of series [T, N], without a draw: Politis and Romano's lemma 1.

    c_0 + 2 sum_i w_i c_i over the autocovariances, with w_i = (1 - i / T) q^i + (i / T) q^(T - i), q = 1 - 1 / block.
    """
    days = len(series)
    x = series - series.mean(0)
    size = 1 << (2 * days - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(x, size, axis=0)) ** 2
    covariance = np.fft.irfft(spectrum, size, axis=0)[:days] / days
    i, q = np.arange(days), 1 - 1 / block
    weights = (1 - i / days) * q**i + i / days * q ** (days - i)
    weights[1:] *= 2
    weights[0] = 1
    return np.asarray(weights @ covariance)
