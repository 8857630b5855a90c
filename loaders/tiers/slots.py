"""Memory for blocks, allocated once and used by one load after another.

A slot is one piece of memory that holds a block's arrays, each beginning on a cache line:

    | x float32 [S, T, F] | y float32 [S, D, H] | presence uint8 [S, T] |

Training and scoring alternate with blocks of different shapes; both are cut from the same pieces. For a GPU they are
page-locked, which takes its time; without one, the first touch of fresh pages would cost as much as
filling them.

S codes, D scored days, L context, T = D + L - 1 days read, F features, H horizons
"""

import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from loaders.batch import Slot
from loaders.panel import Panel
from loaders.runs import LINE


@dataclass
class Pool:
    """Pieces of memory that no load uses at the moment."""

    locked: bool  # page-locked
    free: list[Tensor] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, nbytes: int, pieces: int) -> list[Tensor]:
        """That many pieces of at least that size, uint8; free ones first, those too small are let go."""
        with self.lock:
            fitting = [piece for piece in self.free if len(piece) >= nbytes]
            found, self.free = fitting[:pieces], fitting[pieces:]
        return found + [self._new(nbytes) for _ in range(pieces - len(found))]

    def give(self, pieces: list[Tensor]) -> None:
        """Pieces that nothing reads or writes any more."""
        with self.lock:
            self.free += pieces

    def _new(self, nbytes: int) -> Tensor:
        if self.locked:
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        return torch.from_numpy(np.empty(nbytes, np.uint8))  # NumPy asks for huge pages


def slot_bytes(panel: Panel, codes: int, days: int, context: int) -> int:
    """Size of a slot for blocks of up to that many codes."""
    return sum(_ends(panel, codes, days, context))


def slot_in(piece: Tensor, panel: Panel, codes: int, days: int, context: int) -> Slot:
    """The slot at the beginning of a piece of memory, uint8 of any device and `slot_bytes` or more."""
    x_bytes, y_bytes, _ = _ends(panel, codes, days, context)
    span, features, horizons = days + context - 1, len(panel.manifest.features), len(panel.manifest.horizons)
    x = piece[: codes * span * features * 4].view(torch.float32).view(codes, span, features)
    y = piece[x_bytes:][: codes * days * horizons * 4].view(torch.float32).view(codes, days, horizons)
    presence = piece[x_bytes + y_bytes :][: codes * span].view(codes, span)
    return Slot(x, presence, y)


def _ends(panel: Panel, codes: int, days: int, context: int) -> tuple[int, int, int]:
    """Bytes of x, y and presence, rounded up to lines."""
    span, features, horizons = days + context - 1, len(panel.manifest.features), len(panel.manifest.horizons)
    x, y, presence = codes * span * features * 4, codes * days * horizons * 4, codes * span
    return -(-x // LINE) * LINE, -(-y // LINE) * LINE, -(-presence // LINE) * LINE
