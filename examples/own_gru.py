"""A network of one's own: a gated recurrent unit that reads each code's last days.

    atft-engine train --arrow CACHE --model examples.own_gru:gru --set model.options.width=64

The unit begins anew for every scored day and reads that day and the `days - 1` before it, so a day's score is the same
in any block, and sees no further back than it says. All scored days take a step together: `days` steps for a block.

S codes, T days, D scored days, F features, H horizons, W width
"""

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """A GRU over the last days, the scored day's features beside it, and a linear head."""

    codes_are_independent = True  # the engine may give it some of a day's codes at a time

    def __init__(self, features: int, horizons: int, days: int, width: int, dropout: float) -> None:
        super().__init__()
        self.context = days  # that a score looks back on, its own included
        self.inputs = nn.Linear(features + 1, 3 * width)
        self.hidden = nn.Linear(width, 3 * width)
        self.beside = nn.Linear(features, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, horizons)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Scores [S, T - days + 1, H] of x [S, T, F] and present [S, T] (1, or 0 for a day without a row)."""
        gates = self.inputs(torch.cat([x, present[..., None]], -1))  # [S, T, 3 W]
        scored = x.shape[1] - self.context + 1
        state = torch.zeros_like(gates[:, :scored, : self.hidden.in_features])
        for day in range(self.context):
            reset, update, new = gates[:, day : day + scored].chunk(3, -1)
            by_reset, by_update, by_new = self.hidden(state).chunk(3, -1)
            keep = torch.sigmoid(update + by_update)
            state = keep * state + (1 - keep) * torch.tanh(new + torch.sigmoid(reset + by_reset) * by_new)
        state = state + torch.relu(self.beside(x[:, self.context - 1 :]))
        return self.head(self.dropout(state))


def gru(
    features: int, horizons: int, context: int, *, days: int = 5, width: int = 32, dropout: float = 0.0
) -> nn.Module:
    """The factory that `model.name` names; its keyword arguments are `[model.options]`."""
    return GRU(features, horizons, min(days, context), width, dropout)
