"""How well blocks of each shape mix, and how fast they form: python -m bench.shuffle --arrow CACHE.

A step on random rows has unrelated labels; a block has neighbouring days of the same codes, whose labels are correlated
where horizons overlap. The cost depends on the block's shape and on the data:

    seen         share of the part's codes, and of its days, in 10 steps in a row
    shared       codes, and days, that a step has in common with the one before, as a share of the union of both
    label lag 1  correlation of a code's labels on neighbouring days of a step, after subtracting each day's mean
    at random    the same for these labels in random order, as of random rows
    independent  effective days of a step, the independent days whose mean would vary as much:
                 D / (1 + 2 sum over lags l of (1 - l / D) r_l), r_l the correlation at lag l
    M samples/s  forming these blocks in slots that are used again, the cache's pages in memory

S codes, D scored days of a block, H horizons
"""

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.measurement.machine import machine_name
from loaders.batch import new_slot
from loaders.errors import InputError
from loaders.gather import fill_block, gather
from loaders.panel import Panel, open_panel
from loaders.plan import Block, Plan, count_samples, most_codes
from loaders.split import Days

STEPS = 40  # of the beginning of an epoch
WINDOW = 10  # steps in a row
CLIP = 6  # median absolute deviations, four standard deviations of normal labels
SLOTS = 3  # in rotation, like those of a prefetching loader
SECONDS = 0.5  # of passes over the blocks; their median is reported
COLUMNS = (
    "D x S", "steps", "days", "codes", "samples", "seen", "shared", "label lag 1", "at random", "independent",
    "M samples/s",
)  # fmt: skip

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Report:
    """One shape's figures, means over its steps; arrays are [H], a figure per horizon."""

    shape: tuple[int, int]  # D and the most codes of a block
    steps: int  # of the whole epoch
    days: float
    codes: float
    samples: float
    codes_seen: float
    days_seen: float
    codes_shared: float
    days_shared: float
    lag_1: Float  # NaN without two days
    at_random: Float
    independent: Float
    samples_per_s: float


def report(panel: Panel, part: Days, days: int, codes: int, context: int, steps: int = STEPS, seed: int = 0) -> Report:
    """Figures of blocks of `days` x `codes` with that context, over the first `steps` steps of epoch 0.

    Raises InputError where the part holds no sample.
    """
    epoch = Plan(panel, part, days, codes, seed).epoch(0)
    blocks = epoch[:steps]
    code_sets, day_sets = memberships(panel, part, blocks, days)
    known = panel.codes_with(panel.samples, part.start, part.stop)
    labels = [demeaned(gather(panel, part, block, days, 1).y.numpy()) for block in blocks]
    correlation = autocorrelation(labels)
    step_days = float(day_sets.sum(1).mean())
    return Report(
        shape=(days, codes),
        steps=len(epoch),
        days=step_days,
        codes=float(code_sets.sum(1).mean()),
        samples=float(np.mean([count_samples(panel, part, block, days) for block in blocks])),
        codes_seen=seen(code_sets) / len(known),
        days_seen=seen(day_sets) / len(part),
        codes_shared=shared(code_sets),
        days_shared=shared(day_sets),
        lag_1=correlation[1] if days > 1 else np.full(correlation.shape[1], np.nan),
        at_random=at_random(labels, seed),
        independent=step_days / inflation(correlation),
        samples_per_s=throughput(panel, part, blocks, days, context),
    )


def memberships(
    panel: Panel, part: Days, blocks: Sequence[Block], days: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which codes [steps, codes of the panel] and which days of the part [steps, days] each step holds."""
    code_sets = np.zeros((len(blocks), len(panel.days)), np.bool_)
    day_sets = np.zeros((len(blocks), len(part)), np.bool_)
    for i, block in enumerate(blocks):
        code_sets[i, block.codes] = True
        day_sets[i, max(block.day - part.start, 0) : max(block.day + days - part.start, 0)] = True
    return code_sets, day_sets


def seen(sets: npt.NDArray[np.bool_]) -> float:
    """Mean number of members in the union of WINDOW steps in a row (of all steps, where there are fewer)."""
    windows = range(max(len(sets) - WINDOW, 0) + 1)
    return float(np.mean([sets[i : i + WINDOW].any(0).sum() for i in windows]))


def shared(sets: npt.NDArray[np.bool_]) -> float:
    """Mean of |A and B| / |A or B| over steps A and B that follow one another; NaN with a single step."""
    ratios = [(a & b).sum() / (a | b).sum() for a, b in pairwise(sets)]
    return float(np.mean(ratios)) if ratios else np.nan


def demeaned(y_SDH: npt.NDArray[np.float32]) -> Float:
    """Labels minus the mean of their day and horizon in the block, float64 [S, D, H]; NaN stays NaN.

    Labels are first clipped to CLIP median absolute deviations from the day's median: otherwise the few codes whose
    returns are tenfold would dominate. Clipping changes one in 20,000 normal labels.
    """
    y = y_SDH.astype(np.float64)
    middle = _median(y)
    spread = CLIP * _median(np.abs(y - middle))
    spread[spread == 0] = np.inf  # half the codes tie
    y = np.clip(y, middle - spread, middle + spread)
    return y - np.nansum(y, 0) / np.maximum(np.isfinite(y).sum(0), 1)


def _median(y: Float) -> Float:
    """Along the first axis, without NaN; NaN where all are NaN."""
    ordered, count = np.sort(y, 0), np.isfinite(y).sum(0, keepdims=True)  # NaN last
    halves = [np.take_along_axis(ordered, np.maximum(i, 0), 0)[0] for i in ((count - 1) // 2, count // 2)]
    return np.asarray((halves[0] + halves[1]) / 2)


def autocorrelation(labels: Sequence[Float]) -> Float:
    """Correlation at lags 0..D-1 of the labels of a code, [D, H], pooled over the codes of all blocks [S, D, H].

    The mean product of two labels of one code that many days apart, over the mean square of all; labels have mean 0.
    0 at a lag where no code has two labels.
    """
    products = np.sum([_lagged(np.nan_to_num(label)) for label in labels], 0)
    pairs = np.rint(np.sum([_lagged(np.isfinite(label).astype(np.float64)) for label in labels], 0))
    mean = np.divide(products, pairs, out=np.zeros_like(products), where=pairs > 0)
    return np.asarray(mean / mean[0])


def _lagged(values_SDH: Float) -> Float:
    """Sums over codes and days of value(t) * value(t + lag), [D lags, H], by the power spectrum."""
    days = values_SDH.shape[1]
    spectrum = np.fft.rfft(values_SDH, 2 * days, axis=1)  # padded to twice the length, so that no product wraps around
    return np.fft.irfft((spectrum * spectrum.conj()).real.sum(0), 2 * days, axis=0)[:days]


def at_random(labels: Sequence[Float], seed: int) -> Float:
    """Correlation [H] of neighbours when the labels of all blocks come in random order."""
    values = np.concatenate([label.reshape(-1, label.shape[2]) for label in labels])
    values = np.random.default_rng(seed).permutation(values[np.isfinite(values).all(1)])
    return np.asarray((values[:-1] * values[1:]).mean(0) / (values**2).mean(0))


def inflation(correlation_DH: Float) -> Float:
    """The variance of a mean over D days, as a multiple of that over D independent days, [H]."""
    days = len(correlation_DH)
    weight = 1 - np.arange(1, days) / days  # pairs of days at that lag, of all days
    return 1 + 2 * weight @ correlation_DH[1:]


def throughput(panel: Panel, part: Days, blocks: Sequence[Block], days: int, context: int) -> float:
    """Samples per second of forming the blocks one after another; each pass reads every block once."""
    slots = [new_slot(panel, most_codes(blocks), days, context) for _ in range(SLOTS)]
    seconds: list[float] = []
    while len(seconds) < 4 or sum(seconds) < SECONDS:
        begun = time.perf_counter()
        for block, slot in zip(blocks, cycle(slots), strict=False):
            fill_block(panel, part, block, context, slot)
        seconds.append(time.perf_counter() - begun)
    samples = sum(count_samples(panel, part, block, days) for block in blocks)
    return samples / float(np.median(seconds[1:]))  # the first one maps pages and slots


def cells(figures: Report) -> list[str]:
    """A row of the table."""

    def several(values: Iterable[float], form: str) -> str:
        return " ".join(format(value, form) for value in values)

    return [
        several(figures.shape, "d").replace(" ", " x "),
        f"{figures.steps:,}",
        f"{figures.days:.1f}",
        f"{figures.codes:.0f}",
        f"{figures.samples:,.0f}",
        several((figures.codes_seen, figures.days_seen), ".0%"),
        several((figures.codes_shared, figures.days_shared), ".0%"),
        several(figures.lag_1, "z.2f"),
        several(figures.at_random, "z.2f"),
        several(figures.independent, ".1f"),
        f"{figures.samples_per_s / 1e6:.1f}",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Entry point; gives the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m bench.shuffle", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arrow", type=Path, required=True, help="cache folder")
    for option, default, words in (
        ("--days", "16,32,64,256", "days of a block"),
        ("--codes", "256,512,1024", "most codes of a block"),
        ("--context", "20", "days that a score may look back on"),
    ):
        parser.add_argument(option, default=default, help=f"{words} (default: {default})")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    options = parser.parse_args(arguments)
    try:
        shapes = [(d, s) for d in _counts("--days", options.days) for s in _counts("--codes", options.codes)]
        panel = open_panel(options.arrow)
        context = max(_counts("--context", options.context))
        if context > len(panel.calendar):
            raise InputError("--context", f"{context} days, the cache has {len(panel.calendar)}", "Choose fewer")
        part = Days(context - 1, len(panel.calendar))
        reports = [report(panel, part, days, codes, context) for days, codes in shapes]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    title = f"{machine_name()}: {len(panel.days):,} codes, {len(part):,} days, context {context}"
    horizons = " and ".join(map(str, panel.manifest.horizons))
    caption = f"seen and shared: codes, days; labels and independent days: at horizons {horizons}"
    if options.markdown:
        head = [list(COLUMNS), ["---", *["---:"] * (len(COLUMNS) - 1)]]
        lines = ["| " + " | ".join(row) + " |" for row in [*head, *map(cells, reports)]]
        print("\n".join([title, "", *lines, "", caption]))
    else:
        table = Table(title=title, box=SIMPLE, caption=caption)
        for column in COLUMNS:
            table.add_column(column, justify="right")
        for figures in reports:
            table.add_row(*cells(figures))
        Console(width=max(Console().width, 120)).print(table)
    return 0


def _counts(option: str, text: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1:
        raise InputError(option, f"{text!r} is not made of whole numbers of 1 or more", "Write for example 32")
    return values


if __name__ == "__main__":
    sys.exit(main())
