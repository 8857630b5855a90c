"""AdamW on flat weights: all weights of K models are the rows of one tensor, and so is all that training keeps of them.

The parameters of a model are views of its row, their gradients views of another. So a step of the optimizer is a dozen
operators whatever the number of weights and of models, and a checkpoint copies a few tensors.

K models, N parameters of a model, P floats of a row
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor, nn

ALIGN = 16  # a parameter begins at a multiple of that many floats, a cache line
BETA, BETA_SQUARE, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Layout:
    """Where in a row each parameter of a model lies."""

    shapes: dict[str, torch.Size]  # [N], in the order of the model's

    @cached_property
    def sizes(self) -> list[int]:
        """Floats that each parameter takes of a row, those that align the next included."""
        return [-(-shape.numel() // ALIGN) * ALIGN for shape in self.shapes.values()]

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Each parameter of rows [..., P] as a view [..., *shape]."""
        pieces = rows.split(self.sizes, -1)
        return {
            name: piece[..., : shape.numel()].view(*rows.shape[:-1], *shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def parameter_of(self, device: torch.device) -> Tensor:
        """Which parameter each float of a row belongs to, int64 [P]."""
        return torch.repeat_interleave(torch.tensor(self.sizes, device=device))


def layout_of(model: nn.Module) -> Layout:
    """The layout of a model's parameters."""
    return Layout({name: parameter.shape for name, parameter in model.named_parameters()})


@dataclass(frozen=True)
class StepSizes:
    """What the optimizer does with each model at a step, each [K, 1] float32."""

    learning_rate: Tensor
    weight_decay: Tensor
    clip: Tensor  # largest norm of the gradient
    average_decay: Tensor  # of the average of the weights, where there is one
    due: Tensor  # 1: step; 0: leave the model as it is, its gradient adds up


@dataclass(frozen=True)
class AdamW:
    """K models' weights, gradients and moments."""

    weights: Tensor  # [K, P] float32
    gradient: Tensor  # [K, P], sum since the last step
    mean: Tensor  # [K, P], of gradients
    square: Tensor  # [K, P], mean of their squares
    steps: Tensor  # [K, N], that each parameter has had
    trained: Tensor  # [K, N], 1: the parameter is trained, 0: it stays as it is
    average: Tensor  # [K, P], of the weights; [K, 0]: off
    parameter_of: Tensor  # [P], see Layout

    def rows(self, begin: int, end: int) -> "AdamW":
        """Some of the models, as views."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return AdamW(**{name: part if name == "parameter_of" else part[begin:end] for name, part in parts.items()})

    def adopt(self, models: Sequence[nn.Module], averages: Sequence[nn.Module]) -> None:
        """Take over fresh models, and their averages if any: their parameters become views of the rows."""
        for state in (self.gradient, self.mean, self.square, self.steps):
            state.zero_()
        self.trained.fill_(1.0)
        for k, model in enumerate(models):
            move_parameters(model, self.weights[k], self.gradient[k])
        for k, model in enumerate(averages):
            move_parameters(model, self.average[k], None)

    def step_of(self, k: int, rates: Sequence[float]) -> None:
        """`step` of model k alone, on a CPU, in one pass; rates are the values of StepSizes, of a model that is due."""
        from kernels.cpu.adamw import adamw_step

        rate, decay, clip, average_decay, _ = rates
        adamw_step(
            self.weights[k], self.gradient[k], self.mean[k], self.square[k], self.average[k], self.sizes,
            self.steps[k], self.trained[k], learning_rate=rate, weight_decay=decay, clip=clip,
            average_decay=average_decay, betas=(BETA, BETA_SQUARE), epsilon=EPSILON,
        )  # fmt: skip

    @cached_property
    def sizes(self) -> Tensor:
        """Floats of each parameter, int64 [N]."""
        return torch.bincount(self.parameter_of)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps beside the weights."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    @torch.no_grad()
    def step(self, sizes: StepSizes) -> None:
        """Clip the gradient of the models that are due, step down it, and set it to 0.

        Decoupled weight decay (Loshchilov and Hutter 2019), the gradient clipped by the norm of a model's row. Where a
        model has an average, that follows: average = decay * average + (1 - decay) * weights. No operator depends on a
        value, so a CUDA graph may hold them.
        """
        due = sizes.due > 0
        norm = self.gradient.norm(dim=1, keepdim=True)
        gradient = self.gradient * (sizes.clip / (norm + 1e-6)).clamp(max=1.0)
        on = self.trained * sizes.due
        self.steps.add_(on)
        count = self.steps.clamp(min=1)
        # [K, N] until they are spread. 1 - beta^n loses digits in float32, expm1 does not.
        rate = on * sizes.learning_rate / -torch.expm1(count * math.log(BETA))
        correction = (-torch.expm1(count * math.log(BETA_SQUARE))).rsqrt()
        spread = torch.stack([on, rate, correction])[..., self.parameter_of]
        on, rate, correction = spread.unbind()
        self.weights.mul_(1 - on * (sizes.learning_rate * sizes.weight_decay))
        self.mean.lerp_(gradient, on * (1 - BETA))
        self.square.lerp_(gradient.square(), on * (1 - BETA_SQUARE))
        self.weights.sub_(rate * self.mean / (self.square.sqrt() * correction + EPSILON))
        self.gradient.masked_fill_(due, 0.0)
        if self.average.shape[1]:
            self.average.lerp_(self.weights, (1 - sizes.average_decay) * sizes.due)


def make_adamw(models: Sequence[nn.Module], averages: Sequence[nn.Module]) -> AdamW:
    """The state of models of one shape, whose parameters become views of it; likewise of their averages, if any."""
    found = empty_adamw(models[0], len(models), average=bool(averages))
    found.adopt(models, averages)
    return found


def empty_adamw(model: nn.Module, count: int, *, average: bool) -> AdamW:
    """Room for so many models of the shape of one, and for their averages."""
    layout, device = layout_of(model), next(model.parameters()).device
    weights, gradient, mean, square, spare = (
        torch.zeros(count, sum(layout.sizes), device=device) for _ in range(5)
    )  # fmt: skip
    steps, trained = (torch.zeros(count, len(layout.shapes), device=device) for _ in range(2))
    mean_weights = spare if average else spare[:, :0]
    return AdamW(weights, gradient, mean, square, steps, trained, mean_weights, layout.parameter_of(device))


@torch.no_grad()
def move_parameters(model: nn.Module, row: Tensor, gradient: Tensor | None) -> None:
    """Let a model's parameters, and their gradients, be views of rows [P]; their values are moved there."""
    layout = layout_of(model)
    gradients = {} if gradient is None else layout.views(gradient)
    for (name, view), parameter in zip(layout.views(row).items(), model.parameters(), strict=True):
        parameter.data = view.copy_(parameter)
        parameter.grad = gradients.get(name)
