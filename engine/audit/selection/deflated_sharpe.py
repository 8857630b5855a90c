"""The Sharpe ratio, deflated by the number of models among which it is the best.

    statistic   the deflated Sharpe ratio of Bailey and Lopez de Prado 2014: the probability that the true ratio is
                above what the best of N models without skill reaches on average, s E[max N], given skewness, kurtosis
                and the number of observations
    null        no model has skill. s is the spread of the models' ratios, and at most that of a ratio that is 0, one
                over the root of the observations: what goes beyond is no luck. Where returns are correlated from day to
                day, the observations are as many independent ones as the standard error of `mean_test` is worth.
    limit       above 0.95, as published. The statistic is stricter than that: it holds the best against the mean of the
                best, so on independent noise it exceeds 0.95 in less than 1 of 100 cases.

Returns over h days overlap: each of the h phases of every h-th day has a ratio, and theirs is the mean.
"""

import math

from engine.audit.finding import Advice, Finding, skipped
from engine.audit.selection.limits import by_luck
from engine.audit.selection.statistics.sharpe import best_sharpe
from engine.audit.selection.variants import Variants

ADVICE = Advice(
    "deflated Sharpe ratio",
    "The Sharpe ratio of the best of many models is large by luck, and more so with few days and heavy tails.",
    "Publish the deflated ratio with the number of models, or the ratio on days that none has seen.",
)

LEVEL = 0.05  # 1 - 0.95
LEAST = 20  # returns that do not overlap


def deflated_sharpe_ratio(variants: Variants) -> Finding:
    """Whether the Sharpe ratio of the best is more than as many models without skill would show."""
    if variants.spread is None:
        return skipped(ADVICE, "returns of the models are not known")
    if len(variants.spread) < LEAST * variants.horizon:
        return skipped(ADVICE, f"{len(variants.spread):,} days, too few for returns over {variants.horizon}")
    found = best_sharpe(variants.spread, variants.horizon, variants.tried)
    if found is None or math.isnan(found.deflated):
        return skipped(ADVICE, "returns do not vary, or have moments that the formula does not take")
    periods, own = variants.periods_per_year, found.returns
    ratio = f"{own.sharpe * math.sqrt((periods or 1) / (variants.horizon if periods else 1)):.2f}"
    figure = (
        f"Sharpe {ratio} {'a year' if periods else 'an observation'}, skewness {own.skewness:.1f}, kurtosis "
        f"{own.kurtosis:.1f}: above luck with probability {min(found.deflated, 0.9999):.4f} as the best of "
        f"{variants.of_tried()}"
    )
    return by_luck(ADVICE, 1 - found.deflated, figure, [variants.names[found.best]], LEVEL)
