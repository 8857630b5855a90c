"""What a run trains, and what computes its steps.

On CUDA, between ranks, and where the step is compiled, the members are slots of a batch (batched.py). Else, on a CPU,
threads work side by side: each on a member of its own or on a part of the block's codes, while torch's operators keep
to one thread, since they are too small to be shared well (threads.py).
"""

import copy
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpoint import Weights
from engine.config import Config
from engine.distributed import SINGLE, World
from engine.model.ensemble import build_ensemble
from engine.model.optimizer import empty_adamw, make_adamw, move_parameters
from engine.model.own import OwnNetwork
from engine.training.objective import term_names
from engine.training.schedule import Phase
from engine.training.step.batched import BatchedStep, Blocks, Gather, make_batched
from engine.training.step.table import Table
from loaders.cache.format import SCORED
from loaders.tiers.choose import Source

MIN_CODES = 16  # of a block's codes that a thread is given
COMPILE_S = 20.0  # that a cold compilation of a step took on 16 cores beside an H200
GAIN_S = 0.0005  # that compiling saves a step there: assumed, until `python -m bench.gpu first` has measured it


@dataclass(frozen=True)
class Slots:
    """The models of a batch that a run trains: one for each of its members, from `begin` on."""

    batch: BatchedStep
    begin: int


@dataclass(frozen=True)
class Threads:
    """What computes the steps of members side by side."""

    replicas: list[list[nn.Module]]  # [members][parts]: the member, and others on its weights for parts of a block
    gradients: list[Tensor]  # [parts - 1] of [K, P], of the others
    pool: ThreadPoolExecutor | None  # a thread for each replica; None: one replica, on torch's threads

    @property
    def parts(self) -> int:
        return len(self.replicas[0])


@dataclass(frozen=True)
class Learner:
    """What a run trains, by a batch or by threads."""

    weights: Weights
    slots: Slots | None
    threads: Threads | None
    world: World
    features: int
    context: int
    own_terms: bool  # whether the loss has terms of the user's own

    @property
    def how(self) -> str:
        """What computes the steps, in words."""
        if self.slots is None:
            return "not compiled (train.compile)"
        compiled = "compiled" if self.slots.batch.compiled else "not compiled (train.compile)"
        if not self.slots.batch.bfloat16:
            return compiled
        own = isinstance(self.weights.model.members[0], OwnNetwork) or self.own_terms
        return f"{compiled}, {'operator by operator' if own else 'captured as a CUDA graph'}"

    def enter_phase(self, phase: Phase) -> None:
        """Freeze and bypass the phase's parts from now on, and tell the optimizer which parameters are trained."""
        for ensemble in self.weights.ensembles:
            ensemble.bypass(phase.off)
        trained = []
        replicas = (
            [[member] for member in self.weights.model.members] if self.threads is None else self.threads.replicas
        )
        for of_member in replicas:
            for replica in of_member:
                replica.freeze(phase.frozen)  # type: ignore[operator]
                replica.bypass(phase.off)  # type: ignore[operator]
                replica.train()
            trained.append(_trained(of_member[0], self.context, self.features))
        self.weights.optimizer.trained.copy_(torch.stack(trained))


def wants_batch(config: Config, device: torch.device, world: World) -> bool:
    """Whether a run's members are trained as a batch."""
    return device.type == "cuda" or world.size > 1 or config.train.compile == "on"


def batch_shape(config: Config) -> object:
    """What the models of a batch must have in common. All else may differ from slot to slot."""
    model, train, data = config.model, config.train, config.data
    drawn = ("dropout", "feature_dropout", "feature_noise")
    # Read by what scores, not by a step.
    scored = ("online_weight", "online_features", "last_layer_weight", "neutralize", "risk_factors")
    return (
        model.model_dump_json(exclude={*drawn, *scored}),
        [getattr(model, name) > 0 for name in drawn],
        (train.seeds, train.accumulate, train.compile, train.ema > 0 or train.swa > 0),
        (data.context, data.block_days, data.block_codes),
        config.objective.target,
        [(name, own.term) for name, own in config.objective.own.items()],
    )


def make_batch(
    config: Config, source: Source, device: torch.device, world: World, count: int, steps: int
) -> BatchedStep:
    """A batch of so many models of a configuration's shape, on the blocks of a source.

    Args:
        steps: that it will take, about; they decide whether compiling pays.
    """
    panel, data, train = source.panel, config.data, config.train
    features, horizons = len(panel.manifest.features), len(panel.manifest.horizons)
    model = build_ensemble(config, features, horizons).to(device).first
    assert isinstance(model, nn.Module)
    days = len(world.days(data.block_days))
    own = config.model.is_own or bool(config.objective.own)  # which no one knows to compile
    compiled = train.compile == "on" or (
        train.compile == "auto" and not own and device.type == "cuda" and steps * GAIN_S > COMPILE_S
    )
    if compiled:  # the compiler's own cache outlives the machine's start only outside the temporary folder
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(data.store).expanduser() / "inductor"))
    return make_batched(
        model, empty_adamw(model, count, average=bool(train.ema or train.swa)),
        (data.block_codes, days + data.context - 1, features, days, horizons), _gather(source, data.context), world,
        bfloat16=device.type == "cuda", compiled=compiled, accumulate=train.accumulate,
        terms=len(term_names(config.objective)),
    )  # fmt: skip


def _gather(source: Source, context: int) -> Gather | None:
    """What fills a batch's blocks on the device; None where the device cannot read the panel's rows."""
    rows, panel = source.rows, source.panel
    if rows is None:
        return None
    from kernels.block_gather import gather_step

    def gather(table: Table, blocks: Blocks) -> None:
        gather_step(
            rows.address, rows.first, rows.days, panel.half, table.codes, table.day, table.position, context,
            (0, len(panel.calendar)), SCORED, blocks.x, blocks.presence, blocks.y,
        )  # fmt: skip

    return gather


@contextmanager
def make_learner(
    config: Config, features: int, horizons: int, device: torch.device, world: World = SINGLE,
    slots: Slots | None = None,
) -> Iterator[Learner]:  # fmt: skip
    """A freshly initialised learner on a device, in slots of a batch or else with threads that end with the `with`."""
    train = config.train
    model = build_ensemble(config, features, horizons).to(device)
    average = None
    if train.ema or train.swa:
        average = build_ensemble(config, features, horizons).to(device).requires_grad_(False)
    members, averages = list(model.members), [] if average is None else list(average.members)
    if slots is None:
        optimizer = make_adamw(members, averages)
        sums = torch.zeros(train.seeds, 1 + len(term_names(config.objective)), dtype=torch.float64, device=device)
        threads = _make_threads(config, members, optimizer.weights, optimizer.gradient)
    else:
        mine = slice(slots.begin, slots.begin + train.seeds)
        optimizer, sums, threads = slots.batch.optimizer.rows(mine.start, mine.stop), slots.batch.sums[mine], None
        optimizer.adopt(members, averages)
        sums.zero_()
    try:
        yield Learner(
            Weights(model, average, optimizer, sums), slots, threads, world, features, config.data.context,
            bool(config.objective.own),
        )  # fmt: skip
    finally:
        if threads is not None and threads.pool is not None:
            threads.pool.shutdown()


def _make_threads(config: Config, members: list[nn.Module], weights: Tensor, gradient: Tensor) -> Threads:
    parts, seeds, first = 1, config.train.seeds, members[0]
    if first.may_split if isinstance(first, OwnNetwork) else first.codes_are_independent:
        parts = max(min(torch.get_num_threads() // seeds, config.data.block_codes // MIN_CODES), 1)
    gradients = [torch.zeros_like(gradient) for _ in range(1, parts)]
    replicas = [
        [member, *(_replica(member, weights[k], gradient[k]) for gradient in gradients)]
        for k, member in enumerate(members)
    ]
    workers = seeds * parts
    pool = ThreadPoolExecutor(workers, "replica", torch.set_num_threads, (1,)) if workers > 1 else None
    return Threads(replicas, gradients, pool)


def _replica(member: nn.Module, row: Tensor, gradient: Tensor) -> nn.Module:
    """A second module on the same row of weights, with gradients of its own."""
    other = copy.deepcopy(member)
    move_parameters(other, row, gradient)
    return other


def _trained(member: nn.Module, context: int, features: int) -> Tensor:
    """Which of a model's parameters get a gradient, [N] float 0/1: they are not frozen, and a score depends on them."""
    device = next(member.parameters()).device
    x = torch.zeros(2, context, features, device=device)  # two codes, one scored day
    member.eval()
    scores, quantiles = member(x, torch.ones_like(x[..., 0]))
    member.train()
    given = {name: p for name, p in member.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(scores.sum() + quantiles.sum(), list(given.values()), allow_unused=True)
    used = {name for name, gradient in zip(given, found, strict=True) if gradient is not None}
    return torch.tensor([float(name in used) for name, _ in member.named_parameters()], device=device)
