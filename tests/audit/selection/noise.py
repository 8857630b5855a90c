"""Daily values of models without skill, and how often each test says that the best of them has some.

`python -m tests.audit.selection.noise` prints the table of docs/audit.md: 1,000 simulations for each kind of noise.

T days, N models
"""

from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from engine.audit.selection.statistics.largest_t import best_test
from engine.audit.selection.statistics.sharpe import best_sharpe
from engine.audit.selection.statistics.superior import superior_test

Float = npt.NDArray[np.float64]
BURN_IN = 100
DRAWS = 499

# (days, models, autoregression from day to day, correlation between models, horizon)
KINDS: dict[str, tuple[int, int, float, float, int]] = {
    "1 model": (500, 1, 0.0, 0.0, 1),
    "10 on 150 days": (150, 10, 0.0, 0.5, 1),
    "50 independent": (500, 50, 0.0, 0.0, 1),
    "10 of correlation 0.5": (500, 10, 0.0, 0.5, 1),
    "20 autocorrelated 0.3": (500, 20, 0.3, 0.0, 1),
    "20 both": (500, 20, 0.3, 0.8, 1),
    "20 over 5 days": (750, 20, 0.0, 0.5, 5),
}


def noise(rng: np.random.Generator, days: int, models: int, phi: float, alike: float, horizon: int = 1) -> Float:
    """[T, N] of mean 0: autoregressive of order 1, and summed over `horizon` days as overlapping labels are."""
    shape = (days + BURN_IN, models)
    x = np.sqrt(1 - alike) * rng.standard_normal(shape) + np.sqrt(alike) * rng.standard_normal((shape[0], 1))
    for t in range(1, len(x)):
        x[t] += phi * x[t - 1]
    total = np.cumsum(x, 0)
    return (total[horizon:] - total[:-horizon])[-days:]


def by_largest_t(x: Float, horizon: int, seed: int) -> float:
    return best_test(x, horizon, DRAWS, seed).p


def by_reality_check(x: Float, horizon: int, seed: int) -> float:
    return superior_test(x, horizon, DRAWS, seed).reality_check


def by_superior_ability(x: Float, horizon: int, seed: int) -> float:
    return superior_test(x, horizon, DRAWS, seed).superior


def by_deflated_sharpe(x: Float, horizon: int, seed: int) -> float:
    found = best_sharpe(x, horizon, x.shape[1])
    return 1.0 if found is None else 1 - found.deflated


TESTS: dict[str, Callable[[Float, int, int], float]] = {
    "deflated t": by_largest_t,
    "reality check": by_reality_check,
    "superior ability": by_superior_ability,
    "deflated Sharpe": by_deflated_sharpe,
}


def p_values(kind: str, simulations: int, tests: Collection[str] = TESTS) -> dict[str, Float]:
    """What each test says of so many simulations, a p-value each."""
    rng = np.random.default_rng(1)
    days, models, phi, alike, horizon = KINDS[kind]
    found: dict[str, list[float]] = {name: [] for name in tests}
    for seed in range(simulations):
        x = noise(rng, days, models, phi, alike, horizon)
        for name, each in found.items():
            each.append(TESTS[name](x, horizon, seed))
    return {name: np.array(each) for name, each in found.items()}


if __name__ == "__main__":
    table = Table("noise", *TESTS, title="skill found at 5% / 1% where there is none")
    for kind in KINDS:
        found = p_values(kind, 1000)
        table.add_row(kind, *(f"{(p <= 0.05).mean():.1%} / {(p <= 0.01).mean():.1%}" for p in found.values()))
    Console(width=120).print(table)
