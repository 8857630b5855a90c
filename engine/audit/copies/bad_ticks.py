"""Prices that were never paid: away and back within a day or two."""

import numpy as np

from engine.audit.copies.every_code import every_code, log_moves, robust_scale
from engine.audit.finding import Advice, Finding, failed, passed, skipped, warned
from engine.audit.sample import CacheSample

ADVICE = Advice(
    "bad ticks",
    "A wrong price makes two labels and weeks of features that never were; one of them can carry a portfolio's mean.",
    "Read the price again, or drop the bar.",
)
DEVIATIONS = 25.0
LEAST = float(np.log(1.5))  # of a close, away and back
BACK = 0.25  # of the move, that may be missing on the way back
CERTAIN = float(np.log(5.0))
NOISE = 0.005  # least deviation of a code


def bad_ticks(sample: CacheSample) -> Finding:
    """Whether closes go away and come back at once by more than heavy tails explain.

    The distance of a log return is that from its day's median, in units of the larger of two robust deviations (1.4826
    x the median size): the code's own and the day's. A tick is a close with a distance over 25, a move of over half the
    price, and the opposite move on the code's next day with no more than a quarter of it left. With Student's t of 2.5
    degrees of freedom one move of that distance has a probability of 3e-4, two opposite ones of one size about 1e-8:
    one in a thousand panels of 100,000 rows, fewer with lighter tails. Fails where a label of the universe holds a tick
    of five times the price or more.
    """
    if "close" not in sample.bars:
        return skipped(ADVICE, "no closes: the cache keeps no bars")
    found: list[tuple[float, str]] = []
    labelled, certain = 0, False
    for part in every_code(sample):
        day, code, size = _ticks(part)
        label = part.targets[part.horizons[0]] if part.horizons else np.full(part.presence.shape, np.nan, np.float32)
        held = np.zeros(len(day), bool)
        for ago in (0, 1):
            held |= part.scored[day - ago, code] & np.isfinite(label[day - ago, code])
        labelled += int(held.sum())
        certain |= bool((held & (np.abs(size) > CERTAIN)).any())
        found += [
            (abs(move), f"{part.names[s]} on {part.panel.calendar[t]} (x{np.exp(move):.3g})")
            for t, s, move in zip(day.tolist(), code.tolist(), size.tolist(), strict=True)
        ]
    told = f"{len(found):,} closes went away and back by {DEVIATIONS:.0f} deviations, {labelled:,} in the universe"
    concerned = [name for _, name in sorted(found, key=lambda pair: -pair[0])]
    if certain:
        return failed(ADVICE, told, concerned)
    return warned(ADVICE, told, concerned) if found else passed(ADVICE, told)


def _ticks(part: CacheSample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Days, codes and log moves of closes that went away and back."""
    move = log_moves(part.bars["close"])
    here = np.isfinite(move)
    usual = robust_scale(move, NOISE)
    of_day = robust_scale(move.T, NOISE)
    day, code = np.nonzero(here[:-1] & here[1:] & (np.abs(np.nan_to_num(move[:-1])) > LEAST))
    size, back = move[day, code], move[day + 1, code]
    middle = np.array([np.median(move[t][here[t]]) for t in day.tolist()])
    far = np.abs(size - middle) > DEVIATIONS * np.maximum(usual[code], of_day[day])
    away = far & (np.abs(size + back) < BACK * np.abs(size)) & (size * back < 0)
    return day[away], code[away], size[away]
