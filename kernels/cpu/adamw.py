"""A step of AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization") on a model's flat weights: one
pass over its arrays in place of one for each operator.

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


def adamw_step(
    weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, average: Tensor, sizes: Tensor, steps: Tensor,
    trained: Tensor, *, learning_rate: float, weight_decay: float, clip: float, average_decay: float,
    betas: tuple[float, float], epsilon: float,
) -> None:  # fmt: skip
    """Clip the gradient, step down it, set it to 0, and let the average follow; all in place. Holds no GIL.

    Args:
        weights, gradient, mean, square: float32 [P], contiguous: the parameters one after the other, their gradients,
            and the moments.
        average: float32 [P] of the weights, average = decay * average + (1 - decay) * weights; or [0], none.
        sizes: int64 [N], floats of each parameter; they sum to P.
        steps: float32 [N], that each parameter has had.
        trained: float32 [N], above 0: the parameter is trained; else it stays as it is, and so do its moments.
        clip: largest norm of the gradient of all parameters together.

    A gradient that is not finite makes the weights so.
    """
    arrays = [array.numpy() for array in (weights, gradient, mean, square, average, sizes, steps, trained)]
    numbers = [learning_rate, weight_decay, clip, average_decay, *betas, epsilon]
    _step(*arrays, *numbers)
