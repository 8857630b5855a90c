"""What a score depends on: exactly its own window, through every part, and nothing else."""

import numpy as np
import pytest
import torch

from engine.config import ModelConfig
from engine.model.atft.embedding import Basis, Embedding
from engine.model.atft.market import MarketAttention
from engine.model.atft.temporal import AdaptiveNorm, BandedAttention, BandedConvolution, BandedRecurrence, windowed
from engine.model.registry import build_model
from engine.model.residual import CodeDropout, Noise
from loaders.gather import gather
from loaders.plan import Block
from loaders.split import Days
from tests.panels import write_panel

L, D, F, H = 12, 9, 5, 2
WHOLE = {  # what is off by default
    "residual": True, "normalisation": True, "attention": True, "convolution": "lags", "gaussian": True,
    "market_tokens": 3,
}  # fmt: skip
OFF = {"market_tokens": 0, "convolution": "off"}
every_kind = pytest.mark.parametrize(
    ("size", "switches"),
    [
        ("tiny", {}), ("small", {}), ("base", {}), ("tiny", WHOLE), ("base", WHOLE), ("tiny", {"static": False}),
        ("tiny", {"convolution": "off"}), ("tiny", {"convolution": "lags"}), ("tiny", {"recurrence": False}),
    ],
    ids=str,
)  # fmt: skip


def block(codes=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    present = (torch.rand(codes, D + L - 1, generator=generator) > 0.15).float()
    return torch.randn(codes, D + L - 1, F, generator=generator) * present[..., None], present


def model(size="tiny", context=L, **switches):
    config = ModelConfig(size=size, spans=(3, 6), **switches)
    net = build_model(config, F, H, context, seed=1).eval()
    random = torch.Generator().manual_seed(0)  # what begins at 0 and would be seen nowhere
    if net.market is not None:
        torch.nn.init.normal_(net.market.out.weight, generator=random)
    if net.static is not None and net.static.convolution is not None:
        torch.nn.init.normal_(net.static.convolution.mix, generator=random)
    return net


@every_kind
@torch.no_grad()
def test_block_scores_are_window_scores(size, switches):
    x, present = block()
    net = model(size, **switches)
    scores, quantiles = net(x, present)
    assert scores.shape == (30, D, H)
    assert quantiles.shape == (30, D, H, 3)
    for day in range(D):
        alone, alone_quantiles = net(x[:, day : day + L], present[:, day : day + L])
        assert float((alone[:, 0] - scores[:, day]).abs().max()) <= 1e-5
        assert float((alone_quantiles[:, 0] - quantiles[:, day]).abs().max()) <= 1e-5


@torch.no_grad()
def test_panel_block_scores_are_single_window_scores(tmp_path):
    panel = write_panel(tmp_path / "cache")
    part = Days(20, 100)
    net = model()
    whole = gather(panel, part, Block(40, np.arange(len(panel.offset))), D, L)
    scores, _ = net(whole.x, (whole.presence > 0).float())
    for day in range(D):
        window = gather(panel, part, Block(40 + day, whole.block.codes), 1, L)
        alone, _ = net(window.x, (window.presence > 0).float())
        assert float((alone[:, 0] - scores[:, day]).abs().max()) <= 1e-5


@every_kind
@torch.no_grad()
def test_a_score_never_looks_ahead_bitwise(size, switches):
    x, present = block()
    net = model(size, **switches)
    before, _ = net(x, present)
    for day in range(D - 1):
        later, later_present = x.clone(), present.clone()
        later[:, L + day :] = torch.randn(30, D - 1 - day, F) * 5
        later_present[:, L + day :] = 1 - later_present[:, L + day :]
        after, _ = net(later, later_present)
        assert torch.equal(after[:, : day + 1], before[:, : day + 1])
        assert not torch.equal(after[:, day + 1], before[:, day + 1])


@every_kind
@torch.no_grad()
def test_a_score_depends_on_each_of_its_days_and_no_other(size, switches):
    x, _ = block()
    present = torch.ones(30, D + L - 1)
    net = model(size, **switches)
    before, _ = net(x, present)
    target = D - 1
    for lag in range(D + L - 1):
        moved = x.clone()
        moved[:, L - 1 + target - lag] += 10.0  # far: float32 is to show what six layers in a row leave of it
        after, _ = net(moved, present)
        changed = (after[:, target] != before[:, target]).any(-1)
        assert bool(changed.all()) if lag < L else not bool(changed.any())


@torch.no_grad()
def test_a_score_depends_on_its_own_code_only():
    x, present = block()
    net = model()
    before, _ = net(x, present)
    moved = x.clone()
    moved[3] += 1.0
    after, _ = net(moved, present)
    others = [i for i in range(30) if i != 3]
    assert torch.equal(after[others], before[others])


@torch.no_grad()
def test_market_tokens_carry_the_day_of_present_codes_to_the_others():
    x, present = block()
    present[:, L - 1 :] = 1.0
    present[5] = 0.0
    net = model(market_tokens=3)
    before, _ = net(x, present)
    for code, seen in ((3, True), (5, False)):
        moved = x.clone()
        moved[code, L - 1 + 4] += 1.0
        after, _ = net(moved, present)
        others = [i for i in range(30) if i != code]
        changed = (after[others] != before[others]).any(-1)
        assert changed[:, 4].all() if seen else not changed.any()
        assert not changed[:, :4].any()


@every_kind
@torch.no_grad()
def test_absent_days_hold_nothing(size, switches):
    x, present = block()
    present[:, L - 1 :] = 1.0
    net = model(size, **switches)
    before, _ = net(x, present)
    filled = torch.where(present[..., None] > 0, x, torch.tensor(9.0))
    after, _ = net(filled, present)
    assert torch.equal(after, before)


@pytest.mark.parametrize(
    "switch",
    [
        "selection", "residual", "normalisation", "attention", "convolution", "recurrence", "static", "market_tokens",
        "gaussian",
    ],
)  # fmt: skip
@torch.no_grad()
def test_each_switch_changes_the_model(switch):
    x, present = block()
    full, without = model(**WHOLE), model(**WHOLE | {switch: OFF.get(switch, False)})
    parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in (("on", full), ("off", without))}
    assert parameters["on"] != parameters["off"]
    assert not torch.equal(full(x, present)[0], without(x, present)[0])


@pytest.mark.parametrize("field", ["dropout", "feature_dropout"])
def test_dropout_acts_in_training_alone_and_alike_on_all_days(field):
    x, present = block()
    net, without = (model(**{"dropout": 0.0, "feature_dropout": 0.0, field: rate}) for rate in (0.5, 0.0))
    assert torch.equal(net(x, present)[0], without(x, present)[0])
    assert not torch.equal(net.train()(x, present)[0], without(x, present)[0])
    layer = CodeDropout(0.3, 50).train()
    dropped = layer(torch.ones(200, 7, 50))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.7])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)


def test_noise_is_of_its_deviation_and_in_training_alone():
    x, present = block()
    net, without = (model(dropout=0.0, feature_noise=deviation) for deviation in (0.5, 0.0))
    assert torch.equal(net(x, present)[0], without(x, present)[0])
    assert not torch.equal(net.train()(x, present)[0], without(x, present)[0])
    torch.manual_seed(0)
    noise = Noise(0.5, 50).train()
    added = noise(torch.full((300, 7, 50), 2.0)) - 2
    assert float(added.mean()) == pytest.approx(0, abs=0.01)
    assert float(added.std()) == pytest.approx(0.5, rel=0.02)


@every_kind
def test_every_parameter_gets_a_gradient(size, switches):
    x, present = block()
    net = model(size, **switches).train()
    scores, quantiles = net(x, present)
    (scores.square().sum() + quantiles.square().sum()).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@torch.no_grad()
def test_adaptive_norm_is_the_loop_over_days():
    x, present = block(codes=4)
    layer = AdaptiveNorm(F, (3, 6))
    layer.mix.copy_(torch.randn(3, F))
    mix = torch.softmax(layer.mix, 0)
    out = layer(x, present)
    assert out.shape == (4, D + L - 1 - 5, F)
    for code in range(4):
        for day in range(5, D + L - 1):
            expected = mix[0] * x[code, day]
            for i, span in enumerate((3, 6)):
                days = [d for d in range(day - span + 1, day + 1) if present[code, d] > 0]
                seen = x[code, days] if days else torch.zeros(1, F)
                deviation = (seen.var(0, correction=0) + 0.1).sqrt()
                expected = expected + mix[i + 1] * (x[code, day] - seen.mean(0)) / deviation
            torch.testing.assert_close(out[code, day - 5], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_banded_attention_is_the_loop_over_lags():
    width, heads, window = 8, 2, 4
    x, present = block(codes=3)
    x = torch.randn(3, D + L - 1, width)
    layer = BandedAttention(width, heads, window, 0.0)
    layer.bias.copy_(torch.randn(heads, window))
    out = layer(x, present)
    query, (key, value) = layer.query(x), layer.key_value(x).chunk(2, -1)
    for code in range(3):
        for day in range(window - 1, D + L - 1):
            mixed = []
            for h in range(heads):
                part = slice(h * width // heads, (h + 1) * width // heads)
                lags = [lag for lag in range(window) if lag == 0 or present[code, day - lag] > 0]
                logits = torch.stack(
                    [query[code, day, part] @ key[code, day - lag, part] / 2.0 + layer.bias[h, lag] for lag in lags]
                )
                weights = torch.softmax(logits, 0)
                mixed.append(sum(w * value[code, day - lag, part] for w, lag in zip(weights, lags, strict=True)))
            expected = layer.norm(x[code, day] + layer.out(torch.cat(mixed)))
            torch.testing.assert_close(out[code, day - window + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("window", "half_lives"), [(1, [1]), (4, [1]), (5, [1, 4]), (20, [1, 4, 16]), (6, None)])
@torch.no_grad()
def test_banded_convolution_is_the_loop_over_lags(window, half_lives):
    """Over more days than it takes at a time, and not a multiple of them."""
    width, heads, days = 8, 2, 2 * BandedConvolution.DAYS + 5
    x, present = torch.randn(3, days + window - 1, width), (torch.rand(3, days + window - 1) > 0.2).float()
    layer = BandedConvolution(heads, window, decays=half_lives is not None)
    assert layer.mix.shape == (heads, window if half_lives is None else len(half_lives))
    assert not layer(x, present).any()
    layer.mix.copy_(torch.randn(layer.mix.shape))
    weight = layer.mix
    if half_lives is not None:
        decays = torch.tensor([[0.5 ** (lag / half_life) for lag in range(window)] for half_life in half_lives])
        weight = layer.mix @ (decays / decays.sum(1, keepdim=True))
    weight = weight.repeat_interleave(width // heads, 0)  # of each channel
    expected = torch.zeros(3, days, width)
    for day in range(days):
        for lag in range(window):
            earlier = day + window - 1 - lag
            expected[:, day] += weight[:, lag] * x[:, earlier] * present[:, earlier, None]
    torch.testing.assert_close(layer(x, present), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 8, 13, 20])
def test_windowed_states_and_their_gradients_are_those_of_the_loop(window):
    random = torch.Generator().manual_seed(window)
    decay, added = (torch.rand(3, 20, 4, generator=random, dtype=torch.float64).requires_grad_() for _ in range(2))
    states = []
    for day in range(window - 1, 20):
        state = torch.zeros(3, 4, dtype=torch.float64)
        for earlier in range(day - window + 1, day + 1):
            state = decay[:, earlier] * state + added[:, earlier]
        states.append(state)
    expected, found = torch.stack(states, 1), windowed(decay, added, window)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(expected.shape, generator=random, dtype=torch.float64)
    of_found, of_expected = (
        torch.autograd.grad((x * weight).sum(), (decay, added), allow_unused=True) for x in (found, expected)
    )
    for ours, theirs in zip(of_found, of_expected, strict=True):
        # The decay of a window's first day meets a state of 0; torch says None where it never enters.
        torch.testing.assert_close(ours if ours is not None else torch.zeros_like(decay), theirs)


@torch.no_grad()
def test_banded_recurrence_is_the_loop_over_days():
    width, window = 8, 5
    _, present = block(codes=3)
    x = torch.randn(3, D + L - 1, width)
    layer = BandedRecurrence(width, window, 0.0)
    out = layer(x, present)
    forget, new, gate = torch.sigmoid(layer.forget(x)), torch.tanh(layer.inner(x)), torch.sigmoid(layer.gate(x))
    for code in range(3):
        for day in range(window - 1, D + L - 1):
            state = torch.zeros(width)
            for earlier in range(day - window + 1, day + 1):
                if present[code, earlier] > 0:
                    state = (1 - forget[code, earlier]) * state + forget[code, earlier] * new[code, earlier]
            expected = layer.norm(x[code, day] + layer.out(state * gate[code, day]))
            torch.testing.assert_close(out[code, day - window + 1], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_market_attention_is_the_loop_over_days():
    x, present = block(codes=6)
    x, width = torch.randn(6, 4, 8), 8
    present = present[:, :4]
    layer = MarketAttention(width, 3)
    layer.out.weight.normal_()
    out = layer(x, present)
    key, value = layer.key_value(x).chunk(2, -1)
    for day in range(4):
        there = present[:, day] > 0
        weights = torch.softmax(layer.token @ key[there, day].T / width**0.5, -1)
        market = weights @ value[there, day]
        read = torch.softmax(layer.query(x[:, day]) @ layer.token_key(market).T / width**0.5, -1) @ market
        torch.testing.assert_close(out[:, day], x[:, day] + layer.out(read), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_basis_adds_up_to_the_value_and_spreads_the_tails():
    x = torch.linspace(-4, 4, 101)
    basis = Basis(8, False)(x)
    edge = Basis.RANGE
    torch.testing.assert_close(basis.sum(-1) - edge, x, rtol=0, atol=1e-5)
    inside = (x > -edge + 3 * 0.4375) & (x < -edge + 4 * 0.4375)  # the fourth of eight pieces
    assert (basis[inside][:, [0, 1, 2]] == 0.4375).all()
    assert (basis[inside][:, 4:] == 0).all()
    normal = Basis(1, True)(torch.tensor([-1.75, 0.0, 0.875, 9.0]))
    # Of a uniform rank of 3/4, the upper quartile of a normal distribution.
    torch.testing.assert_close(normal[1:3, 1], torch.tensor([0.0, 0.67449]), rtol=0, atol=1e-4)
    assert torch.isfinite(normal).all()


@torch.no_grad()
def test_selection_weighs_features_and_says_how():
    layer = Embedding(F, 8, 0.0, bins=4)
    x, _ = block(codes=3)
    weights = layer.weights(x)
    torch.testing.assert_close(weights.mean(-1), torch.ones(3, D + L - 1))
    basis = layer.basis(x)
    expected = layer.slope.bias.expand(3, D + L - 1, 8).clone()
    for f in range(F):
        slope = layer.slope.weight[:, f * 4 : f * 4 + 4]
        expected += weights[..., f, None] * (basis[..., f, :] @ slope.T + layer.intercept.weight[:, f])
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"model\.selection is off"):
        Embedding(F, 8, 0.0, selection=False).weights(x)
