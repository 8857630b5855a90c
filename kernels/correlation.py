"""Exact ranks and correlations of cross-sections, on the device that holds them; for judging, without gradients.

    average_ranks   1..n within the valid entries, tied ones sharing the mean of their ranks
    pearson         covariance over both deviations, of float32 values in float64
    spearman        pearson of the average ranks

As scipy.stats.rankdata, pearsonr and spearmanr give them: a correlation of fewer than two entries, or of constant ones,
is NaN; so is one with a NaN among its valid entries, and pearson with an infinity.

R cross-sections, N entries
"""

import torch
from torch import Tensor

from kernels import rank_terms
from kernels.limits import LONGEST


@torch.library.custom_op("atft::average_ranks", mutates_args=(), device_types="cpu")
def _average_ranks(values: Tensor, mask: Tensor) -> Tensor:
    from kernels.cpu.correlation import average_ranks

    return average_ranks(values, mask)


@_average_ranks.register_kernel("cuda")
def _(values: Tensor, mask: Tensor) -> Tensor:
    from kernels.cuda.correlation import average_ranks

    return average_ranks(values, mask)


@_average_ranks.register_fake
def _(values: Tensor, mask: Tensor) -> Tensor:
    return torch.empty_like(values)


@torch.library.custom_op("atft::pearson", mutates_args=(), device_types="cpu")
def _pearson(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    from kernels.cpu.correlation import pearson

    return pearson(a, b, mask)


@_pearson.register_kernel("cuda")
def _(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    from kernels.cuda.correlation import pearson

    return pearson(a, b, mask)


@_pearson.register_fake
def _(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return a.new_empty(len(a), dtype=torch.float64)


def average_ranks(values: Tensor, mask: Tensor) -> Tensor:
    """Ranks 1..n of the valid entries of the last axis, ties averaged, 0 elsewhere; float32.

    values [..., N] of any float type, compared as float32, and a bool mask of their shape. A NaN among a
    cross-section's valid entries makes all its ranks NaN. Beyond LONGEST entries on CUDA, by torch's sort.

    Raises ValueError for a mask of another shape or type.
    """
    rows, mask_rows = _rows(values, mask), _rows(mask, mask)
    if values.is_cuda and values.shape[-1] > LONGEST:
        return rank_terms.average_ranks(rows, mask_rows.float()).reshape(values.shape)
    return _average_ranks(rows, mask_rows).reshape(values.shape)


def pearson(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Correlation of a and b over the valid entries of the last axis, [...] float64.

    a, b: [..., N] of any float type, read as float32; mask: bool of their shape. Raises ValueError for other shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"a is {tuple(a.shape)}, b is {tuple(b.shape)}: give both the same shape")
    return _pearson(_rows(a, mask), _rows(b, mask), _rows(mask, mask)).reshape(a.shape[:-1])


def spearman(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Rank correlation over the valid entries of the last axis, ties averaged, [...] float64; see `pearson`."""
    return pearson(average_ranks(a, mask), average_ranks(b, mask), mask)


def _rows(values: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != values.shape or mask.dtype != torch.bool:
        what = f"mask is {mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"{what}, values are {tuple(values.shape)}: give a bool mask of their shape")
    rows = values.detach().reshape(-1, values.shape[-1]).contiguous()
    return rows if values.dtype == torch.bool else rows.float()
