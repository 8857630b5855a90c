"""The refit, which ends a training: more epochs from the best epoch's weights on, on training and validation days.

Until then the newest days have only said when to stop. The weights of the best epoch go on to score the validation
days, which they were not trained on; those of the refit score all days after. Nothing of a refit is kept before its
end: one that was cut short begins anew when the run is resumed.
"""

import time
from dataclasses import replace

from engine.checkpoint import REFIT, State, check_best, load_checkpoint, restore_model, save_best
from engine.config import Config
from engine.model.ensemble import seeds_of
from engine.training.epoch import epoch_of, mean_losses, train_epoch
from engine.training.run import Run, plan_of
from engine.training.schedule import Phase, phases_of
from loaders.disk.content import is_there
from loaders.progress import Progress, quiet


def refit(run: Run, best: State, progress: Progress) -> None:
    """Give the run's model, which holds the weights of the best epoch, those of the refit, and keep them.

    Args:
        best: the state of the best checkpoint, whose phase the refit repeats.
        progress: in epochs.

    Raises RunFailed for a loss that is not finite, and InputError where a refit that was kept cannot be read, or rows
    have changed on disk.
    """
    weights = run.learner.weights
    if not run.config.train.refit:
        return
    path = run.folder / "checkpoints" / REFIT
    if is_there(path):
        kept, tensors = load_checkpoint(path)
        check_best(kept, run.state, path)
        restore_model(weights.model, tensors, path)
        return
    again, begun, loss = _again(run, best), time.perf_counter(), float("nan")
    epochs = again.phase.epochs
    weights.begin_anew()
    for epoch in range(epochs):
        progress(epoch, epochs, f"refit, epoch {epoch + 1}/{epochs}")
        train_epoch([again])
        loss = mean_losses(again, epoch_of(again).every)[0]
        again.state.epoch, again.state.phase_epoch, again.state.position = again.state.epoch + 1, epoch + 1, 0
        weights.loss_sums.zero_()
    weights.copy_buffers()
    run.inputs.panel.check_unchanged()
    if run.learner.world.first:
        save_best(path, run.state, weights)
    weights.model.load_state_dict(weights.scoring.state_dict())
    part, calendar = again.fold.split.train, run.fold.panel.calendar
    run.log.console.print(
        f"refit: {epochs} {'epoch' if epochs == 1 else 'epochs'} on {calendar[part.start]}..{calendar[part.stop - 1]}, "
        f"loss {loss:.4f}, {time.perf_counter() - begun:.0f} s"
    )


def refit_epochs(config: Config, phase: Phase) -> int:
    """Epochs of the refit of a run whose best epoch is of that phase; 0: there is none."""
    share = config.train.refit
    return max(round(share * phase.epochs), 1) if share else 0


def _again(run: Run, best: State) -> Run:
    """The run as its refit trains it: on more days, a schedule of its own, and a state that is not kept."""
    config, fold = _schedule(run.config, best.phase), replace(run.fold, split=run.fold.split.refit())
    state = replace(
        run.state, phase=0, phase_epoch=0, position=0, seconds=dict(run.state.seconds), history=[], finished=False
    )
    plans = [plan_of(config, fold, seed) for seed in seeds_of(config)]
    log = replace(run.log, progress=quiet)
    return replace(run, config=config, fold=fold, plans=plans, state=state, log=log, stop=[], is_kept=False)


def _schedule(config: Config, number: int) -> Config:
    """One phase: that of the best epoch, with the epochs of a refit."""
    update = {"epochs": refit_epochs(config, phases_of(config)[number])}
    phases = tuple(each.model_copy(update=update) for each in config.phases[number : number + 1])
    return config.model_copy(update={"train": config.train.model_copy(update=update), "phases": phases})
