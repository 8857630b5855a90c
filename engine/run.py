"""A run opened: its folder made or its last checkpoint restored, ready for its next epoch (see trainer.py)."""

import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from engine.checkpoint import (
    AVERAGE,
    BEST,
    LAST,
    State,
    load_checkpoint,
    restore_model,
    restore_optimizers,
    save_checkpoint,
    write_atomically,
)  # fmt: skip
from engine.config import Config, config_hash, load_config, to_toml
from engine.distributed import ALONE, RankLost, World
from engine.inputs import Inputs, resolve
from engine.model.ensemble import seeds_of
from engine.objective import Objective, make_objective
from engine.online import Float32
from engine.phases import Phase, phases_of
from engine.predict import online_part
from engine.risk import risk_directions
from engine.step import Learner, make_learner
from engine.tracking import device_name, write_metrics
from kernels.rank_terms import TERMS
from loaders.delivery import AHEAD
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.plan import Plan


class RunFailed(Exception):
    """A training that cannot go on, such as a loss that is no longer finite. Exit code 1."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM; the run's state has been saved. Exit code 1."""


@dataclass(frozen=True)
class Training:
    """What a run works with; where it stands is in `state`, all else stays as it is."""

    config: Config
    inputs: Inputs
    folder: Path
    state: State
    phases: list[Phase]
    learner: Learner
    running: Tensor  # [1 + 8] float64, sums over the epoch's blocks of the loss and its terms
    plans: list[Plan]  # of each member
    online: Float32 | None  # what is added to scores of the validation part, see `online_part`
    stop: list[int]  # signals received
    console: Console
    writer: Any  # TensorBoard's, of the first rank
    world: World

    @property
    def phase(self) -> Phase:
        return self.phases[self.state.phase]

    def save(self, name: str) -> None:
        """Write a checkpoint, on the first rank."""
        learner = self.learner
        if not self.world.first:
            return
        path = self.folder / "checkpoints" / name
        if name == BEST:
            save_checkpoint(path, self.state, learner.scoring, None, learner.optimizers, self.running)
        else:
            save_checkpoint(path, self.state, learner.ensemble, learner.average, learner.optimizers, self.running)


@contextmanager
def started(
    config: Config, inputs: Inputs, run: Path | None, resume: bool, console: Console, world: World = ALONE
) -> Iterator[Training]:
    """A run that is ready for its next epoch, its folder made or its last checkpoint restored; arguments as `train`."""
    panel, device = inputs.panel, inputs.device
    config = resolve(config, panel)
    world.days(config.data.block_days)
    data, train = config.data, config.train
    plans = [
        Plan(panel, inputs.split.train, data.block_days, data.block_codes, seed, train.half_life)
        for seed in seeds_of(config)
    ]
    torch.use_deterministic_algorithms(train.deterministic)
    features, horizons = panel.manifest.features, panel.manifest.horizons
    phases = phases_of(config)
    for phase in phases:
        objective_of(config, phase, len(horizons), device)  # refused now rather than hours later
    with ExitStack() as stack:
        learner = stack.enter_context(make_learner(config, len(features), len(horizons), device, world))
        running = torch.zeros(1 + len(TERMS), dtype=torch.float64, device=device)
        if resume:
            run = _existing(run)
            state = _resumed(run, config, panel, learner, running)
        else:
            run_id = world.agreed(f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")
            run = Path("runs") / run_id if run is None else run
            if world.first and run.is_dir() and any(run.iterdir()):
                raise InputError(str(run), "the folder is not empty", "Pass --resume to go on, or another --out")
            state = State(run_id, panel.manifest.cache_id, config_hash(config), features, horizons)
            if config.model.neutral:
                _neutralise(learner, config, inputs)
            if world.first:
                _make_folder(run)
        stop, writer = stack.enter_context(_signals()), None
        if world.first:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(run), purge_step=state.step + 1 if resume else None)
            stack.enter_context(closing(writer))
        slopes = inputs.slopes if config.model.online else None
        online = online_part(config, panel, inputs.split.valid, learner.ensemble.neutral, slopes)
        t = Training(config, inputs, run, state, phases, learner, running, plans, online, stop, console, writer, world)
        if not resume:
            t.save(LAST)
            if world.first:
                write_atomically(run / "config.toml", to_toml(config).encode())
        if world.first:
            write_metrics(run, state)
        console.print(_heading(t))
        world.wait()  # until all have read the checkpoint that the first will replace
        yield t


@contextmanager
def answering(run: Path | None) -> Iterator[None]:
    """Make of a rank that no longer answers a RunFailed that says how to go on."""
    try:
        yield
    except RankLost as error:
        what = f"{run or 'the run'}: another rank no longer answers ({error})"
        raise RunFailed(f"{what}. Its own message says why; go on with --resume and the run's --out") from error


def resumed_config(run: Path | None, settings: list[str], arrow: str | None) -> Config:
    """The configuration stored in a run folder, for --resume; `train` refuses settings that change figures."""
    path = _existing(run) / "config.toml"
    return load_config(path, settings, arrow)


def _existing(run: Path | None) -> Path:
    if run is None or not (run / "config.toml").exists():
        raise InputError(str(run or "--resume"), "no run to resume here", "Name its folder with --out")
    return run


def _neutralise(learner: Learner, config: Config, inputs: Inputs) -> None:
    """Give the model the risk directions of the training part; they are kept with its weights from then on."""
    directions = torch.from_numpy(risk_directions(inputs.moments, config.model.risks, inputs.ids))
    for ensemble in (learner.ensemble, learner.average):
        if ensemble is not None:
            ensemble.neutral.directions.copy_(directions)


def _check_resumable(state: State, config: Config, panel: Panel, run: Path) -> None:
    if state.config_hash != config_hash(config):
        what = "the configuration differs from the one this run began with"
        raise InputError(str(run), what, "Leave --config and --set out to resume, or begin another run")
    if state.cache_id != panel.manifest.cache_id:
        what = f"began on cache {state.cache_id}, {panel.folder} is {panel.manifest.cache_id}"
        raise InputError(str(run), what, "Resume on the cache it began with, or begin another run")


def _make_folder(run: Path) -> None:
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(run), f"cannot be made ({error.strerror})", "Choose another --out") from error


def _resumed(run: Path, config: Config, panel: Panel, learner: Learner, running: Tensor) -> State:
    """The state of a run folder's last checkpoint, whose tensors are put where they belong."""
    path = run / "checkpoints" / LAST
    state, tensors = load_checkpoint(path)
    _check_resumable(state, config, panel, run)
    restore_model(learner.ensemble, tensors, path)
    if learner.average is not None:
        restore_model(learner.average, tensors, path, AVERAGE)
    restore_optimizers(learner.optimizers, tensors)
    running.copy_(tensors["running"])
    return state


def objective_of(config: Config, phase: Phase, horizons: int, device: torch.device) -> Objective:
    """What a phase trains on. Raises InputError where its weights of horizons are not as many as horizons."""
    return make_objective(config.model_copy(update={"objective": phase.objective}), horizons, device)


def _heading(t: Training) -> str:
    panel, state, learner = t.inputs.panel, t.state, t.learner
    dates = [
        f"{name} {panel.calendar[d.start]}..{panel.calendar[d.stop - 1]}" for name, d in vars(t.inputs.split).items()
    ]
    members = len(learner.ensemble.members)
    params = f"{sum(p.numel() for p in learner.ensemble.parameters()):,} parameters"
    if members > 1:
        side = "side by side, a thread each" if learner.threads else "one after the other"
        params += f" in {members} models trained {side}"
    begun = f", resumed at epoch {state.epoch + 1}, block {state.position}" if state.step else ""
    return (
        f"run {state.run_id}: {params} on {device_name(t.inputs.device)}, {len(state.features)} features, "
        f"context {t.config.data.context} days{begun}\n{' | '.join(dates)}\n"
        f"loader: {t.inputs.source}, {AHEAD} blocks ahead\n"
        f"step: {'compiled' if learner.compiled else 'not compiled (train.compile)'}"
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that receives the number of each SIGINT or SIGTERM; a second one acts at once."""
    received: list[int] = []
    previous = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    except RankLost:
        # torchrun ends all ranks now; this one ends by itself and says why first.
        previous[int(signal.SIGTERM)] = signal.SIG_IGN
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
