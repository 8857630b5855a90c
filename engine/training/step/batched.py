"""The step of K models as one piece of work on the device, without a word from the host.

    row of the table -> gather -> K forwards (vmap over stacked weights) -> objective with an axis of models ->
    gradients -> clip, AdamW, average -> sums of losses -> next row

Everything that differs between steps, and between models of one shape, is a tensor: blocks, rates, weights of terms,
dropout. So the body is captured as a CUDA graph once and replayed for every step, and a slot of the batch may go to
another model between two epochs. On a CPU the same body runs operator by operator, and so it does for networks and
terms of the user's own: they may look at values, draw from torch's generator and write to buffers of their own.

K models, S codes, T days read, D days scored, F features, H horizons, N parameters of a model
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from engine.distributed import World, sync_loss
from engine.model.optimizer import AdamW, layout_of
from engine.model.own import OwnNetwork, seeded
from engine.model.residual import drawn_of, numbers_per_code, settings_of
from engine.training.objective import Objective, stacked
from engine.training.step.graph import captured
from engine.training.step.table import ModelSteps, Row, Table, new_table, rows_for
from kernels.rank_terms import SHARPE, TERMS
from kernels.uniforms import uniforms
from loaders.batch import Batch
from loaders.cache.format import SCORED
from loaders.split import Days

SHAPES = 64  # of a step that a process may compile: of its phases, folds, and the shapes of a study
Losses = Callable[..., tuple[Tensor, ...]]  # parameters, buffers, x, present, scored, y, rotations -> loss, terms, ...
Gather = Callable[[Table, "Blocks"], None]  # fills the blocks with those of the table's next row


@dataclass(frozen=True)
class Blocks:
    """The blocks that the models are trained on next, in memory of their own."""

    x: Tensor  # [K, S, T, F] float32
    presence: Tensor  # [K, S, T] uint8
    y: Tensor  # [K, S, D, H] float32

    def put(self, k: int, batch: Batch | None) -> None:
        """Copy a block to model k; None leaves it without one."""
        codes = 0 if batch is None else len(batch.x)
        if batch is not None:
            self.x[k, :codes].copy_(batch.x, non_blocking=True)
            self.presence[k, :codes].copy_(batch.presence, non_blocking=True)
            self.y[k, :codes].copy_(batch.y, non_blocking=True)
        self.x[k, codes:].zero_()
        self.presence[k, codes:].zero_()
        self.y[k, codes:].fill_(torch.nan)


@dataclass
class BatchedStep:
    """The step of K models of one shape; what they have in common is asked of the first, `model`."""

    model: nn.Module
    optimizer: AdamW
    sums: Tensor  # [K, 1 + TERMS] float64, of losses and terms
    blocks: Blocks
    gather: Gather | None  # None: the caller puts the blocks
    world: World
    bfloat16: bool
    compiled: bool
    accumulate: int  # blocks whose gradients make one step of the optimizer
    part: Tensor  # [K, 2] int64, first day and the one after the last that have targets
    stop: Tensor  # [1] float32, above 0: this rank was asked to stop
    stopped: Tensor  # [1] float32, above 0: a rank was
    table: Table | None = None
    objective: Objective | None = None
    settings: dict[str, Tensor] | None = None  # [K] each, see settings_of
    buffers: dict[str, Tensor] = field(default_factory=dict)  # [K, ...] each, of networks of the user's own
    written: list[dict[str, Tensor]] = field(default_factory=list)  # of each model, by the step under way
    keys: list[list[int]] = field(default_factory=list)  # [K][B], of the random numbers that such networks draw
    taken: int = 0  # steps of the epoch
    key: object = None  # of what is captured: two phases of one key differ in values alone
    replay: Callable[[], None] | None = None

    def begin(
        self, models: Sequence[nn.Module | None], objectives: Sequence[Objective | None],
        steps: Sequence[ModelSteps | None], parts: Sequence[Days | None],
    ) -> None:  # fmt: skip
        """Prepare an epoch: what each model does, by which objective; None for a slot without a model.

        Values are copied to where the step reads them. It is captured anew only where a structure has changed: parts of
        the model that are off or frozen, terms in plain torch, or an epoch that is longer than the table.
        """
        self.keys, self.taken = [[] if one is None else one.keys for one in steps], 0
        first = next(k for k, model in enumerate(models) if model is not None)
        self.model = models[first]  # type: ignore[assignment]
        objective = stacked([one or objectives[first] for one in objectives])  # type: ignore[misc]
        every = [settings_of(model or self.model) for model in models]
        settings = {name: torch.stack([of_model[name] for of_model in every]) for name in every[0]}
        key = (
            objective.structure, tuple(settings), getattr(self.model, "off", None),
            tuple(p.requires_grad for p in self.model.parameters()),
        )  # fmt: skip
        if self.table is None or rows_for(steps) > len(self.table.codes) or key != self.key:
            rows, (count, codes) = rows_for(steps), self.blocks.presence.shape[:2]
            self.table = new_table(rows, count, codes, objective.rotations, self.sums.device)
            self.objective, self.settings, self.key, self.replay = objective, settings, key, None
        assert self.objective is not None
        assert self.settings is not None
        for name in ("weights", "horizons", "tau", "temperature"):
            getattr(self.objective, name).copy_(getattr(objective, name))
        for name, values in settings.items():
            self.settings[name].copy_(values)
        for k, days in enumerate(parts):
            self.part[k] = torch.tensor([0, 0] if days is None else [days.start, days.stop])
        self.table.load(steps)
        self._adopt_buffers(models)
        if self.replay is None and self.has_own:
            losses = self._losses()
            self.replay = lambda: self.body(losses)
        elif self.replay is None:
            changed = [getattr(self.optimizer, field.name) for field in fields(self.optimizer)]
            losses = self._losses()
            self.replay = captured(
                lambda: self.body(losses), self.sums.device, [*changed, self.sums, self.table.position, self.stopped]
            )

    def _adopt_buffers(self, models: Sequence[nn.Module | None]) -> None:
        """Let the buffers of networks of the user's own be views of `buffers`, so that what a step writes stays."""
        for k, model in enumerate(models):
            if not isinstance(model, OwnNetwork):
                continue
            drawn_or_set = {*settings_of(model), *drawn_of(model, torch.empty(0, 0), 1)}
            for name, buffer in [(n, b) for n, b in model.named_buffers() if n not in drawn_or_set]:
                if name not in self.buffers:
                    self.buffers[name] = torch.stack([buffer] * len(models))
                view = self.buffers[name][k]
                view.copy_(buffer)
                module, _, last = name.rpartition(".")
                model.get_submodule(module)._buffers[last] = view

    def _losses(self) -> Losses:
        """Forward and objective of all models, compiled where that was asked for."""
        objective, bfloat16 = self.objective, self.bfloat16
        assert objective is not None
        of_blocks = objective if self.world.size == 1 else objective.of_rank
        own = isinstance(self.model, OwnNetwork) and not self.model.traits.maps
        forwards = self._own_forwards if own else self._forwards

        def losses(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, present: Tensor, scored: Tensor,
            y: Tensor, rotations: Tensor,
        ) -> tuple[Tensor, ...]:  # fmt: skip
            # A graph must not keep the casts of weights that change between its replays.
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
                scores, quantiles = forwards(parameters, buffers, x, present, scored)
            return of_blocks(scores, quantiles, y, rotations)

        if not self.compiled:
            return losses
        torch._dynamo.config.recompile_limit = SHAPES
        return torch.compile(losses, fullgraph=not self.has_own, dynamic=False)

    def _forwards(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, present: Tensor, scored: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores [K, S, D, H] and quantiles [K, S, D, H, Q] of all models; weights of a single one have no axis K."""

        def forward(values: dict[str, Tensor], *inputs: Tensor) -> tuple[Tensor, Tensor]:
            found: tuple[Tensor, Tensor] = functional_call(self.model, values, inputs)
            return found

        if len(x) == 1:
            first = {**parameters, **{name: rows[0] for name, rows in buffers.items()}}
            one = forward(first, x[0], present[0], scored[0])
            return one[0][None], one[1][None]
        return vmap(forward, randomness="different")({**parameters, **buffers}, x, present, scored)

    def _own_forwards(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, present: Tensor, scored: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`_forwards`, one after the other, of networks that draw, write to buffers or cannot be mapped."""
        assert isinstance(self.model, OwnNetwork)
        results, changes = [], self.model.traits.changes
        for k in range(len(x)):
            values = parameters if len(x) == 1 else {name: rows[k] for name, rows in parameters.items()}
            # Backward may want a buffer as it was, so what the network writes goes to a copy until then.
            mine = {name: rows[k].clone() if changes else rows[k] for name, rows in buffers.items()}
            values = {**values, **mine}
            with seeded(self.model, self.keys[k][self.taken] if self.taken < len(self.keys[k]) else 0):
                results.append(functional_call(self.model, values, (x[k], present[k], scored[k])))
            if changes:
                self.written.append({name: values[name].detach() for name in self.buffers})
        scores, quantiles = zip(*results, strict=True)
        return torch.stack(scores), torch.stack(quantiles)

    @property
    def has_own(self) -> bool:
        """Whether the step runs code of the user's, which nobody knows to compile as a whole or to capture."""
        return isinstance(self.model, OwnNetwork) or (self.objective is not None and bool(self.objective.own))

    def body(self, losses: Losses) -> None:
        """One step of all models. No operator waits for the device or depends on a value."""
        assert self.table is not None
        assert self.objective is not None
        assert self.settings is not None
        blocks, row = self.blocks, self.table.row()
        if self.gather is not None:
            self.gather(self.table, blocks)
        count, codes, days = blocks.presence.shape
        each = numbers_per_code(self.model, days)
        numbers = uniforms(row.keys, codes * each).view(count, codes, each)
        buffers = {**self.settings, **drawn_of(self.model, numbers, days), **self.buffers}
        # Without the axis of a single model there is nothing to map over, and no gradient to select from.
        squeezed = (lambda rows: rows[0]) if count == 1 else (lambda rows: rows)
        layout = layout_of(self.model)
        leaves = {name: view.detach() for name, view in layout.views(squeezed(self.optimizer.weights)).items()}
        on = [name for name, p in self.model.named_parameters() if p.requires_grad]
        for name in on:
            leaves[name].requires_grad_()
        present, scored = (blocks.presence > 0).float(), (blocks.presence == SCORED).float()
        found = losses(leaves, buffers, blocks.x, present, scored, self._targets(row), row.rotations)
        if self.world.size > 1:
            weight = self.objective.weights[:, SHARPE]
            loss, values, stopped = sync_loss(self.world, found, weight, self.objective.horizons, self.stop)
            torch.maximum(self.stopped, stopped, out=self.stopped)
        else:
            loss, values = found[0], torch.cat([found[0].detach()[:, None], found[1]], 1)
            torch.maximum(self.stopped, self.stop, out=self.stopped)
        gradients = torch.autograd.grad(loss.sum() / self.accumulate, [leaves[name] for name in on], allow_unused=True)
        for name, rows in self.buffers.items() if self.written else ():
            active = row.active.view(-1, *(1 for _ in rows.shape[1:]))
            rows.copy_(torch.where(active, torch.stack([of_model[name] for of_model in self.written]), rows))
        self.written.clear()
        total = self.optimizer.gradient if self.world.size == 1 else torch.zeros_like(self.optimizer.gradient)
        views = layout.views(squeezed(total))
        given = [(views[name], one) for name, one in zip(on, gradients, strict=True) if one is not None]
        torch._foreach_add_(*map(list, zip(*given, strict=True)))
        if self.world.size > 1:
            self.world.all_reduce(total)
            self.optimizer.gradient.add_(total)
        self.optimizer.step(row.sizes)
        self.sums.add_(torch.where(row.active[:, None], values, 0.0))
        self.table.position.add_(1)
        self.taken += 1

    def _targets(self, row: Row) -> Tensor:
        """The targets of days inside each model's part."""
        y = self.blocks.y
        day = row.day[:, None] + torch.arange(y.shape[2], device=y.device)
        inside = (day >= self.part[:, :1]) & (day < self.part[:, 1:])
        return torch.where(inside[:, None, :, None], y, torch.nan)


def make_batched(
    model: nn.Module, optimizer: AdamW, shape: tuple[int, int, int, int, int], gather: Gather | None, world: World,
    *, bfloat16: bool, compiled: bool, accumulate: int, terms: int = len(TERMS),
) -> BatchedStep:  # fmt: skip
    """The step of the models whose weights are the rows of the optimizer.

    Args:
        shape: S, T, F, D, H of a block; of D and T this rank's.
        terms: of the loss.
    """
    codes, days, features, scored, horizons = shape
    count, device = len(optimizer.weights), optimizer.weights.device
    blocks = Blocks(
        torch.zeros(count, codes, days, features, device=device),
        torch.zeros(count, codes, days, dtype=torch.uint8, device=device),
        torch.full((count, codes, scored, horizons), torch.nan, device=device),
    )
    return BatchedStep(
        model, optimizer, torch.zeros(count, 1 + terms, dtype=torch.float64, device=device), blocks, gather, world,
        bfloat16, compiled, accumulate, torch.zeros(count, 2, dtype=torch.int64, device=device),
        torch.zeros(1, device=device), torch.zeros(1, device=device),
    )  # fmt: skip
