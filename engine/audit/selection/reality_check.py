"""White's reality check and Hansen's test for superior predictive ability, over the models among which was chosen.

statistic   the largest mean daily RankIC (White 2000), and the largest in units of its own deviation, where models
            that are clearly bad do not count (Hansen 2005, consistent)
null        no model has a mean above 0: whole days are resampled by the stationary bootstrap (Politis and Romano
            1994), blocks by Politis and White 2004, corrected 2009 (statistics/)
limit       the larger of the two p below 0.01
"""

import math

from engine.audit.finding import Advice, Finding, skipped
from engine.audit.selection.limits import by_luck, shown
from engine.audit.selection.statistics.largest_t import p_of_many
from engine.audit.selection.statistics.superior import superior_test
from engine.audit.selection.variants import Variants

ADVICE = Advice(
    "reality check",
    "Among enough models without skill there is always one that has done well on the days at hand.",
    "Name the model before the test, or publish this p in place of the p of one model.",
)
LEAST = 60  # days


def reality_check(variants: Variants) -> Finding:
    """Whether the best RankIC is more than the resampled days of models without skill show."""
    if variants.count < 2:
        return skipped(ADVICE, "one model has daily values, and there is no choice to resample")
    if len(variants.rank_ic) < LEAST:
        return skipped(
            ADVICE, f"{len(variants.rank_ic):,} days count for all models, and fewer than {LEAST} say little"
        )
    test = superior_test(variants.rank_ic, variants.horizon)
    if math.isnan(test.superior):
        return skipped(ADVICE, "RankIC does not vary")
    white, hansen = (p_of_many(p, variants.tried / variants.count) for p in (test.reality_check, test.superior))
    best = int(variants.rank_ic.mean(0).argmax())
    figure = (
        f"reality check {shown(white)}, superior ability {shown(hansen)}, of {variants.of_tried()}, "
        f"blocks of {test.block:.0f} days"
    )
    return by_luck(ADVICE, max(white, hansen), figure, [variants.names[best]])
