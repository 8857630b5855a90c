"""The samplers and pruners that [hpo] may name, each a function that makes Optuna's. A new one is an entry here.

Optuna is imported when one is made, so that a configuration can be read without it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from loaders.random_bits import mix

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


def tpe(seed: int, number: int) -> "BaseSampler":
    """Tree-structured Parzen estimator over all parameters jointly, after five random trials."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=mix(seed, number) % 2**32, multivariate=True, n_startup_trials=5)


def random(seed: int, number: int) -> "BaseSampler":
    """Random search."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=mix(seed, number) % 2**32)


def qmc(seed: int, number: int) -> "BaseSampler":
    """Quasi-Monte Carlo search: a point of the Sobol sequence that the seed scrambles."""
    from optuna.samplers import QMCSampler

    class AtPlace(QMCSampler):
        """Optuna counts points as they are drawn, those of trials that were killed included."""

        def _find_sample_id(self, *_: object) -> int:
            return number

    return AtPlace(scramble=True, seed=seed)


def halving() -> "BasePruner":
    """Successive halving from the second step on."""
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)


def median() -> "BasePruner":
    """Prunes what is below the median of the trials at the same step, from the fifth trial on."""
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=4)


def wilcoxon() -> "BasePruner":
    """Prunes what a signed-rank test over folds finds worse than the best trial."""
    from optuna.pruners import WilcoxonPruner

    return WilcoxonPruner()


def no_pruning() -> "BasePruner":
    """Trains every trial to its end."""
    from optuna.pruners import NopPruner

    return NopPruner()


SAMPLERS: dict[str, Callable[[int, int], "BaseSampler"]] = {"tpe": tpe, "random": random, "qmc": qmc}
"""By name, from the study's seed and the trial's place, so that a resumed study draws what an unbroken one does."""

PRUNERS: dict[str, Callable[[], "BasePruner"]] = {
    "halving": halving,
    "median": median,
    "wilcoxon": wilcoxon,
    "none": no_pruning,
}
"""By name."""

STEP_IS_FOLD = {"wilcoxon"}
"""Pruners that compare trials fold by fold. The others compare them epoch by epoch."""
