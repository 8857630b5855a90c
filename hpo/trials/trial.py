"""What is known of a trial of any kind: its metrics epoch by epoch, and why it has none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.config import StudyConfig
from loaders.errors import WriteError


class TrialFailed(Exception):
    """A trial without a result; the message says why."""


@dataclass(frozen=True)
class Epoch:
    """What is known of a trial after an epoch. Metrics are those of the best checkpoints so far."""

    number: int  # from 1, over all folds
    fold: int
    ends_fold: bool
    metrics: list[float]  # of this fold
    means: list[float]  # over the folds so far


def of_the_machine(error: Exception) -> bool:
    """Whether an error is about what the machine did not allow: a write, or a read that failed. It costs no trial."""
    return isinstance(error, WriteError) or isinstance(error.__cause__, OSError)


def mean(rows: list[list[float]]) -> list[float]:
    """Of each column: metrics of folds -> their means."""
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def values_of(config: StudyConfig, valid: Mapping[Any, Mapping[str, Any]], where: str) -> list[float]:
    """The metrics that a study maximises, each a mean over all horizons, whatever their weights.

    Args:
        valid: metrics of the validation part, by horizon.
        where: what they are of, for the message.

    Raises TrialFailed for a metric that is missing or not finite.
    """
    found = []
    for metric in config.hpo.metrics:
        values = [metrics[metric] for metrics in valid.values()]
        if any(value is None or not math.isfinite(value) for value in values):
            raise TrialFailed(f"{metric} of {where} is missing")
        found.append(sum(values) / len(values))
    return found
