"""Splits that prices were not adjusted for, or on one side of a wrong date."""

import numpy as np

from engine.audit.copies.every_code import every_code, log_moves, robust_scale
from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import CacheSample

ADVICE = Advice(
    "mirrored splits",
    "A split that is not adjusted is a return that no holder had; features of trailing days hold it for months.",
    "Read adjusted prices, or adjust open, high, low, close and volume by the split's ratio.",
)
RATIOS = np.log([1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0])
NEAR = 2.0  # usual moves between a day's open and the ratio
DRIFT = 3.0  # usual moves from the open to the close
WIDE = 3.0  # usual ranges, of a day of news
TURNOVER = 3.0  # times the usual dollar volume, of a day of news
LARGE = 12.0  # usual moves, at least, that the ratio is
BEFORE = 20  # days of what is usual
NOISE = 0.005  # least deviation of a code
MANY = 3  # labels that hold a jump: then it fails


def mirrored_splits(sample: CacheSample) -> Finding:
    """Whether prices jump overnight by a split's ratio, or its inverse, on a day that is otherwise as usual.

    A day counts where the open over the close before lies within 2 usual daily moves of a common ratio (3:2 to 100:1,
    either way), the ratio is at least 12 usual moves, the close stays within 3 usual moves of the open, the range of
    the day is within 3 of its 20-day medians, and so is close x volume: news that halves a price comes with wide ranges
    and many times the volume. Usual is the robust deviation of the code's moves (1.4826 x their median size). For a
    code with normal moves the ratio alone has a probability of 1e-32; what is left is news without trade, a special
    dividend, or two securities under one code. Fails where 3 labels of the universe hold a jump.
    """
    names = {"open", "high", "low", "close", "volume"}
    if not names <= sample.bars.keys():
        return skipped(ADVICE, "needs open, high, low, close and volume in the kept source")
    found: list[tuple[float, str]] = []
    labelled = 0
    for part in every_code(sample):
        day, code, ratio = _jumps(part)
        for t, s, jump in zip(day.tolist(), code.tolist(), ratio.tolist(), strict=True):
            held = bool(part.scored[t - 1, s]) and bool(
                part.horizons and np.isfinite(part.targets[part.horizons[0]][t - 1, s])
            )
            labelled += held
            name = f"{part.names[s]} on {part.panel.calendar[t]} (x{np.exp(jump):.3g})"
            found.append((abs(jump) + 10 * held, name))
    told = f"{len(found):,} jumps by a split's ratio, {labelled:,} of them in labels of the universe"
    concerned = [name for _, name in sorted(found, key=lambda pair: -pair[0])]
    if labelled >= MANY:
        return failed(ADVICE, told, concerned)
    return warned(ADVICE, told, concerned) if found else passed(ADVICE, told)


def _jumps(part: CacheSample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Days, codes and log ratios of the days that look like a split."""
    close, volume = part.bars["close"], part.bars["volume"]
    move = log_moves(close)
    usual = robust_scale(move, NOISE)
    day, code = np.nonzero(np.abs(move) > np.maximum(RATIOS[0] - (NEAR + DRIFT) * usual, LARGE / 2 * usual))
    keep = day > 0
    day, code = day[keep], code[keep]
    opened, before = part.bars["open"][day, code].astype(np.float64), close[day - 1, code]
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.log(np.where(opened > 0, opened, np.nan) / before)
    nearest = RATIOS[np.argmin(np.abs(np.abs(np.nan_to_num(gap))[:, None] - RATIOS), 1)]
    noise = usual[code]
    fits = np.abs(np.abs(gap) - nearest) < NEAR * noise
    fits &= (nearest > LARGE * noise) & (np.abs(move[day, code] - gap) < DRIFT * noise)
    day, code, gap, nearest = day[fits], code[fits], gap[fits], nearest[fits]
    quiet = np.zeros(len(day), bool)
    for i, (t, s) in enumerate(zip(day.tolist(), code.tolist(), strict=True)):
        past = slice(max(t - BEFORE, 0), t)
        high, low = part.bars["high"][:, s], part.bars["low"][:, s]
        with np.errstate(divide="ignore", invalid="ignore"):
            ranges = np.log(high[past] / low[past])
            today = np.log(high[t] / low[t])
        dollars = close[past, s].astype(np.float64) * volume[past, s]
        ranges, dollars = ranges[np.isfinite(ranges)], dollars[dollars > 0]
        if len(ranges) < BEFORE // 2 or len(dollars) < BEFORE // 2:
            continue
        spent = float(close[t, s]) * float(volume[t, s])
        usual_range = max(float(np.median(ranges)), NOISE)
        quiet[i] = today < WIDE * usual_range and 0 < spent < TURNOVER * float(np.median(dollars))
    return day[quiet], code[quiet], (np.sign(gap) * nearest)[quiet]
