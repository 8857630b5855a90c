"""The static branch: an embedding of each day's features, and a banded convolution over those of the days before.

S codes, T = D + L - 1 days, D scored days, F features, d width
"""

from torch import Tensor, nn

from engine.model.atft.embedding import Embedding
from engine.model.atft.temporal import BandedConvolution


class Static(nn.Module):
    """[S, T, F] -> [S, D, d]: each day's features embedded, the past days' added by lag, then refined.

    Args:
        embed: of a day's features, [S, T, F] -> [S, T, d].
        convolution: over the days before, None: each day for itself.
        refine: what comes after, [S, D, d] -> [S, D, d].
    """

    def __init__(self, embed: Embedding, width: int, convolution: BandedConvolution | None, refine: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Sequential(embed, nn.LayerNorm(width))
        self.convolution, self.refine = convolution, refine

    def forward(self, x: Tensor, present: Tensor, days: int) -> Tensor:
        """The last `days` days of x [S, T, F], present [S, T] float 0/1."""
        if self.convolution is None:
            return self.refine(self.embed(x[:, -days:]))
        embedded = self.embed(x)
        return self.refine(embedded[:, -days:] + self.convolution(embedded, present))
