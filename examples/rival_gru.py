"""The GRU of Qlib's benchmark as a rival: two layers over a code's last days, and a linear head on the last state.

    atft-engine train --arrow CACHE --model examples.rival_gru:gru

Sizes are those of `examples/benchmarks/GRU/workflow_config_gru_Alpha158.yaml` in microsoft/qlib: hidden_size 64,
num_layers 2, dropout 0.0, step_len 20. What trains it there: lr 2e-4, batches of 800 samples of any day, mean squared
error on ranks, at most 200 epochs with early_stop 10, and 20 features chosen beforehand. Here it is trained as any
other network: the same blocks, features, loss, schedule, seeds and helpers.

Qlib gives it each sample's 20 days. So the state begins at zero for every scored day, `days` - 1 days before it, and no
score looks back further, wherever its block begins. All scored days of a block take a step together. A day without a
row is a day of zeros, as a missing value is in Qlib.

S codes, T days, D = T - days + 1 scored days, F features, H horizons, W width
"""

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """Layers of torch's `nn.GRU` in operators that several seeds can be computed with at once."""

    codes_are_independent = True

    def __init__(self, features: int, horizons: int, days: int, width: int, layers: int) -> None:
        super().__init__()
        self.context = days
        below = [features] + [width] * (layers - 1)  # values that a layer is given
        self.inputs = nn.ModuleList(nn.Linear(size, 3 * width) for size in below)
        self.states = nn.ModuleList(nn.Linear(width, 3 * width) for _ in below)
        for parameter in [*self.inputs.parameters(), *self.states.parameters()]:
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)  # as torch's own
        self.head = nn.Linear(width, horizons)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Scores [S, D, H] of x [S, T, F], 0 where a code has no row; `present` is not looked at."""
        scored = x.shape[1] - self.context + 1
        first = self.inputs[0](x)  # [S, T, 3 W], which all windows share
        state = [first.new_zeros(x.shape[0], scored, self.head.in_features)] * len(self.inputs)
        for day in range(self.context):
            given = first[:, day : day + scored]
            for k, (inputs, states) in enumerate(zip(self.inputs, self.states, strict=True)):
                if k:
                    given = inputs(state[k - 1])
                state[k] = _step(given, states(state[k]), state[k])
        return self.head(state[-1])


def _step(given: Tensor, remembered: Tensor, state: Tensor) -> Tensor:
    """The next state [S, D, W]; the first two are what input and state add to reset, update and new, [S, D, 3 W]."""
    reset, update, new = given.chunk(3, -1)
    by_reset, by_update, by_new = remembered.chunk(3, -1)
    new = torch.tanh(new + torch.sigmoid(reset + by_reset) * by_new)
    return new + torch.sigmoid(update + by_update) * (state - new)


def gru(features: int, horizons: int, context: int, *, days: int = 20, width: int = 64, layers: int = 2) -> nn.Module:
    """The factory; `days` is at most `data.context`."""
    return GRU(features, horizons, min(days, context), width, layers)
