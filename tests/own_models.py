"""Networks, terms and callbacks of a user's own, which tests name as `tests.own_models:NAME`."""

import torch
from torch import nn

import engine

C = 3  # days that the networks look back on


class Windows(nn.Module):
    """A layer on the last C days of a code."""

    context = C
    codes_are_independent = True

    def __init__(self, features, horizons, context, width=8):
        super().__init__()
        self.inner = nn.Linear(C * features, width)
        self.head = nn.Linear(width, horizons)

    def forward(self, x, present):
        windows = x.unfold(1, C, 1).flatten(2)
        return self.head(torch.tanh(self.inner(windows)))


class Market(Windows):
    """Codes see the day's mean."""

    codes_are_independent = False

    def forward(self, x, present):
        scores, here = super().forward(x, present), present[:, C - 1 :, None]
        return scores - 0.5 * (scores * here).sum(0) / here.sum(0).clamp(min=1) * x[:, C - 1 :, :1]


class Universe(Windows):
    """Codes see the mean over the day's universe, and whether they are in it."""

    codes_are_independent = False
    sees_scored = True

    def forward(self, x, present, scored):
        scores, member = super().forward(x, present), scored[:, C - 1 :, None]
        mean = (scores * member).sum(0) / member.sum(0).clamp(min=1)
        return scores - 0.5 * mean * x[:, C - 1 :, :1] + member * scores.square()


class MeanOfAll(Windows):
    """Codes see a mean over all codes, those without a row included."""

    codes_are_independent = False

    def forward(self, x, present):
        scores = super().forward(x, present)
        return scores - 0.5 * scores.mean(0)


class Busy(Windows):
    """Draws random numbers, and counts its steps in a buffer."""

    def __init__(self, features, horizons, context, width=8, dropout=0.3):
        super().__init__(features, horizons, context, width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(features))

    def forward(self, x, present):
        if self.training:
            self.steps += 1
            self.mean = 0.9 * self.mean + 0.1 * x.detach().sum((0, 1)) / present.sum()
        windows = x.unfold(1, C, 1).flatten(2)
        return self.head(self.dropout(torch.tanh(self.inner(windows))))


class Quantiles(Windows):
    """Three quantiles beside the score."""

    def __init__(self, features, horizons, context, width=8):
        super().__init__(features, horizons, context, width)
        self.quantiles = nn.Linear(width, horizons * 3)

    def forward(self, x, present):
        hidden = torch.tanh(self.inner(x.unfold(1, C, 1).flatten(2)))
        return self.head(hidden), self.quantiles(hidden).unflatten(-1, (-1, 3))


class Recurrent(nn.Module):
    """torch's GRU, which vmap cannot map; begun anew for every day."""

    context = C
    codes_are_independent = True

    def __init__(self, features, horizons, context):
        super().__init__()
        self.unit = nn.GRU(features, 8, batch_first=True)
        self.head = nn.Linear(8, horizons)

    def forward(self, x, present):
        windows = x.unfold(1, C, 1).transpose(-1, -2)
        return self.head(self.unit(windows.flatten(0, 1))[1][0].unflatten(0, windows.shape[:2]))


class Bidirectional(nn.Module):
    """Looks ahead: reads all days in both directions."""

    context = C

    def __init__(self, features, horizons, context):
        super().__init__()
        self.unit = nn.GRU(features, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, horizons)

    def forward(self, x, present):
        return self.head(self.unit(x)[0])[:, C - 1 :]


class Forwards(Bidirectional):
    """Looks back on all days of the block, beyond its context."""

    def __init__(self, features, horizons, context):
        super().__init__(features, horizons, context)
        self.unit = nn.GRU(features, 16, batch_first=True)


class Centred(nn.Module):
    """Looks ahead: a convolution around the scored day."""

    context = C

    def __init__(self, features, horizons, context):
        super().__init__()
        self.layer = nn.Conv1d(features, horizons, C, padding=1)

    def forward(self, x, present):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)[:, C - 1 :]


class NormOverDays(Windows):
    """Looks ahead in training: a batch norm whose statistics are those of the block's days."""

    def __init__(self, features, horizons, context):
        super().__init__(features, horizons, context)
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x, present):
        return super().forward(self.norm(x.transpose(1, 2)).transpose(1, 2), present)


class MeanOfBlock(Windows):
    """Looks ahead: scores less their mean over the block's days."""

    def forward(self, x, present):
        scores = super().forward(x, present)
        return scores - scores.mean(1, keepdim=True)


class LaterPresence(Windows):
    """Looks ahead at whether the code has a row on the next day."""

    def forward(self, x, present):
        return super().forward(x, present) * (1 + present.roll(-1, 1)[:, C - 1 :, None])


class LaterUniverse(Windows):
    """Looks ahead at whether the code is in the universe on the next day."""

    sees_scored = True

    def forward(self, x, present, scored):
        return super().forward(x, present) * (1 + scored.roll(-1, 1)[:, C - 1 :, None])


class Gate(Windows):
    """Looks ahead by a gate that is closed at first."""

    def __init__(self, features, horizons, context):
        super().__init__(features, horizons, context)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x, present):
        scores = super().forward(x, present)
        return scores + self.gate * scores.flip(1)


class Yesterday(Windows):
    """Does not read its own day."""

    def forward(self, x, present):
        return super().forward(torch.cat([x[:, :1], x[:, :-1]], 1), present)


class Position(Windows):
    """Adds the day's place in the block."""

    def forward(self, x, present):
        scores = super().forward(x, present)
        return scores + torch.arange(scores.shape[1])[:, None]


class FalseClaim(Market):
    codes_are_independent = True


def squares(scores, targets, mask):
    """[G]: mean squared distance of scores to returns in units of 2%."""
    return ((scores - 50 * targets).square() * mask).sum(-1) / mask.sum(-1)


def long_short(scores, targets, mask):
    """[]: minus the mean over days of the return of the scores as weights."""
    return -((scores * targets * mask).sum(-1) / (1 + (scores.abs() * mask).sum(-1))).mean()


def flat(scores, targets, mask):
    return 0 * scores.sum(-1)


def wrong_shape(scores, targets, mask):
    return scores


def not_finite(scores, targets, mask):
    return (scores * mask).sum() / mask.sum(-1).min()


class Recorder(engine.Callback):
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def on_start(self, run):
        self.told.append(("start", run.state.step))

    def on_epoch(self, run, result):
        self.told.append(("epoch", result))

    def on_validation(self, run, line):
        self.told.append(("validation", line))

    def on_end(self, run, summary):
        self.told.append(("end", summary))

    def on_failure(self, run, error):
        self.told.append(("failure", error))


class Broken(Recorder):
    """Raises in one of its hooks."""

    def __init__(self, hook="on_epoch", epoch=2):
        super().__init__()
        self.hook, self.epoch = hook, epoch

    def on_epoch(self, run, result):
        super().on_epoch(run, result)
        if self.hook == "on_epoch" and result.epoch == self.epoch:
            raise ValueError("no more\ndisk")

    def on_validation(self, run, line):
        super().on_validation(run, line)
        if self.hook == "on_validation" and line["epoch"] == self.epoch:
            raise ValueError("no more disk")
