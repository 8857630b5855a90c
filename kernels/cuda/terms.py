"""The terms of the rank objective that have loops of their own, for one cross-section on CUDA: pairwise and quantile.

N entries, Q quantile levels, R rotations, TILE entries of a tile
"""

import triton
import triton.language as tl

from kernels.cuda.selects import larger


@triton.jit
def sign(x):  # type: ignore[no-untyped-def]
    """1, 0 or -1; 0 for NaN."""
    return (x > 0).to(tl.float32) - (x < 0).to(tl.float32)


@triton.jit
def pairwise(  # type: ignore[no-untyped-def]
    scores_at, targets_at, mask_at, rotations, shifts, size, inverse, gradient_at, TILE: tl.constexpr
):
    """Store the gradient by z of the sum over the pairs (i, i + shift); return that sum and the number of pairs.

    Every entry gathers from the pairs it begins and from those it ends, so there are no atomic additions. Both loss and
    gradient are still to be divided by the number of pairs. Ends with a barrier.
    """
    total, count = tl.zeros([TILE], tl.float32), tl.zeros([TILE], tl.float32)
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        inside = i < size
        valid = tl.load(mask_at + i, mask=inside, other=0) != 0
        score = tl.load(scores_at + i, mask=valid, other=0.0)
        target = tl.load(targets_at + i, mask=valid, other=0.0)
        gradient = tl.zeros([TILE], tl.float32)
        for k in range(shifts):
            shift = tl.load(rotations + k)
            for side in tl.static_range(2):
                j = i + shift if side == 0 else i - shift + size
                j = tl.where(j >= size, j - size, j)
                paired = valid & (tl.load(mask_at + j, mask=inside, other=0) != 0)
                other = tl.load(targets_at + j, mask=paired, other=0.0)
                order = tl.where(paired, sign(target - other), 0.0)
                x = order * (score - tl.load(scores_at + j, mask=paired, other=0.0)) * inverse
                x = tl.where(order != 0, x, 0.0)
                e = tl.exp(-tl.abs(x))
                gradient -= order * tl.where(x > 0, e, 1.0) / (1.0 + e)
                if side == 0:
                    loss = larger(-x, 0.0) + tl.log(1.0 + e)
                    total += tl.where(order != 0, loss, 0.0)
                    count += tl.abs(order)
        tl.store(gradient_at + i, gradient, mask=inside)
    tl.debug_barrier()
    return tl.sum(total), tl.sum(count)


@triton.jit
def quantile(  # type: ignore[no-untyped-def]
    labels_at, mask_at, quantiles_at, levels, count, size, mean, inverse, weight, gradient_at, TILE: tl.constexpr
):
    """Store weight times the gradient by the quantiles of the summed pinball loss; return that sum."""
    total = tl.zeros([TILE], tl.float32)
    for start in range(0, size, TILE):
        i = start + tl.arange(0, TILE)
        valid = tl.load(mask_at + i, mask=i < size, other=0) != 0
        z_target = (tl.load(labels_at + i, mask=valid, other=0.0) - mean) * inverse
        for k in range(count):
            level = tl.load(levels + k)
            error = tl.where(valid, z_target - tl.load(quantiles_at + i * count + k, mask=valid, other=0.0), 0.0)
            total += larger(level * error, (level - 1.0) * error)
            slope = tl.where(error > 0, -level, tl.where(error < 0, 1.0 - level, 0.5 - level))
            tl.store(gradient_at + i * count + k, tl.where(valid, weight * slope, 0.0), mask=i < size)
    return tl.sum(total)
