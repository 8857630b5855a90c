"""A model's last step, refitted every day: a ridge regression on what that step is given (`sums.py` has how).

The model is frozen at the split, and so is its last step: the heads of a network, the sum of trees. What comes before
it stays worth knowing longer, so the regression weighs it anew each day by the returns known by then.

It learns from the first day of validation on: on the days before, the outputs fit the very returns that trained them.
From then on nothing is forgotten. Labels over h days overlap, so that a short memory holds few of them: refitted with a
half-life of 250 days it gained less at five days than at one (docs/experiments.md, "Online regression").

N rows, C outputs, F features, H horizons
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.model.neutral import Neutral, centred_and_scale
from engine.score.online.sums import Recursion, Sums, label_days, no_sums, prior, rank_targets
from engine.score.rows import Float32
from engine.threads import one_thread_each
from loaders.panel import Panel
from loaders.split import Days

HALF_LIFE = math.inf  # days
EXPECTED = 0.12  # deviation of x'w by the prior: twice that of the online regression


@dataclass(frozen=True)
class Day:
    """The present rows of a day, by code."""

    number: int  # calendar index
    outputs: Tensor  # [N, C] float32
    features: Tensor  # [N, F] float32
    scored: Tensor  # [N] float 0/1, of the universe
    targets: Float32  # [N, H]


@dataclass(frozen=True)
class Refitted:
    """Scores of some days, and the sums of one of them, from which later days go on."""

    scores: Float32  # [N, H] of the present rows, in units of EXPECTED, neutralised
    sums: Sums


@dataclass(frozen=True)
class Span:
    """Which days are learned from, and which are scored. All are calendar indices.

    Args:
        part: the days that are scored.
        begin: the first day whose samples count.
        done: the day that the sums at hand are of; `begin` - 1 where there are none. Not after the part's first.
        keep: the day whose sums are given; not before `done`.
    """

    part: Days
    begin: int
    done: int
    keep: int

    def days(self, panel: Panel) -> Days:
        """The days that have to be seen: those whose returns the sums do not hold yet wait again."""
        waits = max(label_days(panel), default=0)
        learns = waits and max(self.part.stop - 1, self.keep) > self.done
        start = max(self.begin, self.done + 1 - waits) if learns else self.part.start
        return Days(min(self.part.start, start), max(self.part.stop, self.keep + 1))


def refit(
    days: Iterable[Day],
    panel: Panel,
    span: Span,
    columns: int,
    horizons: int,
    neutral: Neutral,
    sums: Sums | None = None,
) -> Refitted:
    """Scores of a part by slopes of each day, and the sums of a day.

    Args:
        days: `span.days`, each of them.
        columns: C.
        sums: of the day `span.done`; None: of no sample. A panel without targets adds none to them.
    """
    device, waits = neutral.directions.device, label_days(panel)
    before = no_sums(horizons, columns, device) if sums is None else sums.to(device).clone()
    recursion, added = Recursion(before, waits, HALF_LIFE), prior(columns, EXPECTED, device)
    kept = before.clone() if span.keep <= span.done or span.keep < span.days(panel).start else None
    found = []

    @torch.inference_mode()
    def add(day: Day) -> None:
        nonlocal kept
        z = _standardised(day.outputs, day.scored)
        if span.begin <= day.number and waits:
            recursion.add_day(z[day.scored > 0], _ranks(day), day.number <= span.done)
        if span.part.start <= day.number < span.part.stop:
            slopes = torch.linalg.solve(recursion.sums.squares + added, recursion.sums.products) / EXPECTED
            scores = z @ slopes.T.float()
            found.append(neutral(scores[:, None], day.features[:, None], day.scored[:, None])[:, 0])
        if day.number == span.keep and kept is None:
            kept = recursion.sums.clone()

    with one_thread_each(1, "refit") as thread:
        for day in days:
            thread.submit(add, day).result()
    assert kept is not None
    return Refitted(torch.cat(found).cpu().numpy(), kept)


def _standardised(outputs: Tensor, scored: Tensor) -> Tensor:
    """Outputs [N, C] of a day in deviations; its scored rows alone make mean and deviation."""
    share_of = (scored / scored.sum().clamp(min=1))[None, None]
    centred, scale = centred_and_scale(outputs[None], share_of)
    return (centred * scale)[0]


def _ranks(day: Day) -> Tensor:
    targets = day.targets[day.scored.cpu().numpy() > 0]
    return rank_targets(targets, np.zeros(len(targets), np.int64)).to(day.scored.device)
