"""Size of the t test of a mean RankIC at 5%: how often it finds something in simulated markets that hold nothing.

Returns are noise; a label is the sum of the next h days' returns, so labels of neighbouring days overlap.

    persistent scores   never change, the worst case: the RankICs of h - 1 neighbouring days share returns. Their
                        series is simulated as it is in a wide market, a moving sum of h normal numbers
    a market of 20      names, the fewest that count, through `daily_rank_ic`; scores keep a share (0: new every day,
                        0.98: half of them after a month) from one day to the next

    python examples/standard_errors.py [REPLICATIONS]        default 10,000: a quarter of an hour
"""

import sys
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.score.metrics import daily_rank_ic
from engine.score.standard_error import Float, mean_test

DAYS, HORIZONS, LEVEL = (120, 730), (1, 5, 10, 20), 0.05
NAMES = 20
AT_ONCE = 250  # replications

Simulation = Callable[[np.random.Generator, int, int, int], Float]  # replications, days, horizon -> [R, T]


def persistent_scores(rng: np.random.Generator, replications: int, days: int, horizon: int) -> Float:
    """Daily RankICs [R, T] of scores that never change."""
    return sums(rng.standard_normal((replications, days + horizon - 1, 1)), horizon)[..., 0]


def market(share: float) -> Simulation:
    """Daily RankICs [R, T] of scores that keep a share of themselves from day to day."""

    def simulate(rng: np.random.Generator, replications: int, days: int, horizon: int) -> Float:
        labels = sums(rng.standard_normal((replications, days + horizon - 1, NAMES)), horizon)
        scores = rng.standard_normal(labels.shape)
        for t in range(1, days):
            scores[:, t] = share * scores[:, t - 1] + np.sqrt(1 - share**2) * scores[:, t]
        day = np.repeat(np.arange(replications * days), NAMES)
        return daily_rank_ic(scores.ravel(), labels.ravel(), day)[1].reshape(replications, days)

    return simulate


SERIES: dict[str, Simulation] = {
    "persistent scores": persistent_scores,
    "market, scores new every day": market(0.0),
    "market, scores keep 98%": market(0.98),
}


def sums(returns: Float, horizon: int) -> Float:
    """Sums of `horizon` days: [R, T, N] of returns [R, T + horizon - 1, N]."""
    totals = np.cumsum(np.pad(returns, ((0, 0), (1, 0), (0, 0))), 1)
    return totals[:, horizon:] - totals[:, :-horizon]


def newey_west_rejects(series: Float, horizon: int) -> np.ndarray:
    """Whether |mean / standard error| > 1.96 [R], by Newey and West (1987) with lag max(h - 1, 5)."""
    days, lag = series.shape[1], max(horizon - 1, 5)
    x = series - series.mean(1, keepdims=True)
    total = (x * x).sum(1)
    for k in range(1, lag + 1):
        total += 2 * (1 - k / (lag + 1)) * (x[:, k:] * x[:, :-k]).sum(1)
    return np.abs(series.mean(1)) > 1.96 * np.sqrt(total) / days


def sizes(simulate: Simulation, replications: int, days: int, horizon: int) -> tuple[float, float]:
    """Share of the replications that `mean_test` and Newey-West's test reject."""
    rng = np.random.default_rng([days, horizon])
    rejected = []
    for done in range(0, replications, AT_ONCE):
        series = simulate(rng, min(AT_ONCE, replications - done), days, horizon)
        rejected.append([mean_test(series, horizon).p < LEVEL, newey_west_rejects(series, horizon)])
    ours, theirs = np.concatenate(rejected, 1).mean(1)
    return float(ours), float(theirs)


def main(replications: int) -> Table:
    table = Table(title=f"Size at {LEVEL:.0%}, {replications:,} replications: engine (Newey-West, |t| > 1.96)")
    table.add_column("series")
    table.add_column("days", justify="right")
    for horizon in HORIZONS:
        table.add_column(f"h={horizon}", justify="right")
    for name, simulate in SERIES.items():
        for days in DAYS:
            found = [sizes(simulate, replications, days, horizon) for horizon in HORIZONS]
            table.add_row(name, str(days), *(f"{ours:.1%} ({theirs:.1%})" for ours, theirs in found))
    return table


if __name__ == "__main__":
    Console(width=110).print(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
