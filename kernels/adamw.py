"""A step of AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization") on a model's flat weights, on a
CPU: one pass over its arrays in place of one for each operator.

N parameters, P floats of a row
"""

from torch import Tensor


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
    from kernels.cpu import adamw

    numbers = (learning_rate, weight_decay, clip, average_decay, *betas, epsilon)
    adamw.step(weights, gradient, mean, square, average, sizes, steps, trained, numbers)
