"""The training loop: blocks in, a run folder out. It reads top to bottom; everything it decides is in `State`."""

import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.audit.quick import quick_findings
from engine.callbacks.protocol import Callback, EpochTraining
from engine.checkpoint import BEST, check_best, load_checkpoint, restore_model
from engine.config import Config
from engine.dates import spans_of
from engine.distributed import open_world
from engine.errors import RunFailed, Stopped
from engine.inputs import open_inputs
from engine.live.state import ONLINE, state_of, write_state
from engine.model.ensemble import Ensemble
from engine.reporting.looks import look_of, record
from engine.reporting.report import report_training
from engine.rivals.beside import TREES, check_trees, fit_trees, load_trees
from engine.rivals.fit import Rival
from engine.rivals.saved import Origin, save_rival
from engine.score.online.features import fit_online
from engine.score.online.last_layer import refit_last_layer
from engine.score.part_metrics import part_metrics, part_samples
from engine.score.predict import combined_scores, network_scores, score_part, weighted_online_scores
from engine.score.rows import Float32, present_rows, row_scores
from engine.score.tables import finite, write_summary
from engine.screen.console import QUIET
from engine.training.early_stopping import end_epoch, end_phase_if_due, trained_horizons
from engine.training.epoch import epoch_of, mean_losses, train_epoch
from engine.training.fold import make_fold
from engine.training.objective import term_names
from engine.training.refit import refit
from engine.training.run import Run, lost_ranks_explained, open_run, stop_signals
from engine.training.tracking import device_name, git_revision, log_scalars, throughput, write_metrics
from loaders.batch import Stages
from loaders.disk.content import is_there
from loaders.progress import Progress, parts_of, quiet
from loaders.split import Days


def train(
    config: Config,
    folder: Path | None,
    resume: bool,
    console: Console,
    callbacks: Sequence[Callback] = (),
    progress: Progress = quiet,
) -> Path:
    """Train, evaluate the best checkpoint on validation and test, and return the run's folder.

    Args:
        folder: to write (default runs/<run id>); it must not hold a run unless `resume`.
        resume: continue from the folder's last checkpoint, to the metrics an unbroken run would have had.
        callbacks: told of epochs, validations and the end, on the first rank.
        progress: of the whole run, in steps; told by the first rank.

    Raises InputError for a bad cache, split, folder or checkpoint, and a network or term of the user's own that cannot
    be trained; RunFailed for a loss or validation metric that is not finite, and a callback that raises; Stopped after
    a signal, when a checkpoint has been saved.
    """
    with (
        open_world(config.train.device) as (world, device),
        lost_ranks_explained(folder),
        open_inputs(config, device, progress) as inputs,
    ):
        console = console if world.first else QUIET
        fold = make_fold(config, inputs.panel, inputs.device)
        check_trees(config, inputs.panel, fold.split)  # which are fitted at the end
        weights = (1.0, config.train.refit, float(config.trees.kind != "off"))
        of_epochs, of_refit, of_trees = parts_of(progress, weights)
        with open_run(
            config, inputs, fold, folder, resume, console, world, callbacks=callbacks, progress=of_epochs
        ) as run:
            if not resume and world.first:
                for finding in quick_findings(inputs.panel):
                    console.print(f"audit: {finding}")
            for _ in epochs(run):
                pass
            inputs.verification.wait()
            inputs.panel.check_unchanged()
            world.barrier()  # for the best checkpoint
            run.callbacks.on_end(run, _write_summary(run, of_refit, of_trees))
    return run.folder


@dataclass(frozen=True)
class EpochResult:
    """What an epoch gave and took."""

    line: dict[str, Any]  # of metrics.jsonl
    blocks: int
    seconds: dict[str, float]  # "train", "wait" (a part of it) and "validation"


def epochs(run: Run) -> Iterator[EpochResult]:
    """Train and validate, epoch by epoch, until the run is finished. Training, tuning and the dry run iterate over it.

    Until it ends, a signal lets the step finish and saves a checkpoint. Before and after there is nothing to save.

    Raises RunFailed for a loss or validation metric that is not finite, Stopped after a signal, InputError where rows
    have changed on disk.
    """
    with stop_signals(run.stop):
        while not run.state.finished:
            (result,) = next_epochs([run])
            if isinstance(result, RunFailed):
                raise result
            yield result
    if run.stop:  # in the last validation
        what = f"{run.folder}: stopped by {signal.Signals(run.stop[0]).name} after the last epoch"
        raise Stopped(f"{what}. Resume with --resume --out {run.folder}")


def next_epochs(runs: Sequence[Run]) -> list[EpochResult | RunFailed]:
    """Train and validate the next epoch of runs; several are slots of one batch. A run that failed gives its reason.

    Raises what `epochs` raises, but for RunFailed.
    """
    before = [(dict(run.state.seconds), run.state.step) for run in runs]
    results: list[EpochResult | RunFailed] = []
    for run, (seconds, step), stages in zip(runs, before, train_epoch(runs), strict=True):
        try:
            spent = {name: value - seconds[name] for name, value in run.state.seconds.items()}
            line = _validate(run, stages, spent["train"])
        except RunFailed as failure:
            results.append(failure)
        else:
            spent = {name: value - seconds[name] for name, value in run.state.seconds.items()}
            results.append(EpochResult(line, run.state.step - step, spent))
    return results


def _validate(run: Run, stages: Stages, seconds: float) -> dict[str, Any]:
    """Score every day of the validation part, keep the best model, decide what comes next; the line of metrics.jsonl.

    Raises RunFailed for a loss or a validation metric that is not finite.
    """
    state, phase, weights = run.state, run.phase, run.learner.weights
    run.inputs.verification.wait()  # before any figure is told or kept
    means = dict(zip(["loss", *term_names(run.config.objective)], mean_losses(run, epoch_of(run).every), strict=True))
    terms = phase.objective.weights()
    losses = {name: means[name] for name in ("loss", *terms)}
    trained = EpochTraining(state.epoch + 1, state.step, phase.name, losses, state.lr, seconds)
    run.callbacks.on_epoch(run, trained)
    weights.copy_buffers()
    begun = time.perf_counter()
    run.tell("validation")
    scores = score_part(
        weights.scoring, run.inputs.source, run.fold.split.valid, run.config, online=run.valid_online,
        metrics_only=run.fold.valid.present, world=run.learner.world,
    )  # fmt: skip
    valid = part_metrics(run.fold.valid, scores)
    horizons = trained_horizons(state.horizons, phase)
    figure = sum(valid[str(h)]["rank_ic"] for h in horizons) / len(horizons)
    if not math.isfinite(figure):
        what = f"{run.folder}: validation RankIC is {figure} after epoch {state.epoch + 1}"
        raise RunFailed(f"{what}. Scores are constant, or no validation day has 20 samples")
    best = end_epoch(state, figure)
    line = {
        "epoch": state.epoch,
        "step": state.step,
        "phase": phase.name,
        "learning_rate": state.lr,
        "weights": terms,
        "horizon_weights": list(phase.objective.horizon_weights) or [1.0] * len(state.horizons),
        "frozen": list(phase.frozen),
        "off": list(phase.off),
        "train": losses,
        "valid": valid,
        "valid_rank_ic": figure,
        "best": best,
    }
    state.history.append(finite(line))
    if best:
        run.save_best()
    end_phase_if_due(state, run.phases, run.config.train.patience)
    state.seconds["validation"] += time.perf_counter() - begun
    weights.loss_sums.zero_()
    run.save_last()
    if run.learner.world.first:
        write_metrics(run.folder, state)
    if run.log.events is not None:
        log_scalars(run.log.events, line, state)
    per_horizon = ", ".join(f"h={h} {valid[str(h)]['rank_ic']:.4f}" for h in state.horizons)
    run.log.console.print(
        f"epoch {state.epoch}{f' ({phase.name})' if run.config.phases else ''}: loss {means['loss']:.4f}, "
        f"validation RankIC {figure:.4f} ({per_horizon}){', best so far' if best else ''}; "
        f"{state.samples / state.seconds['train']:,.0f} samples/s, "
        f"data wait {state.seconds['wait'] / state.seconds['train']:.1%}, bottleneck {stages.bottleneck}"
    )
    run.callbacks.on_validation(run, state.history[-1])
    return state.history[-1]


def _fit_trees(run: Run, progress: Progress) -> Rival | None:
    """The trees beside the network, kept in the run's folder; None where there are none."""
    config, fold, state = run.config, run.fold, run.state
    if not run.learner.world.first:
        return None  # whose figures count
    if is_there(run.folder / TREES):
        return load_trees(config, run.folder, state.run_id, state.features, state.horizons)
    trees = fit_trees(config, fold.panel, fold.split, fold.categorical, progress)
    if trees is not None:
        origin = Origin(state.split["valid"][1], config.split.tuned_until, state.config_hash, state.run_id)
        save_rival(run.folder / TREES, trees, fold.panel, origin)
    return trees


@dataclass(frozen=True)
class _Added:
    """What is added to the network's scores of a part; None: nothing is."""

    online: Float32 | None = None
    last_layer: Float32 | None = None  # scores of the refitted one


def _added(run: Run, model: Ensemble) -> dict[str, _Added]:
    """What is added to the scores of "valid" and "test". The state of the regressions is kept for days to come.

    Args:
        model: of the best epoch. What a refit gives is no regressor of validation days, which have trained it.
    """
    config, fold = run.config, run.fold
    valid, test = fold.split.valid, fold.split.test
    if not config.model.online_weight:
        return dict.fromkeys(("valid", "test"), _Added())
    used, _ = fold.online(config.model.online_features)
    # That of the last day but one: the newest day is compared with the day before.
    keep = len(fold.panel.calendar) - 2
    fit = fit_online(fold.panel, test, used, fold.categorical, fold.device, keep=keep)
    online = weighted_online_scores(config, fold.panel, test, model.neutral, fit.slopes)
    refitted: dict[str, Float32 | None] = {"valid": None, "test": None}
    sums = None
    if config.model.last_layer_weight:
        days = Days(valid.start, test.stop)
        found = refit_last_layer(model, run.inputs.source, days, config, valid.start, keep=keep)
        day, sums = present_rows(fold.panel, days).day, found.sums
        refitted = {"valid": found.scores[day < valid.stop], "test": found.scores[day >= test.start]}
    if run.learner.world.first:
        write_state(run.folder / ONLINE, state_of(run.state, fold.panel, keep, used, fit.sums, sums))
    return {"valid": _Added(run.valid_online, refitted["valid"]), "test": _Added(online, refitted["test"])}


def _write_summary(run: Run, of_refit: Progress, of_trees: Progress) -> dict[str, Any]:
    """Evaluate the best epoch on validation, refit it, evaluate that on test; write summary.json, enter the look at the
    test, write the report; the summary.

    Args:
        of_refit, of_trees: progress of these.
    """
    config, state, model, fold = run.config, run.state, run.learner.weights.model, run.fold
    run.log.progress(1, 1, "validation of the best epoch")
    path = run.folder / "checkpoints" / BEST
    best, tensors = load_checkpoint(path)
    check_best(best, state, path)
    restore_model(model, tensors, path)
    model.bypass(best.off)
    parts = {"valid": fold.split.valid, "test": fold.split.test}
    samples = {name: part_samples(fold.panel, part) for name, part in parts.items()}
    source, world = run.inputs.source, run.learner.world
    valid = network_scores(model, source, fold.split.valid, config, samples["valid"].present, world)
    added = _added(run, model)
    refit(run, best, of_refit)
    of_refit(1, 1, "test")
    test = network_scores(model, source, fold.split.test, config, samples["test"].present, world)
    network = {"valid": valid, "test": test}
    trees = _fit_trees(run, of_trees)  # now that no other rank waits for this one
    scores = {
        name: combined_scores(
            config, network[name], added[name].online, None if trees is None else trees.scores(fold.panel, part),
            added[name].last_layer,
        )
        for name, part in parts.items()
    }  # fmt: skip
    splits = {name: part_metrics(samples[name], of_part) for name, of_part in scores.items()}
    summary: dict[str, Any] = {
        "run_id": state.run_id,
        "cache_id": state.cache_id,
        "config_hash": state.config_hash,
        "git": git_revision(),
        "device": device_name(run.inputs.device),
        "seed": config.train.seed,
        "params": sum(p.numel() for p in model.parameters()),
        "epochs": state.epoch,
        "best_epoch": best.epoch,
        "source": state.source,
        "days": spans_of(fold.split, fold.panel.calendar),
        "notes": run.notes,
        "splits": splits,
        "periods_per_year": fold.panel.manifest.periods_per_year,
        "throughput": throughput(state, run.inputs.device, run.usage),
    }
    if not run.learner.world.first:
        return finite(summary)
    summary = write_summary(run.folder, summary)
    look = look_of(
        "train", [run.folder], "test", summary["days"]["test"], splits["test"], state.cache_id, state.run_id,
        state.config_hash,
    )  # fmt: skip
    count = None if look is None else record(fold.panel.folder, look)
    of_test = row_scores(fold.panel, fold.split.test, scores["test"].cpu().numpy(), "test", state.run_id)
    report_training(run.folder, fold.panel, of_test, run.notes, count, run.log.console)
    return summary
