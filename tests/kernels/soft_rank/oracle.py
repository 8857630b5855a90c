"""What soft ranks are compared with: the definition for all pairs in float64, with tolerances for float32."""

from dataclasses import dataclass

import numpy as np
import torch

from kernels.ranks import EPSILON, soft_ranks, standardise
from tests.kernels.faces import EPS, to_numpy

CHUNK = 512  # names compared with all others at a time: of 20,000, 82 MB a matrix


def sections(seed, n, rows=2, missing=0.2, grid=None, scale=1.0, offset=0.0):
    """Scores, their mask and an upstream gradient; with a grid, scores tie."""
    random = torch.Generator().manual_seed(seed)
    scores, upstream = torch.randn((2, rows, n), generator=random)
    if grid:
        scores = (scores / grid).round() * grid
    return (scores + offset) * scale, torch.rand((rows, n), generator=random) >= missing, upstream


@dataclass(frozen=True)
class Expected:
    ranks: np.ndarray
    gradient: np.ndarray
    largest: np.ndarray  # [R] of the gradients by z, and of one between equal scores, over the deviation

    def compare(self, ranks, gradient, scores, mask, tau):
        """With tolerances for results in float32.

        Ranks have an ulp of 2 EPS n at most. They are sums over the names within the kernel's width, `near` at most.
        z is off by EPS of a few deviations, so differences of z / tau by EPS of 4 / tau; and every decay between
        neighbours by EPS, of which the furthest of a sum have taken `near`.

        Gradients are compared with the largest one by z, since taking out its parts along 1 and z may leave nothing of
        it, as of two names. z has its rounding and that of the mean of scores that lie far from 0.
        """
        for row, valid in enumerate(mask.numpy()):
            values = scores[row].double().numpy()[valid]
            n, deviation = len(values), np.sqrt(values.var() + EPSILON**2) if len(values) else 1.0
            z = np.sort(values / deviation)
            near = (np.searchsorted(z, z + tau, "right") - np.searchsorted(z, z - tau)).max(initial=0)
            away = np.abs(values / deviation).max(initial=0)
            within = EPS * (4 * n + 4 / tau * near + near**2)
            np.testing.assert_allclose(ranks[row], self.ranks[row], rtol=0, atol=within, err_msg=f"ranks of row {row}")
            within = self.largest[row] * EPS * (16 + 4 / tau + near + 4 * away)
            np.testing.assert_allclose(
                gradient[row], self.gradient[row], rtol=0, atol=within, err_msg=f"gradient of row {row}"
            )
            assert not ranks[row, ~valid].any()
            assert not gradient[row, ~valid].any()


def by_pairs(scores, mask, tau, upstream=None):
    """The definition for all pairs in float64, and its gradient by autograd, through the deviations as well."""
    scores = torch.where(mask, scores.double(), 0).requires_grad_()
    upstream = torch.ones_like(scores) if upstream is None else upstream.double()
    tau = float(np.float32(tau))
    n = mask.sum(-1, keepdim=True).clamp(min=1)
    centred = torch.where(mask, scores - scores.sum(-1, keepdim=True) / n, 0)
    deviation = (centred.square().sum(-1, keepdim=True) / n + EPSILON**2).sqrt()
    z = centred / deviation
    ranks, by_z = torch.zeros_like(scores), torch.zeros_like(scores)
    leaf = z.detach().requires_grad_()
    for row, valid in enumerate(mask):
        for some in valid.nonzero()[:, 0].split(CHUNK):
            u = (leaf[row, some, None] - leaf[row, valid]) / tau
            cdf = torch.where(u >= 0, 1 - torch.exp(-u.clamp(min=0)) / 2, torch.exp(u.clamp(max=0)) / 2)
            part = 0.5 + cdf.sum(-1)
            ranks[row, some] = part.detach()
            by_z += torch.autograd.grad((part * upstream[row, some]).sum(), leaf)[0]
    (gradient,) = torch.autograd.grad(z, scores, by_z)
    largest = torch.maximum(by_z.abs(), torch.where(mask, upstream.abs(), 0) / (2 * tau)).amax(-1)
    return Expected(*map(to_numpy, (ranks, gradient, largest / deviation[:, 0])))


def by_some_pairs(scores, mask, tau, upstream):
    """For too many names: rank_terms in float64, with the ranks of fifty names checked by the definition."""
    values, tau = scores.double().requires_grad_(), float(np.float32(tau))
    z = standardise(torch.where(mask, values, 0), mask.double())
    ranks = soft_ranks(z, mask.double(), tau)
    gradient, by_z = torch.autograd.grad(ranks, (values, z), upstream.double())
    for row, valid in enumerate(mask):
        others = to_numpy(z[row, valid])
        u = (others[::400, None] - others) / tau
        cdf = np.where(u >= 0, 1 - np.exp(-np.abs(u)) / 2, np.exp(-np.abs(u)) / 2)
        np.testing.assert_allclose(to_numpy(ranks[row, valid])[::400], 0.5 + cdf.sum(-1), rtol=1e-12)
    deviation = values.detach()[mask].std(correction=0)
    return Expected(*map(to_numpy, (ranks, gradient, by_z.abs().amax(-1) / deviation)))
