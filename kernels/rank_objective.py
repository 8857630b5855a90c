"""The rank objective: a weighted sum of terms over cross-sections, its value and its gradient from one fused operator.

With z the scores in deviations from their mean, r the ranks of the targets (ties averaged), t what the terms aim at (r,
or the targets themselves) in deviations from its mean, all within a cross-section of n valid entries:

    rank_ic    1 - Pearson(softrank(z), r)                  soft ranks as in kernels.soft_rank
    ic         1 - Pearson(score, t)
    sharpe     - mean / std over a horizon's cross-sections of sum_i z_i return_i / sum_i |z_i|
    spearman   mean((softrank(z) - r)^2) 3 / (n^2 - 1)      0 for the perfect order, 1 for the reversed one
    huber      mean of Huber's loss of score - t, quadratic within 1
    quantile   mean pinball loss of the quantiles q at their levels, of the error t - q
    pairwise   logistic loss of z_i - z_j by the sign of the targets' difference, in bits, over the pairs (i, i + k) for
               rotations k: K n pairs, never n^2
    listnet    cross-entropy of softmax(score) to softmax(t / temperature)

Each is averaged over cross-sections by their numbers of names and their horizons' weights; one with fewer than two
names counts nothing. Gradients are written out (kernels.cpu.rank_objective reads term by term) and computed with the
value: backward multiplies by the upstream gradient. All terms but `sharpe` are local to a cross-section. Deviations
have a floor of 1e-6, so constant scores have a correlation of 0 and finite gradients. A NaN or an infinite valid score
makes the loss NaN and its own cross-section's gradient, and with `sharpe` every gradient of its horizon. So does a
return in `sharpe`, and a target in the terms that read it; an infinite one is the highest rank, and a NaN has no pairs
in `pairwise`. Beyond LONGEST entries on CUDA, by autograd, a term without a weight spoils the gradient too.

H horizons, G cross-sections (days), N entries (codes), Q quantile levels, K rotations
"""

from typing import Any

import torch
from torch import Tensor

from kernels.limits import LONGEST
from kernels.rank_terms import TERMS, average_ranks, rank_terms, weigh

torch.library.define(
    "atft::scaled_gradients",
    "(Tensor by_scores, Tensor by_quantiles, Tensor upstream) -> (Tensor, Tensor)",
)

Result = tuple[Tensor, Tensor, Tensor, Tensor]


torch.library.define(
    "atft::rank_objective",
    "(Tensor scores, Tensor targets, Tensor returns, Tensor mask, Tensor quantiles, Tensor weights,"
    " Tensor horizon_weights, Tensor tau, Tensor temperature, Tensor levels, Tensor rotations, bool ranked)"
    " -> (Tensor loss, Tensor terms, Tensor by_scores, Tensor by_quantiles)",
)


@torch.library.impl("atft::rank_objective", "cpu")
def _on_cpu(*inputs: Any) -> Result:
    from kernels.cpu.rank_objective import rank_objective

    return rank_objective(*inputs)


@torch.library.impl("atft::rank_objective", "cuda")
def _on_cuda(*inputs: Any) -> Result:
    from kernels.cuda.rank_objective import rank_objective

    return rank_objective(*inputs)


@torch.library.impl("atft::scaled_gradients", "cpu")
def _scaled_on_cpu(by_scores: Tensor, by_quantiles: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    factor = upstream.numpy()
    return torch.from_numpy(by_scores.numpy() * factor), torch.from_numpy(by_quantiles.numpy() * factor)


@torch.library.register_fake("atft::scaled_gradients")
def _scaled_shapes(by_scores: Tensor, by_quantiles: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(by_scores), torch.empty_like(by_quantiles)


@torch.library.register_fake("atft::rank_objective")
def _shapes(scores: Tensor, targets: Tensor, returns: Tensor, mask: Tensor, quantiles: Tensor, *_others: Any) -> Result:
    return scores.new_empty(()), scores.new_empty(len(TERMS)), torch.empty_like(scores), torch.empty_like(quantiles)


class _Differentiable(torch.autograd.Function):
    """The operator and its gradients. Had it been registered with them, a call would take 0.15 ms longer."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        loss, terms, *gradients = torch.ops.atft.rank_objective.default(*inputs)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(terms)
        # Without this, torch fills zeros as the gradients of the terms.
        ctx.set_materialize_grads(False)
        return loss, terms

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _terms: None) -> tuple[Tensor | None, ...]:
        by_scores, by_quantiles = ctx.saved_tensors
        if by_scores.is_cuda:
            by_scores, by_quantiles = by_scores * upstream, by_quantiles * upstream
        else:
            # Torch would multiply on threads that go on spinning, on cores that the next forward wants.
            by_scores, by_quantiles = torch.ops.atft.scaled_gradients.default(by_scores, by_quantiles, upstream)
        others = (None,) * 7
        return by_scores, None, None, None, by_quantiles, *others


def rank_objective(
    scores: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    *,
    returns: Tensor | None = None,
    horizon_weights: Tensor | None = None,
    quantiles: Tensor | None = None,
    levels: Tensor | None = None,
    rotations: Tensor | None = None,
    tau: float | Tensor = 0.1,
    temperature: float | Tensor = 1.0,
    ranked: bool = True,
) -> tuple[Tensor, Tensor]:
    """The loss [], differentiable in scores and quantiles, and its terms [8] as in TERMS, for logging; float32.

    What tuning changes (weights, horizon_weights, tau, temperature, rotations) may be tensors on the scores' device:
    other values need no other compilation. A term whose weight is 0 is not computed and is NaN.

    Args:
        scores: [H, G, N] of any float type.
        targets: [H, G, N] float, what to be close to in order.
        mask: [H, G, N] bool, the valid entries; values elsewhere may be anything, NaN included.
        weights: [8] float32, in the order of TERMS.
        returns: [H, G, N] float, for `sharpe`; default: the targets.
        horizon_weights: [H] float32, at least one above 0; default: all 1.
        quantiles: [H, G, N, Q] float, the model's quantile outputs at `levels` [Q]; `quantile` needs them.
        rotations: [K] integers in 1..N-1 for `pairwise`, which needs them; their number is part of the compilation.
        tau: width of the soft rank's kernel in deviations of the scores, above 0.
        temperature: of the target distribution of `listnet`, above 0.
        ranked: ic, huber, quantile and listnet aim at the targets' ranks; else at the targets.

    Raises ValueError for shapes or types that disagree, and, where weights are on the CPU, for a term that lacks its
    inputs; on CUDA such a term, and the loss with it, is NaN.
    """
    shape, device = scores.shape, scores.device
    if scores.dim() != 3 or targets.shape != shape or mask.shape != shape or mask.dtype != torch.bool:
        what = f"scores {tuple(shape)}, targets {tuple(targets.shape)}, mask {mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"{what}: give [H, G, N] for all, the mask as bool")
    if weights.shape != (len(TERMS),):
        raise ValueError(f"weights {tuple(weights.shape)}: give one per term, in the order {', '.join(TERMS)}")
    if (quantiles is None) != (levels is None) or (
        quantiles is not None and levels is not None and quantiles.shape != (*shape, len(levels))
    ):
        raise ValueError("give quantiles [H, G, N, Q] together with their levels [Q]")

    def floats(value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=device)

    returns = targets if returns is None else returns
    horizon_weights = torch.ones(shape[0], device=device) if horizon_weights is None else floats(horizon_weights)
    if device.type == "cuda" and shape[-1] > LONGEST:
        aims = average_ranks(targets.float(), mask.float()) if ranked else targets
        able = [name for name in TERMS if name != "pairwise" and (name != "quantile" or quantiles is not None)]
        values = rank_terms(
            scores.float(), aims, returns, mask, tuple(able), quantiles=quantiles, levels=levels, tau=floats(tau),
            temperature=floats(temperature),
        )  # fmt: skip
        if rotations is not None:
            # By the targets themselves: of ranks, a single NaN leaves none.
            values |= rank_terms(scores.float(), targets, returns, mask, ("pairwise",), rotations=rotations)
        return weigh(values, mask, floats(weights), horizon_weights)
    quantiles = scores.new_empty((*shape, 0)) if quantiles is None else quantiles
    levels = torch.empty(0, device=device) if levels is None else floats(levels)
    rotations = torch.empty(0, dtype=torch.int32, device=device) if rotations is None else rotations.to(torch.int32)
    dense = [floats(array).contiguous() for array in (scores, targets, returns)]
    return _Differentiable.apply(
        *dense, mask.contiguous(), floats(quantiles).contiguous(), floats(weights), horizon_weights, floats(tau),
        floats(temperature), levels, rotations, ranked,
    )  # fmt: skip
