"""AdamW of a model's flat weights in one pass over them.

N parameters, P floats of a row
"""

import numpy as np
from numba import float32
from torch import Tensor

from kernels.cpu.loops import compiled


@compiled
def _step(  # type: ignore[no-untyped-def]
    weights, gradient, mean, square, average, sizes, steps, trained, rate, decay, clip, keep, beta, beta_square, epsilon
):
    norm = 0.0
    for i in range(len(gradient)):
        norm += gradient[i] * gradient[i]
    scale = float32(min(clip / (np.sqrt(norm) + 1e-6), 1.0) if norm >= 0 else norm)  # not a number: nor is the step
    of_mean, of_square = float32(1 - beta), float32(1 - beta_square)
    shrink, small = float32(1 - rate * decay), float32(epsilon)
    begin = 0
    for n in range(len(sizes)):
        end = begin + sizes[n]
        if trained[n] > 0:
            steps[n] += 1
            length = float32(rate / (1 - beta ** steps[n]))
            correction = float32(1 / np.sqrt(1 - beta_square ** steps[n]))
            for i in range(begin, end):
                g = gradient[i] * scale
                m = mean[i] + (g - mean[i]) * of_mean
                v = square[i] + (g * g - square[i]) * of_square
                mean[i], square[i] = m, v
                weights[i] = weights[i] * shrink - length * m / (np.sqrt(v) * correction + small)
        begin = end
    gradient[:] = 0
    follow = float32(1 - keep)
    for i in range(len(average)):
        average[i] += (weights[i] - average[i]) * follow


def step(
    weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, average: Tensor, sizes: Tensor, steps: Tensor,
    trained: Tensor, numbers: tuple[float, ...],
) -> None:  # fmt: skip
    """See kernels.adamw.adamw_step."""
    _step(*(t.numpy() for t in (weights, gradient, mean, square, average, sizes, steps, trained)), *numbers)
