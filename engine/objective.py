"""The training objective: a weighted sum of rank terms over the cross-sections of a block.

S codes, D days, H horizons, Q quantile levels
"""

import torch
from torch import Tensor

from engine.config import Config
from kernels.rank_terms import average_ranks, rank_terms
from loaders.order import mix, permutation


def objective(
    config: Config, scores: Tensor, quantiles: Tensor, returns: Tensor, step: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and its terms for one block, all scalars, lower is better.

    Each day of the block is a cross-section, weighted by its number of names; days with fewer than two count nothing.

    Args:
        scores: [S, D, H] float.
        quantiles: [S, D, H, Q] float, at config.model.quantiles.
        returns: [S, D, H] float32, NaN where there is no target: such entries touch neither loss nor gradient.
        step: number of the training step; `pairwise` draws its rotations from (seed, step).
    """
    weights = config.objective.weights()
    scores, returns = scores.permute(2, 1, 0), returns.permute(2, 1, 0).contiguous()
    mask = torch.isfinite(returns)
    returns = torch.where(mask, returns, 0.0)
    targets = average_ranks(returns, mask.float()) if config.objective.target == "rank" else returns
    rotations: tuple[int, ...] = ()
    if "pairwise" in weights:
        n = scores.shape[-1]
        drawn = permutation(mix(config.train.seed, step, 3), n - 1)[: config.objective.rotations]
        rotations = tuple(int(r) + 1 for r in drawn)
    values = rank_terms(
        scores, targets, returns, mask, tuple(weights), quantiles=quantiles.permute(2, 1, 0, 3),
        levels=config.model.quantiles, tau=config.objective.tau, temperature=config.objective.temperature,
        rotations=rotations,
    )  # fmt: skip
    names = mask.sum(-1).float()
    share = torch.where(names >= 2, names, 0.0)
    share = share / share.sum().clamp(min=1)
    terms = {
        name: value.mean() if value.shape[-1] == 1 and share.shape[-1] != 1 else (value * share).sum()
        for name, value in values.items()
    }
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum(), terms
