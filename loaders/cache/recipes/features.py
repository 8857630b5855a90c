"""The daily features of recipe `ohlcv`: plain NumPy on one code's days, looking back only.

Every function takes and gives float64 [n], n consecutive days of one code; NaN where the history is too short.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

RETURN_DAYS = (1, 2, 5, 10, 20, 60, 120, 250)
GAP_DAYS = (5, 10, 20, 60, 120, 250)
POSITION_DAYS = (5, 20, 60, 250)
LOOKBACK_DAYS = 250  # before the day itself: no feature sees a day further back

FEATURES = (
    *(f"ret_{k}" for k in RETURN_DAYS),  # close to close over k days
    "ret_1_lag_1", "ret_1_lag_2", "ret_5_lag_5",  # the same, that many days ago
    "momentum_120_20", "momentum_250_20",  # return over 120 or 250 days, without the last 20
    "vol_5", "vol_20", "vol_60", "vol_5_60", "down_vol_20", "skew_60",  # of daily log returns; vol_5_60: ratio
    "max_ret_20", "min_ret_20",  # largest and smallest daily return
    *(f"ma_gap_{k}" for k in GAP_DAYS),  # close over its moving average
    "range_1", "range_5", "range_20",  # mean of log(high / low)
    "position_1", *(f"position_{k}" for k in POSITION_DAYS),  # of the close in the range of k days, 0..1
    "gap_1", "gap_5", "gap_20",  # mean overnight return, close to open
    "intraday_1", "intraday_5", "intraday_20",  # mean return from open to close
    "volume_1_20", "volume_5_20", "volume_5_60",  # ratios of mean volumes
    "dollar_20", "dollar_5_60",  # log of mean close x volume; ratio of such means
    "illiquidity_20",  # mean of |return| over dollar volume (Amihud 2002)
    "signed_volume_5", "signed_volume_20",  # share of volume on rising days less that on falling days
    "volume_return_20",  # correlation of volume and return
    "traded_20",  # share of days with volume
    "log_close",
    "beta_60", "residual_1", "residual_5", "residual_20", "residual_vol_60",  # against the equal-weight market
    "weekday_50",  # mean return on the next day's place in the week, last 10 weeks
    "annual_20",  # return of the 20 days to come, a year ago (Heston and Sadka 2008)
)  # fmt: skip


def ago(x: Array, days: int) -> Array:
    """x of `days` days ago."""
    out = np.full(len(x), np.nan)
    if days < len(x):
        out[days:] = x[: len(x) - days]
    return out


def trailing_sum(x: Array, days: int) -> Array:
    """Sum of the last `days` values, those before the first are 0: by doubling spans, log2(days) passes.

    Other than a difference of running sums it is the same to the last bit whatever came before those days.
    """
    total, spans, span, covered = np.zeros(len(x)), x, 1, 0
    while True:
        if days & span:  # spans of 1, 2, 4, ... days, as the binary digits of `days` say, one before the other
            total[covered:] += spans[: max(len(x) - covered, 0)]
            covered += span
        if covered == days:
            return total
        longer = spans.copy()
        longer[span:] += spans[:-span]
        spans, span = longer, 2 * span


def trailing_mean(x: Array, days: int) -> Array:
    """Mean of the last `days` values, the day's own included. x is finite."""
    out = trailing_sum(x, days) / days
    out[: days - 1] = np.nan
    return out


def trailing_deviation(x: Array, days: int) -> Array:
    """Standard deviation (population) of the last `days` values."""
    variance = trailing_mean(x * x, days) - trailing_mean(x, days) ** 2
    return np.sqrt(np.maximum(variance, 0))


def trailing_max(x: Array, days: int) -> Array:
    """Largest of the last `days` values, by doubling spans: log2(days) passes."""
    best, span = x.copy(), 1
    while span < days:
        step = min(span, days - span)
        best = np.fmax(best, ago(best, step))
        span += step
    best[: days - 1] = np.nan
    return best


def daily_features(
    open_: npt.NDArray[np.float32],
    high: npt.NDArray[np.float32],
    low: npt.NDArray[np.float32],
    close: npt.NDArray[np.float32],
    volume: npt.NDArray[np.float32],
    returns: npt.NDArray[np.float32],
    market: Array,
) -> dict[str, Array]:
    """Every feature of `FEATURES` by name, [n] each, not normalised.

    Args:
        open_: NaN where unknown. high, low, close: finite from the first known close on. volume: 0 or more.
        returns: clipped daily log returns, finite. market: their mean over the universe, on the same days.

    The value on day t depends on days t - LOOKBACK_DAYS..t alone, to the last bit. NaN and infinite values mean that
    it is missing.
    """
    with np.errstate(all="ignore"):
        out = _features(
            open_.astype(np.float64), high.astype(np.float64), low.astype(np.float64), close.astype(np.float64),
            volume.astype(np.float64), returns.astype(np.float64), market,
        )  # fmt: skip
        for values in out.values():
            values[~np.isfinite(values)] = np.nan
    return out


def _features(
    open_: Array, high: Array, low: Array, close: Array, volume: Array, returns: Array, market: Array
) -> dict[str, Array]:
    out: dict[str, Array] = {}
    # A price that is unknown as yet (a code that begins without a usable close) must not spoil sums of later days.
    price = np.where(np.isnan(close), 0.0, close)
    day_return = close / ago(close, 1) - 1

    for k in RETURN_DAYS:
        out[f"ret_{k}"] = close / ago(close, k) - 1
    out["ret_1_lag_1"] = ago(out["ret_1"], 1)
    out["ret_1_lag_2"] = ago(out["ret_1"], 2)
    out["ret_5_lag_5"] = ago(out["ret_5"], 5)
    for k in (120, 250):
        out[f"momentum_{k}_20"] = ago(close, 20) / ago(close, k) - 1

    for k in (5, 20, 60):
        out[f"vol_{k}"] = trailing_deviation(returns, k)
    out["vol_5_60"] = out["vol_5"] / out["vol_60"]
    out["down_vol_20"] = np.sqrt(trailing_mean(np.minimum(returns, 0) ** 2, 20))
    mean, deviation = trailing_mean(returns, 60), out["vol_60"]
    third = trailing_mean(returns**3, 60) - 3 * mean * trailing_mean(returns**2, 60) + 2 * mean**3
    out["skew_60"] = np.where(deviation > 1e-6, third / deviation**3, np.nan)
    out["max_ret_20"] = trailing_max(day_return, 20)
    out["min_ret_20"] = -trailing_max(-day_return, 20)

    for k in GAP_DAYS:
        out[f"ma_gap_{k}"] = price / trailing_mean(price, k) - 1

    log_range = np.log(high / low)
    log_range[~np.isfinite(log_range)] = 0
    out["range_1"] = log_range.copy()
    for k in (5, 20):
        out[f"range_{k}"] = trailing_mean(log_range, k)
    out["position_1"] = (close - low) / (high - low)
    for k in POSITION_DAYS:
        top, bottom = trailing_max(high, k), -trailing_max(-low, k)
        out[f"position_{k}"] = (close - bottom) / (top - bottom)

    gap, intraday = open_ / ago(close, 1) - 1, close / open_ - 1
    for name, x in (("gap", gap), ("intraday", intraday)):
        known = np.isfinite(x)
        clipped = np.clip(np.where(known, x, 0), -0.5, 0.5)
        out[f"{name}_1"] = x
        for k in (5, 20):
            out[f"{name}_{k}"] = trailing_mean(clipped, k) / trailing_mean(known.astype(np.float64), k)

    mean_volume = {k: trailing_mean(volume, k) for k in (5, 20, 60)}
    out["volume_1_20"] = volume / mean_volume[20]
    out["volume_5_20"] = mean_volume[5] / mean_volume[20]
    out["volume_5_60"] = mean_volume[5] / mean_volume[60]
    dollar = price * volume
    mean_dollar = trailing_mean(dollar, 20)
    out["dollar_20"] = np.log(np.where(mean_dollar >= 1, mean_dollar, 1))
    out["dollar_20"][np.isnan(mean_dollar)] = np.nan
    out["dollar_5_60"] = trailing_mean(dollar, 5) / trailing_mean(dollar, 60)
    traded = (dollar > 0).astype(np.float64)
    illiquidity = np.where(dollar > 0, np.abs(returns) / np.maximum(dollar, 1), 0)
    out["illiquidity_20"] = trailing_mean(illiquidity, 20) / trailing_mean(traded, 20)
    signed = np.sign(returns) * volume
    for k in (5, 20):
        out[f"signed_volume_{k}"] = trailing_mean(signed, k) / mean_volume[k]
    log_volume = np.log1p(volume)
    covariance = trailing_mean(log_volume * returns, 20) - trailing_mean(log_volume, 20) * trailing_mean(returns, 20)
    spread = trailing_deviation(log_volume, 20) * out["vol_20"]
    out["volume_return_20"] = np.where(spread > 1e-9, covariance / spread, np.nan)
    out["traded_20"] = trailing_mean(traded, 20)
    out["log_close"] = np.log(close)

    variance = trailing_deviation(market, 60) ** 2
    with_market = trailing_mean(returns * market, 60) - trailing_mean(returns, 60) * trailing_mean(market, 60)
    beta = np.where(variance > 1e-12, with_market / variance, np.nan)
    residual = returns - np.where(np.isnan(beta), 1.0, beta) * market
    out["beta_60"] = beta
    out["residual_1"] = residual.copy()
    out["residual_5"] = trailing_mean(residual, 5)
    out["residual_20"] = trailing_mean(residual, 20)
    out["residual_vol_60"] = trailing_deviation(residual, 60)

    weeks = np.mean([ago(returns, 5 * k - 1) for k in range(1, 11)], axis=0)
    out["weekday_50"] = weeks
    out["annual_20"] = ago(close, 230) / ago(close, 250) - 1
    return out
