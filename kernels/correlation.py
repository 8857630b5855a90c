"""Exact ranks and correlations of cross-sections, on the device that holds them; for evaluation, without gradients.

    average_ranks   1..n within the valid entries, tied ones sharing the mean of their ranks
    pearson         covariance over both deviations, of float32 values in float64
    spearman        pearson of the average ranks

They equal scipy.stats.rankdata, pearsonr and spearmanr: a correlation of fewer than two entries, or of constant ones,
is NaN; so is one with a NaN among its valid entries, and pearson with an infinity.

R cross-sections, N entries
"""

import torch
from torch import Tensor

from kernels import ranks
from kernels.limits import LONGEST
from kernels.registration import register

register("atft::average_ranks", "(Tensor values, Tensor mask) -> Tensor", "correlation.average_ranks")
register("atft::pearson", "(Tensor a, Tensor b, Tensor mask) -> Tensor", "correlation.pearson")


@torch.library.register_fake("atft::average_ranks")
def _ranks_shape(values: Tensor, mask: Tensor) -> Tensor:
    return torch.empty_like(values)


@torch.library.register_fake("atft::pearson")
def _pearson_shape(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return a.new_empty(len(a), dtype=torch.float64)


def average_ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Ranks 1..n of the valid entries of the last axis, ties averaged, 0 elsewhere; float32.

    values [..., N] of any float type, compared as float32, and a bool mask of their shape. A NaN among a
    cross-section's valid entries makes all its ranks NaN. Beyond LONGEST entries on CUDA, by torch's sort.

    Raises ValueError for a mask of another shape or type.
    """
    rows, mask_rows = _rows(values, mask), _rows(mask, mask)
    if values.is_cuda and values.shape[-1] > LONGEST:
        return ranks.average_ranks(rows, mask_rows.float()).reshape(values.shape)
    return torch.ops.atft.average_ranks.default(rows, mask_rows).reshape(values.shape)


def pearson(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Correlation of a and b over the valid entries of the last axis, [...] float64.

    a, b: [..., N] of any float type, read as float32; mask: bool of their shape. Raises ValueError for other shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"a is {tuple(a.shape)}, b is {tuple(b.shape)}: give both the same shape")
    return torch.ops.atft.pearson.default(_rows(a, mask), _rows(b, mask), _rows(mask, mask)).reshape(a.shape[:-1])


def spearman(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Rank correlation over the valid entries of the last axis, ties averaged, [...] float64; see `pearson`."""
    return pearson(average_ranks(a, mask), average_ranks(b, mask), mask)


def _rows(values: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != values.shape or mask.dtype != torch.bool:
        what = f"mask is {mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"{what}, values are {tuple(values.shape)}: give a bool mask of their shape")
    rows = values.detach().reshape(-1, values.shape[-1]).contiguous()
    return rows if values.dtype == torch.bool else rows.float()
