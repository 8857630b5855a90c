"""What every differentiable contender does with a block: the operator's value, and its gradients by its inputs."""

from collections.abc import Callable

import torch
from torch import Tensor


def with_gradients(
    operator: Callable[..., Tensor], *inputs: Tensor, upstream: Tensor | None = None
) -> tuple[Tensor, ...]:
    """operator(*inputs), and the gradient by each of them.

    Args:
        upstream: gradient by the value, of its shape; None for a scalar's 1.
    """
    leaves = [given.detach().requires_grad_() for given in inputs]
    value = operator(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves, upstream)
