"""What the best value of a study owes to the number of its trials, from the values alone.

statistic   the best value, less s E[max N]: s the spread of the complete trials' values (1.4826 median absolute
            deviations, so that a few bad trials do not count), E[max N] the mean largest of N normal numbers
            (Bailey and Lopez de Prado 2014)
null        all trials are worth 0, and differ by luck
limit       0. Values alone do not say more: that luck is the same in all trials can be seen only in daily values.
"""

import numpy as np

from engine.audit.finding import Advice, Finding, failed, passed, skipped
from engine.audit.selection.statistics.maximum import expected_maximum
from engine.reporting.sections.study import LEAST, Study

ADVICE = Advice(
    "best of a study",
    "The best of many trials is flattered by the luck that made it the best.",
    "Publish its figure on days that the study has not seen, never its validation.",
)


def best_of_study(study: Study) -> Finding:
    """Whether the best value is above what the spread of the trials reaches by luck."""
    values = study.value[study.complete]
    if len(values) < LEAST:
        return skipped(
            ADVICE, f"{len(values):,} trials are complete, and fewer than {LEAST} have no spread to speak of"
        )
    best = int(np.flatnonzero(study.complete)[values.argmax()])
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    luck = spread * expected_maximum(len(values))
    figure = (
        f"{study.metric} {values.max():.4f}, the best of {len(values):,} complete trials; "
        f"trials that are all alike would differ by up to {luck:.4f}"
    )
    if values.max() > luck:
        return passed(ADVICE, figure)
    return failed(ADVICE, f"{figure}, which explains all of it", [f"trial {study.number[best]}"])
