"""The last layer, refitted every day: a ridge regression on what the network's heads are given.

The network is frozen at the split, and so are its heads. What its layers make of a code stays worth knowing longer than
what the heads make of that, so the regression fits new heads each day to the returns known by then (`sums.py`). Its
regressors are the outputs of the last layer of all members, standardised within the day.

It learns from the first day of validation on: on the days before, the outputs fit the very returns that trained them.
From then on nothing is forgotten. Labels over h days overlap, so that a short memory holds few of them: with half-lives
of 125 to 250 days it lost at five days what it gained at one.

A pass over the network takes all days from the first of validation, or of a kept state, to the last that is scored.

N rows, S codes, D days, C outputs of all members, H horizons
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import Config
from engine.model.ensemble import Ensemble
from engine.model.neutral import centred_and_scale
from engine.score.online.sums import Recursion, Sums, label_days, no_sums, prior, rank_targets
from engine.score.pieces import block_days, in_pieces
from engine.score.rows import Float32, present_rows
from engine.threads import one_thread_each
from loaders.batch import Request
from loaders.cache.format import SCORED
from loaders.panel import Panel
from loaders.plan import scoring_blocks
from loaders.progress import Progress, counted, quiet
from loaders.split import Days
from loaders.tiers.choose import Source

HALF_LIFE = math.inf  # days
EXPECTED = 0.12  # deviation of x'w by the prior: twice that of the online regression


@dataclass(frozen=True)
class Refitted:
    """Scores of some days, and the sums of one of them, from which later days go on."""

    scores: Float32  # [N, H] of the present rows, in units of EXPECTED, neutralised
    sums: Sums


def refit_last_layer(
    model: Ensemble,
    source: Source,
    part: Days,
    config: Config,
    begin: int,
    *,
    after: tuple[int, Sums] | None = None,
    keep: int | None = None,
    progress: Progress = quiet,
) -> Refitted:
    """Scores of a part by slopes of each day, and the sums of a day.

    Args:
        model: whose members have a `last_layer`.
        begin: calendar index of the first day whose samples count.
        after, keep: as of `fit_online`; the panel may have no targets with `after`, whose sums then serve all days.
        progress: in blocks of days.
    """
    panel, device, columns = source.panel, next(model.parameters()).device, _columns(model)
    waits, keep = label_days(panel), part.stop - 1 if keep is None else keep
    done = begin - 1 if after is None else after[0]
    recursion = Recursion(
        no_sums(model.horizons, columns, device) if after is None else after[1].to(device).clone(), waits, HALF_LIFE
    )
    added = prior(columns, EXPECTED, device)
    # Days whose returns the sums do not hold yet wait again.
    days = Days(min(part.start, max(begin, done + 1 - max(waits, default=0))), max(part.stop, keep + 1))
    kept = recursion.sums.clone() if keep <= done or keep < days.start else None
    found = []

    def add(day: _Day) -> None:
        nonlocal kept
        z = _standardised(day.outputs, day.scored)
        if begin <= day.number and waits:
            here = day.scored > 0
            recursion.add_day(z[here], _ranks(day, device), day.number <= done)
        if part.start <= day.number < part.stop:
            slopes = torch.linalg.solve(recursion.sums.squares + added, recursion.sums.products) / EXPECTED
            scores = z @ slopes.T.float()
            found.append(model.neutral(scores[:, None], day.features[:, None], day.scored[:, None])[:, 0])
        if day.number == keep and kept is None:
            kept = recursion.sums.clone()

    with one_thread_each(1, "last layer") as thread, torch.inference_mode():
        for day in _by_day(model, source, days, config, progress):
            thread.submit(torch.inference_mode()(add), day).result()
    assert kept is not None
    return Refitted(torch.cat(found).cpu().numpy(), kept)


@dataclass(frozen=True)
class _Day:
    """The present rows of a day, by code."""

    number: int  # calendar index
    outputs: Tensor  # [N, C]
    features: Tensor  # [N, F]
    scored: Tensor  # [N] float 0/1
    targets: Float32  # [N, H]


def _by_day(model: Ensemble, source: Source, part: Days, config: Config, progress: Progress) -> Iterator[_Day]:
    """Every day of a part, also one without rows."""
    panel, context, device = source.panel, config.data.context, next(model.parameters()).device
    below = model.with_members([_BelowHeads(member) for member in model.members]).eval()
    days = block_days(below, panel, part, config, device)
    blocks, following = scoring_blocks(panel, part, days), part.start
    with (
        in_pieces(below, days, context, len(panel.manifest.features), device) as pieces,
        source.load(Request(part, blocks, days, context)) as loader,
    ):
        for batch in counted(loader, len(blocks), progress, "last layer"):
            start, stop = batch.block.day, min(batch.block.day + days, part.stop)
            for empty in range(following, start):
                yield _empty(model, panel, empty, device)
            following = stop
            here, scored = batch.presence > 0, batch.presence == SCORED
            outputs = torch.cat([member(batch.x, here.float(), scored.float())[0] for member in pieces.members], -1)
            rows, day, _ = present_rows(panel, Days(start, stop))
            borders = np.searchsorted(day, np.arange(start, stop + 1))
            for i, number in enumerate(range(start, stop)):
                at, of_day = context - 1 + i, rows[borders[i] : borders[i + 1]]
                now = here[:, at]
                yield _Day(
                    number, outputs[:, i][now].float(), batch.x[:, at][now], scored[:, at][now].float(),
                    panel.targets[of_day],
                )  # fmt: skip
    for empty in range(following, part.stop):
        yield _empty(model, panel, empty, device)


def _empty(model: Ensemble, panel: Panel, number: int, device: torch.device) -> _Day:
    """A day on which no code is there."""
    outputs, features = (torch.zeros(0, c, device=device) for c in (_columns(model), len(panel.manifest.features)))
    return _Day(number, outputs, features, torch.zeros(0, device=device), panel.targets[:0])


class _BelowHeads(nn.Module):
    """A member that ends where its heads begin."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self.member = member

    @property
    def codes_are_independent(self) -> bool:
        return bool(self.member.codes_are_independent)

    def forward(self, x: Tensor, present: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.member.last_layer(x, present)  # type: ignore[operator]
        return outputs, outputs[..., :0]


def _columns(model: Ensemble) -> int:
    """Outputs of the last layers of all members."""
    return sum(int(member.heads.in_features) for member in model.members)  # type: ignore[misc,arg-type,union-attr]


def _standardised(outputs: Tensor, scored: Tensor) -> Tensor:
    """Outputs [N, C] of a day in deviations; its scored rows alone make mean and deviation."""
    share_of = (scored / scored.sum().clamp(min=1))[None, None]
    centred, scale = centred_and_scale(outputs[None], share_of)
    return (centred * scale)[0]


def _ranks(day: _Day, device: torch.device) -> Tensor:
    targets = day.targets[day.scored.cpu().numpy() > 0]
    return rank_targets(targets, np.zeros(len(targets), np.int64)).to(device)
