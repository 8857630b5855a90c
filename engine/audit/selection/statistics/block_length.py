"""The mean block length of the stationary bootstrap that estimates the variance of a mean best.

Politis and White 2004, "Automatic Block-Length Selection for the Dependent Bootstrap", Econometric Reviews 23(1), with
the correction of Patton, Politis and White 2009, ibid. 28(4): b = (2 G^2 / D)^(1/3) T^(1/3), D = 2 g(0)^2, where g is
the spectrum at 0 and G = sum |k| c_k, both by a flat-top window of the autocovariances c_k. The window ends at twice
the first of five lags in a row whose autocorrelations are within noise.
"""

import math

import numpy as np
import numpy.typing as npt

RUN = 5  # lags


def block_length(series: npt.ArrayLike) -> float:
    """Days of a block for a series [T]: at least 1, at most the smaller of 3 sqrt(T) and T / 3."""
    x = np.asarray(series, np.float64)
    days = len(x)
    most = math.ceil(min(3 * math.sqrt(days), days / 3))
    if days < 20 or not x.max() > x.min():
        return 1.0
    x = x - x.mean()
    lags = math.ceil(math.sqrt(days)) + RUN
    covariance = np.array([x[: days - k] @ x[k:] for k in range(min(lags, days - 1) + 1)]) / days
    noisy = np.abs(covariance[1:] / covariance[0]) < 2 * math.sqrt(math.log10(days) / days)
    quiet = [m for m in range(1, len(noisy) - RUN + 2) if noisy[m - 1 : m - 1 + RUN].all()]
    window = min(2 * quiet[0], lags) if quiet else lags
    k = np.arange(1, min(window, len(covariance) - 1) + 1)
    weights = np.where(k / window <= 0.5, 1.0, 2 * (1 - k / window))
    slope = 2 * float((weights * k * covariance[k]).sum())
    spectrum = float(covariance[0] + 2 * (weights * covariance[k]).sum())
    if not abs(spectrum) > 0:
        return float(most)
    return float(min(max((slope / spectrum) ** 2 * days, 1.0) ** (1 / 3), most))
