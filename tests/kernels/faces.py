"""The implementations (faces) of the ranking operators, behind one interface for tests.

    numba     the public operators, on CPU tensors
    triton    the functions of kernels.cuda, called directly: on a GPU where there is one, else in Triton's interpreter
    plain     kernels.rank_terms in float32, which CUDA takes beyond LONGEST entries

The Triton kernels use short tiles here, so that few entries take several tiles and something is carried over; on a GPU,
the shipped lengths are a face of their own. Results are float64 numpy arrays. Memory that an operator allocates starts
as NaN, which shows what it does not write and what it reads too early.

K members, H horizons, G cross-sections, N entries, Q quantile levels
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from kernels import limits
from kernels.cuda import rank_objective as cuda_objective
from kernels.cuda import soft_rank as cuda_soft_rank
from kernels.rank_objective import rank_objective
from kernels.rank_terms import TERMS, rank_terms, weigh
from kernels.ranks import soft_ranks, standardise
from kernels.soft_rank import soft_rank

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
EPS = 2.0**-24  # half an ulp of float32 at 1: what a rounding is off by, relative


@dataclass(frozen=True, eq=False)
class Face:
    name: str
    device: torch.device
    soft_rank: Callable  # (scores [R, N], mask, tau, upstream) -> ranks, gradient
    objective: Callable  # (block, upstream) -> loss, terms, gradients by scores and quantiles
    lengths: dict = field(default_factory=dict)  # of kernels.limits, while it runs

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Block:
    """Inputs of the objective, in float32."""

    scores: Tensor  # [H, G, N]
    targets: Tensor
    returns: Tensor
    mask: Tensor
    quantiles: Tensor  # [H, G, N, Q]
    levels: Tensor
    rotations: Tensor
    weights: Tensor
    horizon_weights: Tensor
    tau: Tensor
    temperature: Tensor
    ranked: bool = True

    def but(self, **changes):
        return replace(self, **changes)

    def moved(self, device):
        values = vars(self).items()
        return Block(**{name: value if isinstance(value, bool) else value.to(device) for name, value in values})


@dataclass(frozen=True)
class Outcome:
    loss: np.ndarray
    terms: np.ndarray
    by_scores: np.ndarray
    by_quantiles: np.ndarray

    def term(self, name):
        return float(self.terms[list(TERMS).index(name)])


def only(*names, weight=1.0):
    """Weights of the named terms alone."""
    return torch.tensor([weight if term in names else 0.0 for term in TERMS])


def block(seed=0, horizons=1, days=2, names=20, missing=0.2, levels=(0.1, 0.5, 0.9), rotations=(1, 3), **changes):
    """Cross-sections with tied targets, and weights that all differ; values that are not valid are numbers.

    Where no rotation fits, as with a single name, `pairwise` has no weight.
    """
    random = torch.Generator().manual_seed(seed)
    shape = (horizons, days, names)

    def normal(*more):
        return torch.randn((*shape, *more), generator=random)

    made = Block(
        scores=normal(),
        targets=(normal() * 4).round() / 4,
        returns=normal() * 0.02,
        mask=torch.rand(shape, generator=random) >= missing,
        quantiles=normal(len(levels)),
        levels=torch.tensor(levels),
        rotations=torch.tensor([k for k in rotations if k < names], dtype=torch.int32),
        weights=torch.linspace(0.6, 1.3, len(TERMS)),
        horizon_weights=torch.ones(horizons),
        tau=torch.tensor(0.2),
        temperature=torch.tensor(0.7),
    ).but(**changes)
    return made if len(made.rotations) else made.but(weights=made.weights * (1 - only("pairwise")))


@contextlib.contextmanager
def memory_of_nan():
    """torch.empty gives NaN; the largest integer and True for types without NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def ranked_by(face, scores, mask, tau, upstream=None):
    """Soft ranks [R, N], and the gradient by the scores of sum(upstream * ranks), 1 by default."""
    upstream = torch.ones(scores.shape) if upstream is None else upstream
    width = torch.as_tensor(tau, dtype=torch.float32)
    tensors = (tensor.to(face.device) for tensor in (scores, mask, width, upstream))
    with memory_of_nan(), _lengths(face):
        ranks, gradient = face.soft_rank(*tensors)
    return to_numpy(ranks), to_numpy(gradient)


def evaluated(face, block, upstream=2.0):
    """Loss and terms, and the gradients of `upstream` times the loss."""
    with memory_of_nan(), _lengths(face):
        return Outcome(*map(to_numpy, face.objective(block.moved(face.device), upstream)))


def reference(block, upstream=2.0):
    """kernels.rank_terms in float64."""
    return Outcome(*map(to_numpy, _plain_objective(block, upstream, torch.float64)))


def to_numpy(tensor):
    return tensor.detach().double().cpu().numpy()


def _lengths(face):
    return mock.patch.multiple(limits, **face.lengths) if face.lengths else contextlib.nullcontext()


def _by_autograd(function):
    def soft_rank_of(scores, mask, tau, upstream):
        scores = scores.clone().requires_grad_()
        ranks = function(scores, mask, tau)
        return ranks, torch.autograd.grad(ranks, scores, upstream)[0]

    return soft_rank_of


def _plain_soft_rank(scores, mask, tau):
    known = torch.where(mask, scores, 0.0)
    return soft_ranks(standardise(known, mask.float()), mask.float(), tau)


def _triton_soft_rank(scores, mask, tau, upstream):
    ranks, *kept = cuda_soft_rank.forward(scores.contiguous(), mask.contiguous(), tau)
    return ranks, cuda_soft_rank.backward(upstream.contiguous(), mask.contiguous(), tau, *kept)


def _gradients(loss, terms, scores, quantiles, upstream):
    gradients = torch.autograd.grad(loss, (scores, quantiles), torch.full_like(loss, upstream), allow_unused=True)
    none = (torch.zeros_like(scores), torch.zeros_like(quantiles))
    return loss, terms, *(zero if found is None else found for found, zero in zip(gradients, none, strict=True))


def public_objective(block):
    """The public function's loss and terms of a block."""
    return rank_objective(
        block.scores, block.targets, block.mask, block.weights, returns=block.returns,
        horizon_weights=block.horizon_weights, quantiles=block.quantiles, levels=block.levels,
        rotations=block.rotations, tau=block.tau, temperature=block.temperature, ranked=block.ranked,
    )  # fmt: skip


def stacked(*blocks):
    """Blocks of one shape as one block of members."""
    shared = ("levels", "ranked")
    stacks = {
        name: torch.stack([getattr(each, name) for each in blocks]) for name in vars(blocks[0]) if name not in shared
    }
    return blocks[0].but(**stacks)


def operands(block):
    """A block's values as the operator takes them; those of one member, where it has no axis of members."""
    block = block if block.scores.dim() == 4 else stacked(block)
    return (
        block.scores, block.targets, block.returns, block.mask, block.quantiles, block.weights, block.horizon_weights,
        block.tau, block.temperature, block.levels, block.rotations, block.ranked,
    )  # fmt: skip


def _public_objective(block, upstream):
    block = block.but(scores=block.scores.clone().requires_grad_(), quantiles=block.quantiles.clone().requires_grad_())
    return _gradients(*public_objective(block), block.scores, block.quantiles, upstream)


def _plain_objective(block, upstream, dtype=torch.float32):
    scores, quantiles = (array.to(dtype, copy=True).requires_grad_() for array in (block.scores, block.quantiles))
    targets, returns = block.targets.to(dtype), block.returns.to(dtype)
    values = rank_terms(
        scores, targets, returns, block.mask, TERMS, quantiles=quantiles, levels=block.levels.to(dtype),
        tau=block.tau.to(dtype), temperature=block.temperature.to(dtype), rotations=block.rotations,
        ranked=block.ranked,
    )  # fmt: skip
    loss, terms = weigh(values, block.mask, block.weights.to(dtype), block.horizon_weights.to(dtype))
    return _gradients(loss, terms, scores, quantiles, upstream)


def _triton_objective(block, upstream):
    values = (value.contiguous() if isinstance(value, Tensor) else value for value in operands(block))
    loss, terms, by_scores, by_quantiles = cuda_objective.rank_objective(*values)
    results = loss, terms, by_scores * upstream, by_quantiles * upstream
    return results if block.scores.dim() == 4 else tuple(result.squeeze(0) for result in results)


NUMBA = Face("numba", torch.device("cpu"), _by_autograd(soft_rank), _public_objective)
PLAIN = Face("plain", DEVICE, _by_autograd(_plain_soft_rank), _plain_objective)
TRITON = Face("triton", DEVICE, _triton_soft_rank, _triton_objective, {"TILE": 16, "SHORTEST": 32})
SHIPPED = Face("triton-shipped", DEVICE, _triton_soft_rank, _triton_objective)

FACES = [NUMBA, PLAIN, TRITON, *([SHIPPED] if CUDA else [])]
FAST = [face for face in FACES if CUDA or face is not TRITON]  # the interpreter takes half a second for a cross-section
# Faces with numbers of names. Of TRITON: 1, 2, a tile, one more, all entries that a sort holds, one more. Other faces
# have no such edges.
SIZES = [
    *((face, n) for face in (NUMBA, PLAIN) for n in (1, 2, 3, 16, 500, 2000, 20000)),
    *((TRITON, n) for n in (1, 2, 16, 17, 32, 33)),
    *((SHIPPED, n) for n in (1, 2, 3, 129, 1024, 1025, 4096, 5000, 8192) if CUDA),
]
