"""The schedule: phases of epochs with their own learning rate, loss weights and parts of the model.

A phase begins its schedule anew (warm-up, then a cosine from its own learning rate) and continues from the weights and
the optimizer's moments of the one before. early_stopping.py decides when it ends.
"""

import math
from dataclasses import dataclass

from engine.config import Config, ObjectiveConfig, Part


@dataclass(frozen=True)
class Phase:
    """A phase with everything filled in that [[phases]] leaves to [train] and [objective]."""

    name: str
    epochs: int
    learning_rate: float
    objective: ObjectiveConfig
    frozen: tuple[Part, ...]  # parts whose weights stay as they are
    off: tuple[Part, ...]  # parts that are bypassed
    blocks: int  # of an epoch that are trained on, 0: all


def phases_of(config: Config) -> list[Phase]:
    """The phases of a run; one for the whole of it where the configuration lists none."""
    train, objective = config.train, config.objective
    if not config.phases:
        return [Phase("train", train.epochs, train.learning_rate, objective, (), (), train.blocks)]
    return [
        Phase(
            phase.name,
            phase.epochs,
            train.learning_rate if phase.learning_rate is None else phase.learning_rate,
            objective.with_weights(phase.weights, phase.horizon_weights),
            phase.frozen,
            phase.off,
            train.blocks if phase.blocks is None else phase.blocks,
        )
        for phase in config.phases
    ]


def ema_decay(ema: float, swa: float, progress: float, steps: int) -> float:
    """Decay of the average of the weights at a step: avg = decay * avg + (1 - decay) * weights.

    With `ema`, always as much. With `swa` (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better
    Generalization"), nothing before the last `swa` of a phase of so many steps, and n / (n + 1) after n steps of it.
    """
    if not swa:
        return ema
    n = max(progress - (1 - swa), 0.0) * steps
    return n / (n + 1)


def learning_rate(peak: float, warmup: float, progress: float) -> float:
    """Linear warm-up to `peak`, then a cosine to 0; `progress` runs from 0 to 1 over the phase."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
