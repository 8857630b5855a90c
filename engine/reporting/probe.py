"""A look into a trained network on a few blocks of the scored days: what its variables weigh, what permuting a feature
costs, and how well its quantiles are calibrated.

Bounded: BLOCKS blocks of BLOCK_DAYS days and at most MOST_CODES names that are present on all of them. A feature is
permuted among the names, each name's whole history at once, in what the network reads and in what neutralises it.

S codes, D days, T = D + L - 1, F features, H horizons, Q quantile levels
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.inputs import open_loader, resolve_device
from engine.model.atft.embedding import Embedding
from engine.model.ensemble import Ensemble
from engine.score.metrics import daily_rank_ic
from engine.score.predict import TrainedRun
from engine.threads import one_thread_each
from kernels.ranks import average_ranks, standardise
from loaders.batch import Request
from loaders.cache.format import SCORED
from loaders.panel import Panel
from loaders.plan import Block
from loaders.split import Days

Float = npt.NDArray[np.float64]

BLOCKS, BLOCK_DAYS, MOST_CODES = 3, 16, 512
MOST_FEATURES = 100  # that are permuted: those of the largest weight, or the first ones


@dataclass(frozen=True)
class Probe:
    """What was found."""

    days: int
    codes: int  # of the largest block
    weights: Float | None  # [F] mean weight of variable selection, 1 on average; None: the network has none
    drop: dict[int, Float]
    """Horizon -> [P, blocks x days] RankIC less that with the feature permuted; without horizons of no such day."""
    permuted: list[int]  # P places of features
    below: dict[int, Float] | None  # horizon -> [Q] share of targets at or below each quantile; None: no quantiles


@dataclass(frozen=True)
class _Block:
    x: Tensor  # [S, T, F]
    presence: Tensor  # [S, T]
    y: Tensor  # [S, D, H]

    @property
    def scored(self) -> Tensor:
        """[S, D]"""
        return self.presence[:, -self.y.shape[1] :] == SCORED


def probe(run: TrainedRun, panel: Panel, part: Days, importance: bool) -> Probe:
    """Look into a run's network on days of a part; deterministic.

    Args:
        importance: permute features too, which takes F forward passes.
    """
    device, context = resolve_device(run.config.train.device), run.config.data.context
    days = min(BLOCK_DAYS, len(part))
    starts = np.unique(np.linspace(part.start, part.stop - days, BLOCKS).astype(np.int64)).tolist()
    blocks = [Block(start, codes) for start in starts if len(codes := _codes(panel, start, days, context))]
    model = run.model_of(panel, part).to(device).eval()
    with open_loader(run.config, panel, device) as source, source.load(Request(part, blocks, days, context)) as loader:
        kept = [_Block(batch.x.float().clone(), batch.presence.clone(), batch.y.clone()) for batch in loader]
    # A thread for each pass: threads that share one wait for one another where another process takes a core.
    with one_thread_each(torch.get_num_threads(), "probe") as threads:
        found = list(threads.map(partial(_weights, model), kept))
        counts = list(threads.map(partial(_below, run, model), kept))
        weights = [each for each in found if each is not None]
        mean = np.mean(weights, 0) if weights else None
        permuted = _candidates(panel, mean) if importance else []
        drop = _drops(model, kept, panel.manifest.horizons, permuted, threads)
    below = None if not counts or not run.config.model.quantiles else _shares(counts, panel.manifest.horizons)
    return Probe(len(starts) * days, max((len(b.codes) for b in blocks), default=0), mean, drop, permuted, below)


def _codes(panel: Panel, start: int, days: int, context: int) -> npt.NDArray[np.int64]:
    """Names with a sample on the days, listed on all of them and their context; evenly spaced where they are many."""
    first, stop = max(start - context + 1, 0), start + days
    here = panel.count(panel.present, slice(None), first, stop) == stop - first
    codes = np.intersect1d(np.flatnonzero(here), panel.codes_with(panel.samples, start, stop))
    if len(codes) > MOST_CODES:
        codes = codes[np.linspace(0, len(codes) - 1, MOST_CODES).astype(np.int64)]
    return codes


def _candidates(panel: Panel, weights: Float | None) -> list[int]:
    """The features to permute."""
    count = len(panel.manifest.features)
    order = np.arange(count) if weights is None else np.argsort(-weights, kind="stable")
    return sorted(order[:MOST_FEATURES].tolist())


@torch.inference_mode()
def _forward(model: Ensemble, block: _Block, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [S, D, H] and quantiles [S, D, H, Q]."""
    return model(x, (block.presence > 0).float(), (block.presence == SCORED).float())


@torch.inference_mode()
def _weights(model: Ensemble, block: _Block) -> Float | None:
    """Mean weight of each feature over the scored rows and all embeddings of all members that select variables."""
    days = block.y.shape[1]
    found = []
    for member in model.members:
        ids = getattr(member, "categories", None)
        seen = block.x[:, -days:] if ids is None else ids.others(block.x[:, -days:])
        for module in member.modules():
            if isinstance(module, Embedding) and module.query is not None:
                found.append(module.weights(seen)[block.scored].mean(0).double().cpu().numpy())
    return np.mean(found, 0) if found else None


@torch.inference_mode()
def _below(run: TrainedRun, model: Ensemble, block: _Block) -> tuple[Any, Any]:
    """How many targets lie at or below each quantile [H, Q], and how many there are [H]."""
    if not run.config.model.quantiles:
        return 0, 0
    _, quantiles = _forward(model, block, block.x)
    targets = block.y.permute(2, 1, 0)  # [H, D, S]
    mask = torch.isfinite(targets) & block.scored.T
    known = torch.where(mask, targets, 0.0)
    ranked = run.config.objective.target == "rank"
    z = standardise(average_ranks(known, mask.float()) if ranked else known, mask.float())
    under = (z[..., None] <= quantiles.float().permute(2, 1, 0, 3)) & mask[..., None]
    return under.sum((1, 2)).double().cpu().numpy(), mask.sum((1, 2)).double().cpu().numpy()


def _shares(counts: list[tuple[Any, Any]], horizons: list[int]) -> dict[int, Float]:
    under, every = (sum(column) for column in zip(*counts, strict=True))
    return {h: under[i] / max(float(every[i]), 1.0) for i, h in enumerate(horizons)}


def _drops(
    model: Ensemble, kept: list[_Block], horizons: list[int], features: list[int], threads: ThreadPoolExecutor
) -> dict[int, Float]:
    """RankIC of each day less that with each feature permuted, [P, days], on days where all are defined."""
    if not features or not kept:
        return {}
    of_blocks = []
    for number, block in enumerate(kept):
        order = torch.randperm(len(block.x), generator=torch.Generator().manual_seed(number)).to(block.x.device)
        whole = _rank_ics(model, block, block.x)
        without = threads.map(partial(_permuted, model, block, order), features)
        of_blocks.append(whole[:, None] - np.stack(list(without), 1))  # [H, P, D]
    drops = np.concatenate(of_blocks, 2)
    finite = {h: each[:, np.isfinite(each).all(0)] for h, each in zip(horizons, drops, strict=True)}
    return {h: each for h, each in finite.items() if each.shape[1]}


def _permuted(model: Ensemble, block: _Block, order: Tensor, feature: int) -> Float:
    x = block.x.clone()
    x[..., feature] = x[order, :, feature]
    return _rank_ics(model, block, x)


def _rank_ics(model: Ensemble, block: _Block, x: Tensor) -> Float:
    """RankIC of each day [H, D], NaN where it is not defined."""
    scores = _forward(model, block, x)[0].float().cpu().numpy()
    targets = torch.where(block.scored[..., None], block.y, torch.nan).cpu().numpy()
    found = np.full(targets.shape[:0:-1], np.nan)
    for i, of_days in enumerate(found):
        known = np.isfinite(targets[..., i]).T
        day = np.broadcast_to(np.arange(known.shape[0])[:, None], known.shape)
        days, rank_ic = daily_rank_ic(scores[..., i].T[known], targets[..., i].T[known], day[known])
        of_days[days] = rank_ic
    return found
