"""The last layer of a network, refitted every day (`refit.py`): new heads on what its heads are given.

The regressors are the outputs of the last layer of all members. A pass over the network takes all days from the first
of validation, or of a kept state, to the last that is scored.

N rows, S codes, D days, C outputs of all members, H horizons
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from engine.config import Config
from engine.model.ensemble import Ensemble
from engine.score.online.refit import Day, Refitted, Span, refit
from engine.score.online.sums import Sums
from engine.score.pieces import block_days, in_pieces
from engine.score.rows import present_rows
from loaders.batch import Request
from loaders.cache.format import SCORED
from loaders.panel import Panel
from loaders.plan import scoring_blocks
from loaders.progress import Progress, counted, quiet
from loaders.split import Days
from loaders.tiers.choose import Source


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
    span = Span(part, begin, begin - 1 if after is None else after[0], part.stop - 1 if keep is None else keep)
    days = _by_day(model, source, span.days(source.panel), config, progress)
    sums = None if after is None else after[1]
    return refit(days, source.panel, span, columns_of(model), model.horizons, model.neutral, sums)


def _by_day(model: Ensemble, source: Source, part: Days, config: Config, progress: Progress) -> Iterator[Day]:
    """Every day of a part, also one without rows."""
    panel, context, device = source.panel, config.data.context, next(model.parameters()).device
    below = model.with_members([_BelowHeads(member) for member in model.members]).eval()
    # As much memory as scores take, which are of one member at a time.
    days = max(block_days(below, panel, part, config, device) // len(model.members), 1)
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
            with torch.inference_mode():  # not around the loader, whose memory training uses again
                outputs = torch.cat([member(batch.x, here.float(), scored.float())[0] for member in pieces.members], -1)
            rows, day, _ = present_rows(panel, Days(start, stop))
            borders = np.searchsorted(day, np.arange(start, stop + 1))
            for i, number in enumerate(range(start, stop)):
                at, of_day = context - 1 + i, rows[borders[i] : borders[i + 1]]
                now = here[:, at]
                yield Day(
                    number, outputs[:, i][now].float(), batch.x[:, at][now], scored[:, at][now].float(),
                    panel.targets[of_day],
                )  # fmt: skip
    for empty in range(following, part.stop):
        yield _empty(model, panel, empty, device)


def _empty(model: Ensemble, panel: Panel, number: int, device: torch.device) -> Day:
    """A day on which no code is there."""
    outputs, features = (torch.zeros(0, c, device=device) for c in (columns_of(model), len(panel.manifest.features)))
    return Day(number, outputs, features, torch.zeros(0, device=device), panel.targets[:0])


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


def columns_of(model: Ensemble) -> int:
    """Outputs of the last layers of all members."""
    return sum(int(member.heads.in_features) for member in model.members)  # type: ignore[misc,arg-type,union-attr]
