"""The probability of backtest overfitting, by combinatorially symmetric cross-validation.

statistic   over all ways to choose 8 of 16 blocks of days: how often the best model on these is no better than the
            median on the others (Bailey, Borwein, Lopez de Prado and Zhu 2017), and how often its mean there is not
            above 0
null        none: among models without skill both lie around 1/2, between 0.2 and 0.8 in 8 of 10 cases. Equally good
            models have the first around 1/2 too, and the second at 0.
limit       both below 0.2
"""

from engine.audit.finding import Advice, Finding, passed, skipped, warned
from engine.audit.selection.statistics.cscv import BLOCKS, overfitting
from engine.audit.selection.variants import Variants

ADVICE = Advice(
    "overfitting",
    "Where the best on some days is nothing special on others, the choice has followed noise.",
    "Choose among fewer models, or on more days, and publish figures of days that the choice has not seen.",
)
LIMIT = 0.2


def backtest_overfitting(variants: Variants) -> Finding:
    """Whether the choice of the best holds on days that it has not seen."""
    if variants.count < 2:
        return skipped(ADVICE, "one model has daily values, and there is no choice to repeat")
    least = BLOCKS * max(5, 2 * variants.horizon)
    if len(variants.rank_ic) < least:
        return skipped(ADVICE, f"{len(variants.rank_ic):,} days count for all models, and {least:,} are needed")
    found = overfitting(variants.rank_ic)
    figure = (
        f"the best on half of the days has RankIC {found.inside:.4f} there and {found.outside:.4f} on the others, "
        f"is below their median in {found.probability:.0%} of ways to halve them, and not above 0 in {found.loss:.0%}"
    )
    if min(found.probability, found.loss) < LIMIT:
        return passed(ADVICE, figure)
    return warned(ADVICE, figure, [variants.names[int(variants.rank_ic.mean(0).argmax())]])
