"""The terms of the rank objective in plain torch: the registry TERMS, for any length and by autograd.

To add a term, write a function of CrossSections, enter it at the end of TERMS, and give engine.config.Terms a field of
its name. Nothing else is needed: autograd differentiates it, and the objective adds it to the fused loss.

The first FUSED terms are also written out, with their gradients, in kernels.cpu and kernels.cuda. For these, this
module serves two purposes: it takes cross-sections longer than a program of a GPU holds, and in float64 it is the
reference that the fused operators are tested against.

H horizons, G cross-sections (days), N entries (codes), R rotations, Q quantile levels, T terms

A term gives a value for each cross-section, [H, G]. Only `sharpe` gives [H, 1], since it needs all days of a horizon.
Entries outside `mask` never touch a value or a gradient. In a cross-section with fewer than two valid entries, or with
constant targets, every correlation is zero; `weigh` weights cross-sections by their number of entries.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from kernels.ranks import EPSILON, FAR, average_ranks, masked_mean, soft_ranks, standardise

LEAST_VARIANCE = 1e-16  # of daily returns, below which `sharpe` takes them for constant


def portfolio_returns(z: Tensor, returns: Tensor) -> Tensor:
    """Returns [H, G] of the portfolios with weights z / sum|z|; z and returns [H, G, N], 0 where not valid."""
    weights = z / z.abs().sum(-1, keepdim=True).clamp(min=EPSILON)
    return (weights * returns).sum(-1)


def sharpe_ratio(daily: Tensor, alive: Tensor) -> Tensor:
    """Mean over standard deviation of daily returns [H, G] on the days that are alive (1, else 0); [H, 1].

    0 where fewer than two are.
    """
    mean = masked_mean(daily, alive)
    std = masked_mean(((daily - mean) * alive).square(), alive).clamp(min=LEAST_VARIANCE).sqrt()
    return torch.where(alive.sum(-1, keepdim=True) >= 2, mean / std, 0.0)


def _cached(compute: Callable[["CrossSections"], Tensor]) -> property:
    """functools.cached_property, whose lock in Python 3.11 torch.compile cannot trace."""

    def get(x: "CrossSections") -> Tensor:
        if compute.__name__ not in x.computed:
            x.computed[compute.__name__] = compute(x)
        return x.computed[compute.__name__]

    return property(get, doc=compute.__doc__)


@dataclass(frozen=True)
class CrossSections:
    """What a term reads: float64 for float64 scores, else float32; 0 outside the mask."""

    scores: Tensor  # [H, G, N]
    targets: Tensor  # [H, G, N]
    returns: Tensor  # [H, G, N]
    valid: Tensor  # [H, G, N], 1 for valid entries
    quantiles: Tensor | None  # [H, G, N, Q], at `levels`
    levels: Tensor | None  # [Q]
    tau: float | Tensor
    temperature: float | Tensor
    rotations: Tensor | None  # [R] integers
    ranked: bool
    computed: dict[str, Tensor] = field(default_factory=dict)  # properties that some term has read

    @_cached
    def z(self) -> Tensor:
        """Standardised scores [H, G, N]."""
        return standardise(self.scores, self.valid)

    @_cached
    def soft_ranks(self) -> Tensor:
        """Soft ranks of the scores [H, G, N]."""
        return soft_ranks(self.z, self.valid, self.tau)

    @_cached
    def ranks(self) -> Tensor:
        """Average ranks of the targets [H, G, N]."""
        return average_ranks(self.targets, self.valid)

    @_cached
    def z_targets(self) -> Tensor:
        """Standardised ranks of the targets, or standardised targets where `ranked` is off; [H, G, N]."""
        return standardise(self.ranks if self.ranked else self.targets, self.valid)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the valid entries of each cross-section, [H, G, N] -> [H, G]."""
        return masked_mean(values, self.valid)[..., 0]


def _rank_ic(x: CrossSections) -> Tensor:
    # Soft ranks of constant scores are equal: as distances from their mean, a sum in any order leaves nothing of them.
    middle = (x.valid.sum(-1, keepdim=True) + 1) / 2
    return 1 - x.mean(standardise(x.soft_ranks - middle, x.valid) * standardise(x.ranks, x.valid))


def _ic(x: CrossSections) -> Tensor:
    return 1 - x.mean(x.z * x.z_targets)


def _sharpe(x: CrossSections) -> Tensor:
    return -sharpe_ratio(portfolio_returns(x.z, x.returns), (x.valid.sum(-1) >= 2).to(x.valid.dtype))


def _spearman(x: CrossSections) -> Tensor:
    # The largest possible mean squared distance of two rankings of n entries is (n^2 - 1) / 3.
    return x.mean((x.soft_ranks - x.ranks).square()) * 3 / (x.valid.sum(-1).square() - 1).clamp(min=1)


def _huber(x: CrossSections) -> Tensor:
    return x.mean(functional.huber_loss(x.scores, x.z_targets, reduction="none"))


def _quantile(x: CrossSections) -> Tensor:
    if x.quantiles is None or x.levels is None or x.quantiles.shape[-1] != len(x.levels):
        raise ValueError("the term quantile needs the model's quantile outputs, one per level")
    error = x.z_targets[..., None] - x.quantiles
    return x.mean(torch.maximum(x.levels * error, (x.levels - 1) * error).mean(-1))


def _pairwise(x: CrossSections) -> Tensor:
    if x.rotations is None:
        raise ValueError("the term pairwise needs rotations to compare with")
    total, count = torch.zeros_like(x.valid[..., 0]), torch.zeros_like(x.valid[..., 0])
    for shift in x.rotations:
        ahead = _ahead(x.targets, shift)
        # By comparison, since a NaN is not above and not below anything, but has no sign either.
        above, below = ((x.targets > ahead).to(x.valid.dtype), (x.targets < ahead).to(x.valid.dtype))
        sign = (above - below) * x.valid * _ahead(x.valid, shift)
        total = total + (functional.softplus(-sign * (x.z - _ahead(x.z, shift))) * sign.abs()).sum(-1)
        count = count + sign.abs().sum(-1)
    return total / count.clamp(min=1) / math.log(2)


def _ahead(value: Tensor, shift: Tensor) -> Tensor:
    """Entry i + shift in the place of entry i, around the end."""
    places = (torch.arange(value.shape[-1], device=value.device) + shift) % value.shape[-1]
    return value[..., places]


def _listnet(x: CrossSections) -> Tensor:
    away = (x.valid - 1) * FAR
    wanted = torch.softmax(x.z_targets / x.temperature + away, -1)
    given = torch.log_softmax(x.scores + away, -1)
    return -(wanted * given * x.valid).sum(-1)


TERMS: dict[str, Callable[[CrossSections], Tensor]] = {
    "rank_ic": _rank_ic,
    "ic": _ic,
    "sharpe": _sharpe,
    "spearman": _spearman,
    "huber": _huber,
    "quantile": _quantile,
    "pairwise": _pairwise,
    "listnet": _listnet,
}
FUSED = 8  # the first terms, which kernels.cpu and kernels.cuda compute; the others take plain torch
SHARPE = list(TERMS).index("sharpe")


def rank_terms(
    scores: Tensor,
    targets: Tensor,
    returns: Tensor,
    mask: Tensor,
    terms: Iterable[str],
    *,
    quantiles: Tensor | None = None,
    levels: Tensor | None = None,
    tau: float | Tensor = 0.1,
    temperature: float | Tensor = 1.0,
    rotations: Tensor | None = None,
    ranked: bool = False,
) -> dict[str, Tensor]:
    """The named terms of the objective; lower is better for each. In float64 for float64 scores, else in float32.

    Args:
        scores: [H, G, N] of any float type.
        targets: [H, G, N] float, whose order the scores should have.
        returns: [H, G, N] float, for `sharpe`.
        mask: [H, G, N] bool, the valid entries; the values elsewhere may be anything, NaN included.
        terms: names from TERMS; nothing else is computed.
        quantiles: [H, G, N, Q] the model's quantile outputs at `levels`, for `quantile`.
        tau: width of the soft rank's kernel in standard deviations of the scores.
        temperature: of the target distribution of `listnet`.
        rotations: integers [R], shifts of the cross-section that `pairwise` compares with.
        ranked: ic, huber, quantile and listnet read the targets' ranks; else the targets.

    Raises ValueError for an unknown term, and for one whose inputs are not given.
    """
    names = list(terms)
    unknown = set(names) - set(TERMS)
    if unknown:
        raise ValueError(f"unknown terms {sorted(unknown)}, known are {list(TERMS)}")
    kind = torch.float64 if scores.dtype == torch.float64 else torch.float32
    mask = mask & (mask.sum(-1, keepdim=True) >= 2)  # fewer count nothing, not even where they are NaN
    scores, targets, returns = (torch.where(mask, array.to(kind), 0.0) for array in (scores, targets, returns))
    if quantiles is not None:
        quantiles = torch.where(mask[..., None], quantiles.to(kind), 0.0)
    sections = CrossSections(
        scores, targets, returns, mask.to(kind), quantiles, levels, tau, temperature, rotations, ranked
    )
    return {name: TERMS[name](sections) for name in names}


def weigh(values: dict[str, Tensor], mask: Tensor, weights: Tensor, horizon_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The loss [] and the terms [T] in the order of TERMS, from what `rank_terms` gives per cross-section.

    A cross-section counts by its number of entries and by the weight of its horizon; one with fewer than two counts
    nothing. A term whose weight is 0 is NaN and no part of the loss. One that has a weight and no values is NaN, and
    makes the loss NaN.
    """
    entries = mask.sum(-1).to(weights.dtype)
    share = torch.where(entries >= 2, entries, 0.0) * horizon_weights[:, None]
    share = share / share.sum().clamp(min=EPSILON)
    of_horizon = horizon_weights / horizon_weights.sum()
    found = {
        name: (value[:, 0] * of_horizon).sum() if name == "sharpe" else (value * share).sum()
        for name, value in values.items()
    }
    absent = torch.full((), torch.nan, dtype=weights.dtype, device=weights.device)
    terms = torch.stack([found.get(name, absent) for name in TERMS])
    loss = torch.where(weights != 0, weights * terms, 0.0).sum()
    return loss, torch.where(weights != 0, terms, absent).detach()
