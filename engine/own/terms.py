"""Terms of the loss of the user's own, in plain torch beside the fused ones.

`[objective.own.NAME]` names a function and its weight:

    term(scores [G, N], targets [G, N], mask [G, N]) -> loss [G], one for each cross-section, or [] for all of them

A cross-section is the codes of one day and horizon. Targets are the cache's, such as returns, whatever objective.target
says. Entries outside the mask are 0. Cross-sections with fewer than two valid entries count nothing: a term that gives
[G] is not shown them. One that gives [] is called once per horizon, with an empty mask for such a day.

K members, H horizons, G cross-sections (days), N entries (codes)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import ObjectiveConfig
from engine.own.names import find
from loaders.errors import InputError, check_memory

Function = Callable[[Tensor, Tensor, Tensor], Tensor]
DAYS, CODES = 3, 12  # of what a term is tried on


@dataclass(frozen=True)
class Term:
    """A function and where it stands among the objective's own terms."""

    place: int
    function: Function
    of_days: bool  # gives [G]; else []

    def values(self, scores: Tensor, targets: Tensor, mask: Tensor, horizon_weights: Tensor) -> Tensor:
        """The term [K], averaged over horizons, and where it gives [G], over cross-sections by their entries.

        Args:
            scores, targets, mask: [K, H, G, N], the mask bool.
            horizon_weights: [K, H].
        """
        entries = mask.sum(-1)
        counts = entries >= 2
        if not self.of_days:
            counts = counts.any(-1, keepdim=True)
        # Where too few are valid, something that no function minds: neither value nor gradient reaches the weights.
        harmless = torch.linspace(-1, 1, mask.shape[-1], device=mask.device)
        shown = counts[..., None]
        scores = torch.where(shown, torch.where(mask, scores, 0.0), harmless)
        targets = torch.where(shown, torch.where(mask, targets, 0.0), harmless)
        arrays = (scores, targets, mask | ~shown)
        if self.of_days:
            values = self.function(*(array.flatten(0, -2) for array in arrays)).view(entries.shape)
            share = torch.where(counts, entries, 0) * horizon_weights[..., None]
            return (values * share).sum((1, 2)) / share.sum((1, 2)).clamp(min=1e-6)
        of_horizons = zip(*(array.flatten(0, 1) for array in arrays), strict=True)
        values = torch.stack([self.function(*one) for one in of_horizons]).view(mask.shape[:2])
        return (torch.where(counts[..., 0], values, 0.0) * horizon_weights).sum(-1) / horizon_weights.sum(-1)


def own_terms(config: ObjectiveConfig, device: torch.device) -> tuple[Term, ...]:
    """The terms of [objective.own] that have a weight.

    Raises InputError for one that cannot be imported, fails on a small example, or does not train.
    """
    return tuple(
        _checked(place, name, find(own.term, f"objective.own.{name}"), device)
        for place, (name, own) in enumerate(config.own.items())
        if own.weight > 0
    )


def _checked(place: int, name: str, function: Function, device: torch.device) -> Term:
    random = torch.Generator().manual_seed(0)
    mask = torch.rand(DAYS, CODES, generator=random) > 0.2
    scores, targets = (torch.randn(DAYS, CODES, generator=random) * mask for _ in range(2))
    scores, targets, mask = scores.to(device).requires_grad_(), 0.02 * targets.to(device), mask.to(device)
    where = f"objective.own.{name}"
    try:
        values = function(scores, targets, mask)
        shape = tuple(values.shape)
        if shape not in ((), (DAYS,)):
            what = f"gave {shape} of scores {(DAYS, CODES)}, not one value or one for each row"
            raise InputError(where, what, "Return [G] or []")
        if not shape:  # which a day without a target must not turn to NaN
            mask = mask & (torch.arange(DAYS, device=device) > 0)[:, None]
            values = function(torch.where(mask, scores, 0.0), torch.where(mask, targets, 0.0), mask)
        (slope,) = torch.autograd.grad(values.sum(), scores)
    except InputError:
        raise
    except Exception as error:  # of the user's function, which may raise anything
        check_memory(error)
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise InputError(where, f"raised {type(error).__name__}: {reason}", "Mend the function") from error
    if not (torch.isfinite(values).all() and torch.isfinite(slope).all()):
        seen = "" if shape else "; one day of them has no valid entry"
        raise InputError(where, f"its value or gradient is not finite on random scores{seen}", "Mend the function")
    if not slope.any():
        raise InputError(where, "its gradient is zero on random scores, so it trains nothing", "Mend the function")
    return Term(place, function, bool(shape))
