"""Cross-sectional attention: each code attends to the day's others through a few learned market tokens.

S codes, D days, M tokens, d width
"""

import torch
from torch import Tensor, nn


class MarketAttention(nn.Module):
    """[S, D, d] -> [S, D, d]: tokens read all present codes of a day, then each code reads the tokens. O(S M), no S^2.

    Two attentions as in induced sets (Lee et al. 2019, "Set Transformer"). The tokens read a mean over codes with
    weights, so a random group of the day's codes gives nearly what all codes would. The last layer begins at 0, so the
    block begins as the identity.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.key_value = nn.Linear(width, 2 * width)
        self.token = nn.Parameter(torch.randn(tokens, width) * width**-0.5)
        self.query = nn.Linear(width, width)
        self.token_key = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """present: [S, D] float 0/1. Days without a present code take the mean of all entries, which nothing reads."""
        scale = x.shape[-1] ** -0.5
        key, value = self.key_value(x).chunk(2, -1)
        logits = torch.einsum("md,scd->cms", self.token, key) * scale
        absent = (present.T == 0)[:, None, :]
        market = torch.einsum("cms,scd->cmd", torch.softmax(logits.masked_fill(absent, -1e4), -1), value)
        read = torch.einsum("scd,cmd->scm", self.query(x), self.token_key(market)) * scale
        return x + self.out(torch.einsum("scm,cmd->scd", torch.softmax(read, -1), market))
