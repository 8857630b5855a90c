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

Members are models that are trained side by side, such as seeds or trials of a search. Each has scores, settings and a
loss of its own; one call evaluates all of them, and gives each exactly what a call of its own would.

Standard deviations have a floor of 1e-6, so constant scores have a correlation of 0 and finite gradients. A NaN or an
infinite valid score makes the loss NaN, and the gradient of its own cross-section; with `sharpe`, every gradient of its
horizon. The same holds for a return in `sharpe`, and for a NaN target in the terms that read it, except that `pairwise`
skips the pairs of a NaN. An infinite target has the highest or the lowest rank. docs/kernels.md has the table. Beyond
LONGEST entries on CUDA, where autograd differentiates, a term without a weight also passes its NaN to the gradient.

K members, H horizons, G cross-sections (days), N entries (codes), Q quantile levels, R rotations, T terms
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
    members = len(scores)
    loss, terms = scores.new_empty(members), scores.new_empty(members, FUSED)
    return loss, terms, torch.empty_like(scores), torch.empty_like(quantiles)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)  # without this, torch fills zeros as gradients of the other outputs
    ctx.save_for_backward(*output[2:])


def _gradient(ctx: Any, upstream: Tensor, *_unused: None) -> tuple[Tensor | None, ...]:
    by_scores, by_quantiles = ctx.saved_tensors
    of_scores, of_quantiles = upstream.view(-1, 1, 1, 1), upstream.view(-1, 1, 1, 1, 1)
    return by_scores * of_scores, None, None, None, by_quantiles * of_quantiles, *(None,) * 7


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

    For members, all arrays have a leading axis K, and so have the loss [K] and the terms [K, T]. A setting (weights,
    horizon_weights, tau, temperature, rotations) may have the axis too; without it, it holds for every member.
    Settings may be tensors on the scores' device: other values need no other compilation. A term whose weight is 0 is
    NaN.

    Args:
        scores: [H, G, N] of any float type; or [K, H, G, N], and likewise below.
        targets: [H, G, N] float, whose order the scores should have.
        mask: [H, G, N] bool, the valid entries; values elsewhere may be anything, NaN included.
        weights: [T] float32, in the order of TERMS.
        returns: [H, G, N] float, for `sharpe`; default: the targets.
        horizon_weights: [H] float32, at least one above 0; default: all 1.
        quantiles: [H, G, N, Q] float, the model's quantile outputs at `levels` [Q], for `quantile`.
        rotations: [R] integers in 1..N-1, for `pairwise`; R is part of the compilation.
        tau: width of the soft rank's kernel in standard deviations of the scores, above 0.
        temperature: of the target distribution of `listnet`, above 0.
        ranked: ic, huber, quantile and listnet read the targets' ranks; else the targets.
        unfused: which terms beyond the first FUSED to compute; default: all. To name those that have a weight saves
            the others, without a look at weights on the device.

    Raises ValueError for shapes or types that disagree, and, where weights are on the CPU, for a term that lacks its
    inputs; on CUDA such a term, and the loss with it, is NaN. So is a term with a weight that `unfused` leaves out.
    """
    shape, device = scores.shape, scores.device
    if scores.dim() not in (3, 4) or targets.shape != shape or mask.shape != shape or mask.dtype != torch.bool:
        what = f"scores {tuple(shape)}, targets {tuple(targets.shape)}, mask {mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"{what}: give [H, G, N] or [K, H, G, N] for all, the mask as bool")
    if (quantiles is None) != (levels is None) or (
        quantiles is not None and levels is not None and quantiles.shape != (*shape, len(levels))
    ):
        raise ValueError("give quantiles [H, G, N, Q] together with their levels [Q]")
    if scores.dim() == 3:
        loss, terms = rank_objective(
            scores[None], targets[None], mask[None], weights, returns=None if returns is None else returns[None],
            horizon_weights=horizon_weights, quantiles=None if quantiles is None else quantiles[None], levels=levels,
            rotations=rotations, tau=tau, temperature=temperature, ranked=ranked, unfused=unfused,
        )  # fmt: skip
        return loss.squeeze(0), terms.squeeze(0)

    def floats(value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=device)

    members = shape[0]

    def of_members(name: str, setting: Tensor, *of_one: int) -> Tensor:
        if setting.shape == of_one:
            return setting.expand(members, *of_one).contiguous()
        if setting.shape != (members, *of_one):
            axes = ", ".join(map(str, of_one))
            raise ValueError(f"{name} {tuple(setting.shape)}: give [{axes}], or one such for each of {members} members")
        return setting.contiguous()

    if weights.shape[-1:] != (len(TERMS),):
        raise ValueError(f"weights {tuple(weights.shape)}: give one per term, in the order {', '.join(TERMS)}")
    weights = of_members("weights", floats(weights), len(TERMS))
    horizon_weights = torch.ones(shape[1], device=device) if horizon_weights is None else floats(horizon_weights)
    horizon_weights = of_members("horizon_weights", horizon_weights, shape[1])
    tau, temperature = of_members("tau", floats(tau)), of_members("temperature", floats(temperature))
    if rotations is not None:
        rotations = of_members("rotations", rotations.to(torch.int32), rotations.shape[-1])
    returns = targets if returns is None else returns

    def in_torch(names: Iterable[str], weights: Tensor) -> tuple[Tensor, Tensor]:
        names = list(names)
        results = []
        for k in range(members):
            values = rank_terms(
                scores[k].float(), targets[k], returns[k], mask[k], names,
                quantiles=None if quantiles is None else quantiles[k], levels=levels, tau=tau[k],
                temperature=temperature[k], rotations=None if rotations is None else rotations[k], ranked=ranked,
            )  # fmt: skip
            results.append(weigh(values, mask[k], weights[k], horizon_weights[k]))
        losses, terms = zip(*results, strict=True)
        return torch.stack(losses), torch.stack(terms)

    fused, others = list(TERMS)[:FUSED], list(TERMS)[FUSED:] if unfused is None else list(unfused)
    if device.type == "cuda" and shape[-1] > LONGEST:
        lacking = {"quantile": quantiles is None, "pairwise": rotations is None}
        return in_torch([name for name in fused if not lacking.get(name)] + others, weights)
    dense = [floats(array).contiguous() for array in (scores, targets, returns)]
    loss, terms, *_ = torch.ops.atft.rank_objective.default(
        *dense,
        mask.contiguous(),
        scores.new_empty((*shape, 0), dtype=torch.float32) if quantiles is None else floats(quantiles).contiguous(),
        weights[:, :FUSED].contiguous(),
        horizon_weights,
        tau,
        temperature,
        torch.empty(0, device=device) if levels is None else floats(levels),
        torch.empty(members, 0, dtype=torch.int32, device=device) if rotations is None else rotations,
        ranked,
    )
    if len(TERMS) > FUSED:
        more, of_others = in_torch(others, functional.pad(weights[:, FUSED:], (FUSED, 0)))
        loss, terms = loss + more, torch.cat([terms, of_others[:, FUSED:]], 1)
    return loss, terms.detach()
