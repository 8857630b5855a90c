"""The loss against float64 references: scipy's Spearman and Pearson, gradcheck, masks by leaving samples out."""

import numpy as np
import pytest
import torch
from scipy import stats

from engine import rank_loss
from kernels.rank_terms import TERMS

NAMES = [name for name in TERMS if name != "quantile"][:7]
ALONE = {"rank_ic": 0.0, "ic": 0.0}


def draw(days=6, codes=40, horizons=None, seed=0, kind=torch.float32):
    """Scores, and targets that agree with them in part, with ties and missing ones."""
    rng = np.random.default_rng(seed)
    shape = (days, codes) if horizons is None else (days, codes, horizons)
    scores = rng.standard_normal(shape)
    targets = np.round(0.02 * (scores + 2 * rng.standard_normal(shape)), 2)
    targets[rng.random(shape) < 0.15] = np.nan
    return torch.tensor(scores, dtype=kind), torch.tensor(targets, dtype=kind)


def by_day(scores, targets, statistic):
    """Mean over days, weighted by their samples, of a correlation by scipy."""
    values, samples = [], []
    for s, t in zip(scores.double().numpy(), targets.double().numpy(), strict=True):
        here = np.isfinite(t)
        values.append(statistic(s[here], t[here]).statistic)
        samples.append(here.sum())
    return np.average(values, weights=samples)


def test_with_narrow_soft_ranks_it_is_one_minus_spearman():
    scores, targets = draw()
    loss = rank_loss(scores, targets, rank_ic=1.0, ic=0.0, tau=1e-5)
    assert loss.item() == pytest.approx(1 - by_day(scores, targets, stats.spearmanr), abs=1e-5)


def test_ic_of_plain_targets_is_one_minus_pearson():
    scores, targets = draw()
    loss = rank_loss(scores, targets, rank_ic=0.0, ic=1.0, target="z")
    assert loss.item() == pytest.approx(1 - by_day(scores, targets, stats.pearsonr), abs=1e-6)


def test_the_order_decides():
    _, targets = draw()
    perfect = torch.nan_to_num(targets, nan=0.0)
    losses = [rank_loss(scores, targets).item() for scores in (perfect, torch.zeros_like(targets), -perfect)]
    assert losses[0] < 0.05 < losses[1] < losses[2]
    assert losses[1] == pytest.approx(1.0)


@pytest.mark.parametrize("target", ["rank", "z", "winsorised"])
@pytest.mark.parametrize("name", NAMES)
def test_every_term_passes_gradcheck_in_float64(name, target):
    scores, targets = draw(days=3, codes=7, horizons=2, kind=torch.float64)

    def loss(s):
        torch.manual_seed(0)
        return 2 * rank_loss(s, targets, **ALONE | {name: 0.7}, target=target, tau=0.3)

    assert torch.autograd.gradcheck(loss, scores.requires_grad_())


@pytest.mark.parametrize("target", ["rank", "z", "winsorised"])
@pytest.mark.parametrize("name", NAMES)
def test_float32_and_bfloat16_agree_with_float64(name, target):
    found = {}
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        scores, targets = draw(horizons=2)
        scores = scores.bfloat16().to(kind).requires_grad_()
        torch.manual_seed(0)
        loss = rank_loss(scores, targets, **ALONE | {name: 1.0}, target=target)
        (2 * loss).backward()
        found[kind] = loss.item(), scores.grad.double()
    exact = found.pop(torch.float64)
    for kind, (loss, gradient) in found.items():
        assert loss == pytest.approx(exact[0], rel=1e-4, abs=1e-5)
        rounding = 2.0**-8 if kind == torch.bfloat16 else 1e-3
        torch.testing.assert_close(gradient, exact[1], rtol=rounding, atol=rounding * exact[1].abs().max().item())


def test_what_is_no_sample_touches_nothing():
    scores, targets = draw(days=1)
    mask = torch.rand(1, 40, generator=torch.Generator().manual_seed(0)) < 0.7
    kept = (mask & torch.isfinite(targets))[0]
    alone = rank_loss(scores[:, kept], targets[:, kept])
    scores[0, ~kept] = torch.nan
    scores.requires_grad_()
    loss = rank_loss(scores, targets, mask)
    loss.backward()
    assert loss.item() == pytest.approx(alone.item(), abs=1e-6)
    assert not scores.grad[0, ~kept].any()
    assert scores.grad[0, kept].all()
    targets[0, kept] = torch.where(torch.arange(kept.sum()) == 0, torch.inf, targets[0, kept])
    one_less = kept.clone()
    one_less[torch.nonzero(kept)[0]] = False
    expected = rank_loss(scores[:, one_less], targets[:, one_less])
    assert rank_loss(scores, targets, mask).item() == pytest.approx(expected.item(), abs=1e-6)


def test_horizons_and_their_weights():
    scores, targets = draw(horizons=3)
    each = [rank_loss(scores[..., h], targets[..., h]) for h in range(3)]
    samples = torch.isfinite(targets).sum((0, 1)).double()
    mask = torch.ones(6, 40, dtype=torch.bool)  # of [D, S]: for all horizons
    assert rank_loss(scores, targets, mask).item() == pytest.approx(
        np.average([e.item() for e in each], weights=samples)
    )
    weights = torch.tensor([0.0, 2.0, 0.0])
    assert rank_loss(scores, targets, horizon_weights=weights).item() == pytest.approx(each[1].item(), abs=1e-6)
    exact = rank_loss(scores.double(), targets.double(), horizon_weights=weights)
    assert exact.item() == pytest.approx(each[1].item(), abs=1e-5)


def test_it_compiles_as_one_graph():
    scores, targets = draw(horizons=2)
    weights = {name: 0.5 for name in NAMES if name != "pairwise"}

    def loss(s, t):
        return rank_loss(s * 2, t, torch.ones_like(t, dtype=torch.bool), **weights)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = []
    for f in (loss, compiled):
        s = scores.clone().requires_grad_()
        f(s, targets).backward()
        gradients.append(s.grad)
    torch.testing.assert_close(*gradients)
    assert torch.isfinite(torch.compile(rank_loss, fullgraph=True, backend="aot_eager")(scores, targets, pairwise=1.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_is_the_same_on_cuda():
    scores, targets = draw(horizons=2)
    weights = {name: 0.5 for name in NAMES if name != "pairwise"}
    on_cuda, targets_there = scores.cuda().requires_grad_(), targets.cuda()
    rank_loss(on_cuda, targets_there, **weights)  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")  # nothing waits for the device
    try:
        loss = rank_loss(on_cuda, targets_there, **weights)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    scores.requires_grad_()
    here = rank_loss(scores, targets, **weights)
    here.backward()
    torch.testing.assert_close(loss.cpu(), here, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(on_cuda.grad.cpu(), scores.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("codes", [0, 1])
def test_fewer_than_two_codes_count_nothing(codes):
    scores = torch.zeros(3, codes, requires_grad=True)
    loss = rank_loss(scores, torch.zeros(3, codes), pairwise=1.0)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"targets": torch.zeros(4, 6)}, "give \\[days, codes\\]"),
        ({"mask": torch.ones(4, 5)}, "mask torch.float32"),
        ({"mask": torch.ones(5, dtype=torch.bool)}, "mask torch.bool"),
        ({"ic": -1.0}, "0 or more"),
        ({"ic": 0.0, "rank_ic": 0.0}, "at least one"),
        ({"target": "order"}, "rank, z, winsorised"),
    ],
)
def test_what_disagrees_is_refused(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        rank_loss(**{"scores": torch.zeros(4, 5), "targets": torch.zeros(4, 5)} | arguments)
