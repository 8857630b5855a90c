"""One pass of AdamW is torch's, parameter by parameter."""

import pytest
import torch

from kernels.cpu.adamw import adamw_step

SIZES = [7, 16, 1, 300]
SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.1, "clip": 0.5, "betas": (0.9, 0.999), "epsilon": 1e-8}


def state(seed=0):
    torch.manual_seed(seed)
    total = sum(SIZES)
    weights = torch.randn(total)
    return [weights, torch.zeros(total), torch.zeros(total), torch.zeros(total), weights.clone()]


@pytest.mark.parametrize("scale", [0.001, 10.0])  # of gradients: not clipped, clipped
def test_steps_are_those_of_torch_in_float64(scale):
    weights, gradient, mean, square, average = state()
    steps, trained = torch.zeros(len(SIZES)), torch.tensor([1.0, 0.0, 1.0, 1.0])
    expected = [torch.nn.Parameter(piece.double()) for piece in weights.clone().split(SIZES)]
    on = [one for one, is_trained in zip(expected, trained, strict=True) if is_trained]
    optimizer = torch.optim.AdamW(on, lr=0.01, weight_decay=0.1)
    followed = weights.double()
    for i in range(20):
        given = scale * torch.randn(sum(SIZES), generator=torch.Generator().manual_seed(i))
        gradient.copy_(given)
        for one, piece in zip(expected, given.double().split(SIZES), strict=True):
            one.grad = piece.clone()
        torch.nn.utils.clip_grad_norm_(expected, 0.5)
        optimizer.step()
        now = torch.cat([one.detach() for one in expected])
        followed = 0.9 * followed + 0.1 * now
        adamw_step(
            weights, gradient, mean, square, average, torch.tensor(SIZES), steps, trained, average_decay=0.9, **SETTINGS
        )
        assert not gradient.any()
    torch.testing.assert_close(weights.double(), now, rtol=0, atol=2e-6)
    torch.testing.assert_close(average.double(), followed, rtol=0, atol=2e-6)
    assert steps.tolist() == [20, 0, 20, 20]
    assert not mean[7:23].any()


def test_a_gradient_that_is_not_finite_shows():
    for bad in (torch.nan, torch.inf):
        weights, gradient, mean, square, _ = state()
        gradient[3] = bad
        adamw_step(
            weights, gradient, mean, square, torch.empty(0), torch.tensor(SIZES), torch.zeros(4), torch.ones(4),
            average_decay=0.0, **SETTINGS,
        )  # fmt: skip
        assert not torch.isfinite(weights).all()
