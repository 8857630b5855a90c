"""A run opened: its folder made or its last checkpoint restored, ready for its next epoch (see loop.py).

A run's folder is begun in this order: checkpoints/last.safetensors, config.toml, metrics.jsonl, each synced before the
next. With a config.toml it can be resumed; until then the same command begins it anew. One command at a time has the
folder, by a lock in it that ends with the process; of several ranks the first holds it.

Rows are compared with their checksums beside the first steps. Until that has ended nothing but the beginning is
written: a run that began on damaged rows is undone, and one that is resumed on them keeps its last checkpoint.
"""

import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from engine.callbacks.protocol import Callback, Callbacks
from engine.checkpoint import BEST, LAST, State, load_checkpoint, restore_weights, save_best, save_last
from engine.config import Config
from engine.config_file import config_content, config_hash, load_config
from engine.dates import dates_of, tuned_note
from engine.distributed import SINGLE, RankLost, World
from engine.errors import RunFailed
from engine.inputs import Inputs, made_of, resolve
from engine.model.ensemble import seeds_of
from engine.model.features import useless
from engine.model.own import OwnNetwork, summary_of
from engine.score.predict import weighted_online_scores
from engine.score.risk import risk_directions
from engine.score.rows import Float32
from engine.training.fold import Fold
from engine.training.objective import Objective, make_objective
from engine.training.schedule import Phase, phases_of
from engine.training.step.learner import Learner, Slots, make_batch, make_learner, wants_batch
from engine.training.tracking import METRICS, RunLog, device_name, open_log, write_metrics
from engine.training.usage import Usage, watch_usage
from loaders.batch import AHEAD
from loaders.cache.atomic import write_atomically
from loaders.disk.beginning import beginning
from loaders.disk.content import is_there
from loaders.disk.durable import make_folder
from loaders.disk.lock import alone_in
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.plan import Plan
from loaders.progress import Progress, quiet

CONFIG = "config.toml"  # ends the beginning of a run's folder; before it, there are only these:
BEGUN = (
    "checkpoints", f"checkpoints/{LAST}", f"checkpoints/.{LAST}.partial", "events.out.tfevents.*", f".{CONFIG}.partial"
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a run knows. Where it stands is in `state`; its configuration, inputs and fold stay as they are."""

    config: Config
    folder: Path
    state: State
    inputs: Inputs
    fold: Fold
    plans: list[Plan]  # of each member
    learner: Learner
    log: RunLog
    stop: list[int]  # signals received
    usage: Usage
    callbacks: Callbacks
    is_kept: bool = True  # whether where it stands is written to its last checkpoint

    @cached_property
    def phases(self) -> list[Phase]:
        return phases_of(self.config)

    @property
    def phase(self) -> Phase:
        return self.phases[self.state.phase]

    @cached_property
    def steps(self) -> int:
        """Of the whole run, about, where no phase ends early."""
        return steps_of(self.config, self.plans[0])

    def tell(self, doing: str) -> None:
        """Tell how far the run is, and what it is doing."""
        state = self.state
        epoch, epochs = min(state.epoch + 1, self.epochs), self.epochs
        self.log.progress(min(state.step, self.steps), self.steps, f"epoch {epoch}/{epochs} · {doing}")

    @cached_property
    def epochs(self) -> int:
        """Of the whole run, where no phase ends early."""
        return sum(phase.epochs for phase in self.phases)

    @cached_property
    def notes(self) -> list[str]:
        """What has to be said with the figures of the test part."""
        test = self.fold.split.test
        dates = self.fold.panel.calendar[test.start : test.stop]
        note = tuned_note(str(self.folder), "test", dates, self.config.split.tuned_until)
        return [] if note is None else [note]

    @cached_property
    def valid_online(self) -> Float32 | None:
        """What is added to the network's scores of the validation part."""
        model = self.config.model
        slopes = self.fold.online(model.online_features)[1] if model.online_weight else None
        neutral = self.learner.weights.model.neutral
        return weighted_online_scores(self.config, self.fold.panel, self.fold.split.valid, neutral, slopes)

    def save_best(self) -> None:
        """Write the best checkpoint, on the first rank. Raises InputError where rows are damaged."""
        self.inputs.verification.wait()
        if self.learner.world.first:
            save_best(self.folder / "checkpoints" / BEST, self.state, self.learner.weights)

    def save_last(self) -> None:
        """Write the checkpoint to resume from, on the first rank. Raises InputError where rows are damaged."""
        self.inputs.verification.wait()
        if self.learner.world.first and self.is_kept:
            save_last(self.folder / "checkpoints" / LAST, self.state, self.learner.weights)


@contextmanager
def open_run(
    config: Config,
    inputs: Inputs,
    fold: Fold,
    folder: Path | None,
    resume: bool,
    console: Console,
    world: World = SINGLE,
    slots: Slots | None = None,
    stop: list[int] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress = quiet,
) -> Iterator[Run]:
    """A run that is ready for its next epoch, its folder made or its last checkpoint restored; arguments as `train`.

    Args:
        slots: of a batch that other runs are trained in too; None: the run has its own, where its device wants one.
        stop: receives signals, see `stop_signals`; None: a list of the run's own.
        progress: of the whole run, in steps.
    """
    progress(0, 0, "preparing")
    panel, device = inputs.panel, inputs.device
    config = resolve(config, panel)
    data, train = config.data, config.train
    world.days(data.block_days)
    plans = [plan_of(config, fold, seed) for seed in seeds_of(config)]
    if torch.are_deterministic_algorithms_enabled() != train.deterministic:  # the call imports the compiler
        torch.use_deterministic_algorithms(train.deterministic)
    features, horizons = panel.manifest.features, panel.manifest.horizons
    for phase in phases_of(config):
        phase_objective(config, phase, len(horizons), device)  # refused now rather than hours later
    with ExitStack() as stack:
        usage = stack.enter_context(watch_usage(device, console.print))
        if slots is None and wants_batch(config, device, world):
            slots = Slots(make_batch(config, inputs.source, device, world, train.seeds, steps_of(config, plans[0])), 0)
        learner = stack.enter_context(make_learner(config, len(features), len(horizons), device, world, slots))
        if resume:
            folder = _existing(folder)
            if world.first:
                stack.enter_context(alone_in(folder))
            state = _restored(folder, config, panel, learner)
        else:
            run_id = world.broadcast(f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
            folder = Path("runs") / run_id if folder is None else folder
            if world.first:
                stack.enter_context(beginning(folder, CONFIG, BEGUN))
                stack.enter_context(_undone_on_damage(folder, inputs))
            split = dates_of(fold.split, panel.calendar)
            state = State(
                run_id, panel.manifest.cache_id, config_hash(config), features, horizons, split, config.data.arrow,
                made_of(panel.manifest), str(panel.calendar[0]),
            )  # fmt: skip
            if config.model.online_weight:
                state.online = [features[i] for i in fold.online(config.model.online_features)[0]]
            if config.model.neutralize:
                _set_risk_directions(learner, config, fold)
            if world.first:
                make_folder(folder / "checkpoints")
        log = open_log(folder, console, state, resume, world.first, progress)
        called = Callbacks(tuple(callbacks) if world.first else ())
        run = Run(config, folder, state, inputs, fold, plans, learner, log, [] if stop is None else stop, usage, called)
        _ = fold.valid, run.valid_online  # computed now: later it would be counted as time of the first validation
        if not resume and world.first:
            save_last(folder / "checkpoints" / LAST, state, learner.weights)
            write_atomically(folder / CONFIG, config_content(config))
        if world.first:
            write_metrics(folder, state)
        console.print(_heading(run))
        if (line := useless(panel.manifest)) is not None:
            console.print(line)
        world.barrier()  # until all have read the checkpoint that the first will replace
        with run.callbacks.of(run):
            yield run


@contextmanager
def lost_ranks_explained(folder: Path | None) -> Iterator[None]:
    """Make of a rank that no longer answers a RunFailed that says how to resume."""
    try:
        yield
    except RankLost as error:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends all ranks now; this one says why first
        what = f"{folder or 'the run'}: another rank no longer answers ({error})"
        raise RunFailed(f"{what}. Its own message says why; resume with --resume and the run's --out") from error


def resumed_config(folder: Path | None, settings: list[str], arrow: str | None) -> Config:
    """The configuration stored in a run folder, for --resume; `train` refuses settings that change metrics."""
    return load_config(_existing(folder) / CONFIG, settings, arrow)


def plan_of(config: Config, fold: Fold, seed: int = 0) -> Plan:
    """The training blocks of a member."""
    data = config.data
    return Plan(fold.panel, fold.split.train, data.block_days, data.block_codes, seed, config.train.half_life)


def steps_of(config: Config, plan: Plan) -> int:
    """Steps of a training that no early stopping ends, about."""
    blocks = len(plan.epoch(0))
    return sum(phase.epochs * min(phase.blocks or blocks, blocks) for phase in phases_of(config))


def phase_objective(config: Config, phase: Phase, horizons: int, device: torch.device) -> Objective:
    """What a phase trains on. Raises InputError where its weights of horizons are not as many as horizons."""
    return make_objective(config.model_copy(update={"objective": phase.objective}), horizons, device)


@contextmanager
def _undone_on_damage(folder: Path, inputs: Inputs) -> Iterator[None]:
    """Undo what `beginning` has finished where rows turn out to be damaged."""
    try:
        with inputs.verification.explaining():
            yield
    except InputError:
        if inputs.verification.error is not None:
            for name in (CONFIG, METRICS):
                (folder / name).unlink(missing_ok=True)
        raise


def _existing(folder: Path | None) -> Path:
    if folder is not None and is_there(folder / CONFIG):
        return folder
    cure = "Name its folder with --out; where its beginning was cut short, leave --resume out"
    raise InputError(str(folder or "--resume"), "no run to resume here", cure)


def _set_risk_directions(learner: Learner, config: Config, fold: Fold) -> None:
    """Give the model the risk factors of the training part; they are kept with its weights from then on."""
    directions = torch.from_numpy(risk_directions(fold.moments, config.model.risk_factors, fold.categorical))
    for ensemble in learner.weights.ensembles:
        ensemble.neutral.directions.copy_(directions)


def _restored(folder: Path, config: Config, panel: Panel, learner: Learner) -> State:
    """The state of a run folder's last checkpoint, whose tensors are put where they belong."""
    path = folder / "checkpoints" / LAST
    state, tensors = load_checkpoint(path)
    if state.config_hash != config_hash(config):
        what = "the configuration differs from the one this run began with"
        raise InputError(str(folder), what, "Leave --config and --set out to resume, or begin another run")
    if state.cache_id != panel.manifest.cache_id:
        what = f"began on cache {state.cache_id}, {panel.folder} is {panel.manifest.cache_id}"
        raise InputError(str(folder), what, "Resume on the cache it began with, or begin another run")
    if state.phase >= len(phases_of(config)):
        what = f"its state names phase {state.phase} of {len(phases_of(config))}"
        raise InputError(str(path), what, "Train the run again")
    restore_weights(learner.weights, tensors, path)
    return state


def _heading(run: Run) -> str:
    state, learner = run.state, run.learner
    dates = [f"{name} {first}..{last}" for name, (first, last) in state.split.items()]
    model = learner.weights.model
    params = f"{sum(p.numel() for p in model.parameters()):,} parameters"
    if len(model.members) > 1:
        side = "in one batch" if learner.threads is None else "side by side, a thread each"
        params += f" in {len(model.members)} models trained {side}"
    numbers, most = len(state.features) - len(run.config.model.categories), run.config.model.online_features
    bounded = f"\nonline regression: the {most} of {numbers} features of the largest mean IC (model.online_features)"
    first = model.members[0]
    of_members = (len(model.members), learner.threads is None)
    own = f"\n{summary_of(first, *of_members)}" if isinstance(first, OwnNetwork) else ""
    begun = f", resumed at epoch {state.epoch + 1}, block {state.position}" if state.step else ""
    return (
        f"run {state.run_id}: {params} on {device_name(run.inputs.device)}, {len(state.features)} features, "
        f"context {run.config.data.context} days{begun}\n"
        + "\n".join([*dates, *run.notes])
        + f"\nloader: {run.inputs.source}, {AHEAD} blocks ahead\n"
        f"step: {learner.how}"
        f"{own}"
        f"{bounded if run.config.model.online_weight and numbers > most else ''}"
    )


@contextmanager
def stop_signals(received: list[int] | None = None) -> Iterator[list[int]]:
    """A list that receives the number of each SIGINT or SIGTERM; a second one acts at once.

    In a thread beside the main one, where Python takes no signals, it stays empty.
    """
    received = [] if received is None else received
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    except RankLost:
        previous[int(signal.SIGTERM)] = signal.SIG_IGN  # see `lost_ranks_explained`
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
