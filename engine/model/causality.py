"""Whether a network looks ahead: the check that a network of the user's own has to pass before it is trained.

A score may read its own day and the context - 1 days before it, of its code and, where codes are not independent, of
the others. The check changes the features, the presence, or the universe of all other days at once and compares the
scores; where one has changed, it looks for the day that did it. It does so in training and in evaluation, since a norm
over days looks ahead in training alone, and with random weights added to those of the module, since a gate that is
closed at first may open later.

S codes, T days, D scored days, C context of the module, F features, H horizons
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.config import Config, ModelConfig
from engine.model.own import OwnNetwork, build_own
from engine.own.names import remember
from loaders.errors import InputError

SPREAD = 0.1  # deviation of what is added to the weights
TOLERANCE = 1e-5  # of the largest score: running sums over days leave rounding of days that they have dropped


class LookAhead(AssertionError):
    """A score depends on what it must not see, or not on what it must.

    Args:
        day: scored day, from 0; `offset`: the other day less this one, None where several days together do it.
    """

    def __init__(self, what: str, day: int | None = None, offset: int | None = None) -> None:
        self.day, self.offset = day, offset
        super().__init__(what)


def check_causal(
    model: Any, features: int, horizons: int = 1, context: int = 20, *, days: int = 5, codes: int = 6, seed: int = 0,
    **options: Any,
) -> None:  # fmt: skip
    """Raise LookAhead where a network's score depends on a day that it must not see, or not on its own day.

    Days are counted within a block of `days` scored days. Also checked: shapes, that a day's score is the same in any
    block and whatever codes without a row are in it, and independence of codes where the network claims it. The network
    itself is left as it is.

    Args:
        model: a module, its factory, or the name of one, `package.module:factory`.
        features: F. horizons: H. context: most days that a score may look back on, its own included.
        options: of the factory.

    Raises InputError where it cannot be built or gives other shapes.
    """
    if isinstance(model, nn.Module):
        own = OwnNetwork(type(model).__name__, model, features, horizons, context, 0)
    else:
        name = model if isinstance(model, str) else remember(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            own = build_own(ModelConfig(name=name, options=options, quantiles=()), features, horizons, context)
    check_network(own, days=days, codes=codes, seed=seed)


def check_own(config: Config) -> None:
    """Raise InputError where the network of a resolved configuration looks ahead."""
    data, model = config.data, config.model
    assert data.features is not None
    assert data.horizons is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        own = build_own(model, len(data.features), len(data.horizons), data.context)
    try:
        check_network(own)
    except LookAhead as error:
        raise InputError("model.name", str(error), "Mend its forward; engine.check_causal tries it alone") from error


def check_network(own: OwnNetwork, *, days: int = 4, codes: int = 4, seed: int = 0) -> None:
    """`check_causal` of an adapted network; a few dozen forwards of a small block."""
    random = torch.Generator().manual_seed(seed)
    block = _Block(own, days, codes, random)
    for training in (False, True):
        block.set_mode(training)
        _check_days(block, " in training" if training else "")
        if own.codes_are_independent:
            _check_codes(block)
    block.set_mode(False)
    _check_padding(block)  # in evaluation, as random draws go by the shape of the block
    _check_windows(block)


class _Block:
    """A block, a copy of the network, and its scores."""

    def __init__(self, own: OwnNetwork, days: int, codes: int, random: torch.Generator) -> None:
        self.own, self.days, self.reach, self.random = copy.deepcopy(own).cpu(), days, own.reach, random
        rows = days + own.reach - 1
        self.present = (torch.rand(codes, rows, generator=random) > 0.1).float()
        self.present[0] = 1.0
        self.x = torch.randn(codes, rows, own.features, generator=random) * self.present[..., None]
        self.scored = self.present * (torch.rand(codes, rows, generator=random) > 0.2)
        self.scored[0] = 1.0
        for parameter in self.own.parameters():
            parameter.data.add_(SPREAD * torch.randn(parameter.shape, generator=random))
        if not torch.isfinite(self.scores_of(self.x, self.present, self.scored)).all():
            self.own = copy.deepcopy(own).cpu()  # weights that nothing may be added to
        self.set_mode(False)

    def set_mode(self, training: bool) -> None:
        self.own.train(training)
        self.scores = self.scores_of(self.x, self.present, self.scored)
        self.least = TOLERANCE * float(self.scores.abs().max())

    @torch.no_grad()
    def scores_of(self, x: Tensor, present: Tensor, scored: Tensor) -> Tensor:
        """Scores [S, D, H] of x [S, D + C - 1, F], by the network as it was, with the same random draws each time."""
        network = copy.deepcopy(self.own.network) if any(True for _ in self.own.buffers()) else self.own.network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = network(x, present, scored) if self.own.sees_scored else network(x, present)
        scores: Tensor = found[0] if isinstance(found, tuple) else found
        wanted = (len(x), x.shape[1] - self.reach + 1, self.own.horizons)
        if tuple(scores.shape) != wanted:
            what = f"{self.own.name} gave scores {tuple(scores.shape)} of x {tuple(x.shape)}, not {wanted}"
            raise InputError("model.name", what, "Give [S, D, H], D = T - context + 1")
        return scores

    def changed(self, rows: range | list[int], codes: slice = slice(None)) -> Iterator[tuple[str, Tensor]]:
        """What is changed on these rows, and which scores [S, D] change with it."""
        rows = list(rows)
        if not rows:
            return
        x, present, scored = self.x.clone(), self.present.clone(), self.scored.clone()
        shape = x[codes][:, rows].shape
        x[codes, rows] = 3 * torch.randn(shape, generator=self.random)  # of absent rows too: they are seen by presence
        yield "features", self.differs(self.scores_of(x, self.present, self.scored))
        present[codes, rows] = 1 - present[codes, rows]
        yield "presence", self.differs(self.scores_of(self.x, present, self.scored))
        if self.own.sees_scored:
            scored[codes, rows] = 1 - scored[codes, rows]
            yield "universe", self.differs(self.scores_of(self.x, self.present, scored))

    def differs(self, scores: Tensor) -> Tensor:
        """Which of the scores [S, D, H] are others than the block's, [S, D]."""
        same = (scores - self.scores).abs() <= self.least  # False for what is not finite
        return ~same.all(-1)


def _check_days(block: _Block, when: str) -> None:
    own, reach = block.own.name, block.reach
    for day in range(block.days):
        here = day + reach - 1
        for what, rows in (
            ("a later day", range(here + 1, block.x.shape[1])),
            ("a day beyond its context", range(day)),
        ):
            for kind, differs in block.changed(rows):
                if not differs[:, day].any():
                    continue
                offset = next((row - here for row in _nearest(rows, here) if _alone(block, row, kind, day)), None)
                which = f"day {day + offset} ({offset:+d})" if offset is not None else "several such days together"
                text = f"the score of day {day} of {own}{when} changes with the {kind} of {what}: {which}"
                raise LookAhead(f"{text}; its context is {reach} days", day, offset)
        kind, differs = next(block.changed([here]))
        if not differs[:, day].any():
            raise LookAhead(
                f"the score of day {day} of {own}{when} does not depend on the {kind} of its own day", day, 0
            )


def _nearest(rows: range, here: int) -> list[int]:
    return sorted(rows, key=lambda row: abs(row - here))


def _alone(block: _Block, row: int, kind: str, day: int) -> bool:
    """Whether a change of this row alone changes the score of the day."""
    return any(bool(differs[:, day].any()) for found, differs in block.changed([row]) if found == kind)


def _check_codes(block: _Block) -> None:
    for kind, differs in block.changed(range(block.x.shape[1]), slice(1, None)):
        if differs[0].any():
            day = int(differs[0].nonzero()[0, 0])
            what = f"{block.own.name} claims codes_are_independent, and a score changes with the {kind} of other codes"
            raise LookAhead(what, day)


def _check_padding(block: _Block) -> None:
    """Blocks hold codes without any row, as many as there happen to be."""
    inputs = (torch.cat([array, torch.zeros_like(array[:2])]) for array in (block.x, block.present, block.scored))
    differs = block.differs(block.scores_of(*inputs)[: len(block.x)])
    if differs.any():
        what = f"a score of {block.own.name} changes with codes that have no row in its block; weigh codes by `present`"
        raise LookAhead(what, int(differs.any(0).nonzero()[0, 0]))


def _check_windows(block: _Block) -> None:
    """A day's score in the block is that of the day's window alone."""
    for day in range(block.days):
        rows = slice(day, day + block.reach)
        alone = block.scores_of(block.x[:, rows], block.present[:, rows], block.scored[:, rows])[:, 0]
        if not ((alone - block.scores[:, day]).abs() <= block.least).all():
            what = f"the score of day {day} of {block.own.name} is another one where its block has other days"
            raise LookAhead(what, day)
