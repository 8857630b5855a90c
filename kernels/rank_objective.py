"""The rank objective: a weighted sum of terms over cross-sections. One fused operator gives its value and its gradient.

Within a cross-section of n valid entries, z are the standardised scores, r the ranks of the targets (ties averaged),
and t the standardised ranks, or the standardised targets where `ranked` is off:

    rank_ic    1 - Pearson(softrank(z), r)                  soft ranks as in kernels.soft_rank
    ic         1 - Pearson(score, t)
    sharpe     - mean / std over a horizon's cross-sections of sum_i z_i return_i / sum_i |z_i|
    spearman   mean((softrank(z) - r)^2) 3 / (n^2 - 1)      0 for the perfect order, 1 for the reversed one
    huber      mean of Huber's loss of score - t, quadratic within 1
    quantile   mean pinball loss of the quantiles q at their levels, of the error t - q
    pairwise   logistic loss of z_i - z_j by the sign of the targets' difference, in bits, over the pairs (i, i + k) for
               rotations k: K n pairs, never n^2
    listnet    cross-entropy of softmax(score) to softmax(t / temperature)

Each is averaged over cross-sections, weighted by their number of entries and by their horizon; a cross-section with
fewer than two entries counts nothing. Only `sharpe` reads more than one cross-section at a time. The operator computes
gradients by hand-written formulas (kernels/cpu/terms.py has them term by term) together with the value, so backward
only multiplies by the upstream gradient. Terms that kernels.rank_terms registers beyond these take plain torch.

Standard deviations have a floor of 1e-6, so constant scores have a correlation of 0 and finite gradients. A NaN or an
infinite valid score makes the loss NaN, and the gradient of its own cross-section; with `sharpe`, every gradient of its
horizon. The same holds for a return in `sharpe`, and for a NaN target in the terms that read it, except that `pairwise`
skips the pairs of a NaN. An infinite target has the highest or the lowest rank. Beyond LONGEST entries on CUDA,
where autograd differentiates, a term without a weight also passes its NaN to the gradient.

H horizons, G cross-sections (days), N entries (codes), Q quantile levels, K rotations, T terms
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels.limits import LONGEST
from kernels.rank_terms import FUSED, TERMS, rank_terms, weigh
from kernels.registration import register

register(
    "atft::rank_objective",
    "(Tensor scores, Tensor targets, Tensor returns, Tensor mask, Tensor quantiles, Tensor weights,"
    " Tensor horizon_weights, Tensor tau, Tensor temperature, Tensor levels, Tensor rotations, bool ranked)"
    " -> (Tensor loss, Tensor terms, Tensor by_scores, Tensor by_quantiles)",
    "rank_objective.rank_objective",
)


@torch.library.register_fake("atft::rank_objective")
def _shapes(
    scores: Tensor, targets: Tensor, returns: Tensor, mask: Tensor, quantiles: Tensor, *_others: Any
) -> tuple[Tensor, ...]:
    return scores.new_empty(()), scores.new_empty(FUSED), torch.empty_like(scores), torch.empty_like(quantiles)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)  # without this, torch fills zeros as gradients of the other outputs
    ctx.save_for_backward(*output[2:])


def _gradient(ctx: Any, upstream: Tensor, *_unused: None) -> tuple[Tensor | None, ...]:
    by_scores, by_quantiles = ctx.saved_tensors
    return by_scores * upstream, None, None, None, by_quantiles * upstream, *(None,) * 7


torch.library.register_autograd("atft::rank_objective", _gradient, setup_context=_save)


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
    unfused: Iterable[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss [], differentiable in scores and quantiles, and its terms [T] as in TERMS, for logging; float32.

    Values that tuning changes (weights, horizon_weights, tau, temperature, rotations) may be tensors on the scores'
    device: other values need no other compilation. A term whose weight is 0 is NaN.

    Args:
        scores: [H, G, N] of any float type.
        targets: [H, G, N] float, whose order the scores should have.
        mask: [H, G, N] bool, the valid entries; values elsewhere may be anything, NaN included.
        weights: [T] float32, in the order of TERMS.
        returns: [H, G, N] float, for `sharpe`; default: the targets.
        horizon_weights: [H] float32, at least one above 0; default: all 1.
        quantiles: [H, G, N, Q] float, the model's quantile outputs at `levels` [Q], for `quantile`.
        rotations: [K] integers in 1..N-1, for `pairwise`; K is part of the compilation.
        tau: width of the soft rank's kernel in standard deviations of the scores, above 0.
        temperature: of the target distribution of `listnet`, above 0.
        ranked: ic, huber, quantile and listnet read the targets' ranks; else the targets.
        unfused: which terms beyond the first FUSED to compute; default: all. To name those that have a weight saves
            the others, without a look at weights on the device.

    Raises ValueError for shapes or types that disagree, and, where weights are on the CPU, for a term that lacks its
    inputs; on CUDA such a term, and the loss with it, is NaN. So is a term with a weight that `unfused` leaves out.
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
    weights, tau, temperature = floats(weights), floats(tau), floats(temperature)

    def in_torch(names: Iterable[str], weights: Tensor) -> tuple[Tensor, Tensor]:
        values = rank_terms(
            scores.float(), targets, returns, mask, names, quantiles=quantiles, levels=levels, tau=tau,
            temperature=temperature, rotations=rotations, ranked=ranked,
        )  # fmt: skip
        return weigh(values, mask, weights, horizon_weights)

    fused, others = list(TERMS)[:FUSED], list(TERMS)[FUSED:] if unfused is None else list(unfused)
    if device.type == "cuda" and shape[-1] > LONGEST:
        lacking = {"quantile": quantiles is None, "pairwise": rotations is None}
        return in_torch([name for name in fused if not lacking.get(name)] + others, weights)
    dense = [floats(array).contiguous() for array in (scores, targets, returns)]
    loss, terms, *_ = torch.ops.atft.rank_objective.default(
        *dense,
        mask.contiguous(),
        scores.new_empty((*shape, 0), dtype=torch.float32) if quantiles is None else floats(quantiles).contiguous(),
        weights[:FUSED],
        horizon_weights,
        tau,
        temperature,
        torch.empty(0, device=device) if levels is None else floats(levels),
        torch.empty(0, dtype=torch.int32, device=device) if rotations is None else rotations.to(torch.int32),
        ranked,
    )
    if len(TERMS) > FUSED:
        more, of_others = in_torch(others, functional.pad(weights[FUSED:], (FUSED, 0)))
        loss, terms = loss + more, torch.cat([terms, of_others[FUSED:]])
    return loss, terms.detach()
