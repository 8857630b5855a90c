"""The t of RankIC, deflated by the number of models among which it is the best.

statistic   t of the mean daily RankIC of the model with the largest mean, by `mean_test`: equal-weighted cosines,
            B degrees of freedom (Lazarus, Lewis, Stock and Watson 2018)
null        no model has skill; their daily RankICs are correlated as they are. The t of the best of N is drawn from
            that (statistics/largest_t.py). Where more were tried than are known, the others are taken to be as
            alike as these: p becomes 1 - (1 - p)^(tried / N).
limit       p below 0.01
"""

import math

from engine.audit.finding import Advice, Finding, skipped
from engine.audit.selection.limits import by_luck, shown
from engine.audit.selection.statistics.largest_t import best_test, p_of_many
from engine.audit.selection.statistics.maximum import effective_count
from engine.audit.selection.variants import Variants

ADVICE = Advice(
    "deflated RankIC",
    "The t of the best of many models is large by luck; a table of t values holds for one model that was named before.",
    "Publish the p that counts the models, and test the chosen one on days that none has seen.",
)


def deflated_rank_ic(variants: Variants) -> Finding:
    """Whether the RankIC of the best is more than as many models without skill would show."""
    if not len(variants.rank_ic):
        return skipped(ADVICE, "no day counts for all models")
    test = best_test(variants.rank_ic, variants.horizon)
    if not math.isfinite(test.t):
        return skipped(ADVICE, f"{len(variants.rank_ic):,} days, too few for a test, or RankIC does not vary")
    p = p_of_many(test.p, variants.tried / variants.count)
    mean = float(variants.rank_ic[:, test.best].mean())
    alike = f", worth {effective_count(variants.rank_ic):.1f} independent ones" if variants.count > 1 else ""
    figure = (
        f"RankIC {mean:.4f}, t {test.t:.1f}: {shown(test.p_alone)} alone, {shown(p)} as the best of "
        f"{variants.of_tried()}{alike}"
    )
    return by_luck(ADVICE, p, figure, [variants.names[test.best]])
