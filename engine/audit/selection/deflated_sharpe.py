"""The Sharpe ratio, deflated by the number of models among which it is the best.

    statistic   the deflated Sharpe ratio of Bailey and Lopez de Prado 2014: the probability that the true ratio is
                above what the best of N models without skill reaches on average, s E[max N], given skewness, kurtosis
                and the number of observations
    null        no model has skill. s is the spread of the models' ratios, and at most that of a ratio that is 0, one
                over the root of the observations: what goes beyond is no luck. Where returns are correlated from day to
                day, the observations are as many independent ones as the standard error of `mean_test` is worth.
    limit       p of the best mean in units of its own deviation, as for the deflated RankIC, below 0.01. The deflated
                ratio is shown beside it, and decides nothing: it holds the best against the mean of the best, so its
                published limit of 0.95 lets less than 1 of 100 noise studies pass, and too few good ones.

Returns over h days overlap: each of the h phases of every h-th day has a ratio, and theirs is the mean.
"""

import math

import numpy as np

from engine.audit.finding import Advice, Finding, skipped
from engine.audit.selection.limits import by_luck, shown
from engine.audit.selection.statistics.largest_t import best_test, p_of_many
from engine.audit.selection.statistics.sharpe import best_sharpe
from engine.audit.selection.variants import Variants

ADVICE = Advice(
    "deflated Sharpe ratio",
    "The Sharpe ratio of the best of many models is large by luck, and more so with few days and heavy tails.",
    "Publish the deflated ratio with the number of models, or the ratio on days that none has seen.",
)

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
    deviation = variants.spread.std(0)
    test = best_test(variants.spread / np.where(deviation > 0, deviation, 1), variants.horizon)
    p = p_of_many(test.p, variants.tried / variants.count)
    periods, own = variants.periods_per_year, found.returns
    ratio = f"{own.sharpe * math.sqrt((periods or 1) / (variants.horizon if periods else 1)):.2f}"
    figure = (
        f"Sharpe {ratio} {'a year' if periods else 'an observation'}, skewness {own.skewness:.1f}, kurtosis "
        f"{own.kurtosis:.1f}: {shown(p)} as the best of {variants.of_tried()}, deflated ratio "
        f"{min(found.deflated, 0.9999):.4f}"
    )
    return by_luck(ADVICE, p, figure, [variants.names[found.best]])
