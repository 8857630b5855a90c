"""Soft ranks of cross-sections: ranks with a gradient, in O(N log N) time and O(N) memory.

A soft rank sums over all scores how far its own is above each, by the distribution function of a Laplace kernel:

    softrank_i = 1/2 + sum_j CDF((z_i - z_j) / tau),   CDF(u) = 1 - exp(-u) / 2 for u >= 0, exp(u) / 2 for u < 0

z are the cross-section's standardised scores, so tau means the same for scores of any scale. As tau falls to 0, soft
ranks become ranks 1..n, ties averaged. Evaluating all pairs would take O(N^2) time and memory. But an exponential of a
difference is a product, so along ascending z, with decays e_i = exp(-(z_{i+1} - z_i) / tau) between neighbours, the
sums over all lower and over all higher scores are first-order recurrences (LapSum, arXiv 2503.06242):

    A_i = sum_{j<i} exp(-(z_i - z_j) / tau) = e_{i-1} (1 + A_{i-1})
    B_i = sum_{j>i} exp(-(z_j - z_i) / tau) = e_i     (1 + B_{i+1})
    softrank_i = i - A_i / 2 + B_i / 2                                 (i from 1)

since each of the i - 1 lower scores adds 1 - exp() / 2, each higher one exp() / 2, and the score itself 1/2 to the 1/2.
Tied scores have a decay of 1 between them and get equal soft ranks: for j tied with i, both forms of CDF are 1/2. No
sum is a difference of large exponentials, so nothing overflows and nothing cancels.

The gradient for upstream g has the same form. The derivative of a score's own rank is (A_i + B_i) / (2 tau), that of
every other rank -exp(-|z_i - z_j| / tau) / (2 tau), so

    C_i = sum_{j<i} g_j exp(-(z_i - z_j) / tau) = e_{i-1} (g_{i-1} + C_{i-1})
    D_i = sum_{j>i} g_j exp(-(z_j - z_i) / tau) = e_i     (g_{i+1} + D_{i+1})
    dz_i = (g_i (A_i + B_i) - C_i - D_i) / (2 tau)
    ds_i = (dz_i - mean(dz) - z_i mean(dz z)) / std

A NaN or an infinite valid score makes its whole cross-section NaN, soft ranks and gradient, and no other one.

R cross-sections, N entries
"""

from typing import Any

import torch
from torch import Tensor

from kernels.limits import LONGEST
from kernels.ranks import soft_ranks, standardise
from kernels.registration import register

register(
    "atft::soft_rank",
    "(Tensor scores, Tensor mask, Tensor tau)"
    " -> (Tensor ranks, Tensor order, Tensor z_sorted, Tensor sums, Tensor inverse)",
    "soft_rank.forward",
)
register(
    "atft::soft_rank_backward",
    "(Tensor upstream, Tensor mask, Tensor tau, Tensor order, Tensor z_sorted, Tensor sums, Tensor inverse) -> Tensor",
    "soft_rank.backward",
)

Forward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.register_fake("atft::soft_rank")
def _forward_shapes(scores: Tensor, mask: Tensor, tau: Tensor) -> Forward:
    order = torch.empty_like(scores, dtype=torch.int32)
    ranks, z_sorted, sums = (torch.empty_like(scores) for _ in range(3))
    return ranks, order, z_sorted, sums, scores.new_empty(len(scores))


@torch.library.register_fake("atft::soft_rank_backward")
def _backward_shapes(upstream: Tensor, mask: Tensor, tau: Tensor, *saved: Tensor) -> Tensor:
    return torch.empty_like(saved[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Forward) -> None:
    ctx.set_materialize_grads(False)  # without this, torch fills zeros as gradients of the outputs that backward reads
    ctx.save_for_backward(*inputs[1:], *output[1:])


def _gradient(ctx: Any, upstream: Tensor, *_unused: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.atft.soft_rank_backward.default(upstream.contiguous(), *ctx.saved_tensors), None, None


torch.library.register_autograd("atft::soft_rank", _gradient, setup_context=_save)


def soft_rank(scores: Tensor, mask: Tensor, tau: float | Tensor = 0.1) -> Tensor:
    """Soft ranks 1..n of the valid entries of the last axis, 0 elsewhere; float32, differentiable in the scores.

    Computed by compiled loops on CPUs and by one Triton program per cross-section on CUDA, or by plain torch beyond
    LONGEST entries on CUDA.

    Args:
        scores: [..., N] of any float type.
        mask: [..., N] bool, the valid entries; scores elsewhere may be anything, NaN included.
        tau: width of the kernel in standard deviations of the cross-section's scores, above 0. As a tensor [] on the
            scores' device it may change without another compilation of the step.

    Raises ValueError for a mask of another shape or type, and where there is no entry.
    """
    if scores.dim() == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores are {tuple(scores.shape)}: give [..., N] with at least one entry")
    if mask.shape != scores.shape or mask.dtype != torch.bool:
        what = f"mask is {mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"{what}, scores are {tuple(scores.shape)}: give a bool mask of their shape")
    width = torch.as_tensor(tau, dtype=torch.float32, device=scores.device)
    if scores.is_cuda and scores.shape[-1] > LONGEST:
        known = torch.where(mask, scores.float(), 0.0)
        return soft_ranks(standardise(known, mask.float()), mask.float(), width)
    rows = scores.float().reshape(-1, scores.shape[-1]).contiguous()
    return torch.ops.atft.soft_rank.default(rows, mask.reshape(rows.shape).contiguous(), width)[0].reshape(scores.shape)
