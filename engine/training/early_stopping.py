"""When a phase ends and which epoch was the best: decided from the validation RankIC, kept in `State`.

A phase ends after its epochs, or after `train.patience` epochs without a better validation RankIC in that phase. The
best checkpoint is that of the whole run, unless phases train different horizons: their figures cannot be compared.
"""

from engine.checkpoint import State
from engine.training.schedule import Phase


def trained_horizons(horizons: list[int], phase: Phase) -> list[int]:
    """The horizons with a weight in a phase, whose mean validation RankIC decides."""
    weights = phase.objective.horizon_weights or [1.0] * len(horizons)
    return [h for h, weight in zip(horizons, weights, strict=True) if weight > 0]


def end_epoch(state: State, figure: float) -> bool:
    """Count an epoch with this validation RankIC; whether it is the best of the run."""
    best = state.best is None or figure > state.best
    state.best = figure if best else state.best
    better = state.phase_best is None or figure > state.phase_best
    state.phase_best, state.stale = (figure, 0) if better else (state.phase_best, state.stale + 1)
    state.epoch, state.phase_epoch, state.position = state.epoch + 1, state.phase_epoch + 1, 0
    return best


def end_phase_if_due(state: State, phases: list[Phase], patience: int) -> None:
    """Go to the next phase, or end the run, where the current phase has had its epochs or its patience."""
    phase = phases[state.phase]
    if state.phase_epoch < phase.epochs and state.stale < patience:
        return
    state.finished = state.phase + 1 == len(phases)
    if state.finished:
        return
    before = trained_horizons(state.horizons, phase)
    state.phase, state.phase_epoch, state.phase_best, state.stale = state.phase + 1, 0, None, 0
    if trained_horizons(state.horizons, phases[state.phase]) != before:
        state.best = None
