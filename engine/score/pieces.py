"""Scoring in pieces: as many codes and days at a time as the device has room for, or its caches.

S codes, D days
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from engine.config import Config
from engine.model.ensemble import Ensemble
from engine.threads import one_thread_each
from loaders.panel import Panel
from loaders.split import Days

PIECE = 1 << 12  # codes x scored days that a CPU's core computes at a time
VALUES = 1 << 25  # codes x days read x features that a GPU computes at a time: 128 MB, and ten times that in the layers


def block_days(model: Ensemble, panel: Panel, part: Days, config: Config, device: torch.device) -> int:
    """Scored days of a block: fewer on a GPU where all codes of a day have to be there at once and are many."""
    most = config.data.scoring_days
    if device.type == "cuda" and not model.codes_are_independent:
        rows = VALUES // (len(panel.offset) * len(panel.manifest.features))
        most = min(most, max(rows - config.data.context + 1, 1))
    # Blocks of equal length: a last one of few days would be computed to its full length all the same.
    return -(-len(part) // -(-len(part) // most))


class _InPieces(nn.Module):
    """A model whose codes do not see one another, on some of them at a time.

    All codes of a block at once make large arrays between the layers. Beside a GPU they are bounded by this. On a CPU
    they would be far beyond any cache, and of memory that the system hands out anew each time; there each piece has one
    thread. Threads that share the operators of a small piece would wait for one another at each, and many times as
    long as they compute where another process takes a core.

    Args:
        codes: of a piece.
        threads: one for each piece; None: one piece after another.
    """

    def __init__(self, member: nn.Module, codes: int, threads: ThreadPoolExecutor | None) -> None:
        super().__init__()
        self.member, self.codes, self.threads = member, codes, threads

    def forward(self, x: Tensor, present: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
        @torch.inference_mode()
        def piece(x: Tensor, present: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
            scores, quantiles = self.member(x, present, scored)
            return scores, quantiles

        over = map if self.threads is None else self.threads.map
        pieces = over(piece, *(array.split(self.codes) for array in (x, present, scored)))
        scores, quantiles = zip(*pieces, strict=True)
        return torch.cat(scores), torch.cat(quantiles)


@contextmanager
def in_pieces(model: Ensemble, days: int, context: int, features: int, device: torch.device) -> Iterator[Ensemble]:
    """The same model, whose members take codes in pieces, where they may; for blocks of so many days and features."""
    if not model.codes_are_independent:
        yield model
    elif device.type == "cuda":
        codes = max(VALUES // ((days + context - 1) * features), 1)
        yield model.with_members([_InPieces(member, codes, None) for member in model.members])
    else:
        codes = max(PIECE // days, 1)
        with one_thread_each(torch.get_num_threads(), "score") as threads:
            yield model.with_members([_InPieces(member, codes, threads) for member in model.members])
