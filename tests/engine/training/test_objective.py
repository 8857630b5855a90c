"""A missing label is never trained as zero; the day's cross-section is the unit; weights are what the config says."""

import copy

import numpy as np
import pytest
import torch

from engine.config_file import load_config
from engine.model.registry import build_model
from engine.training.objective import WINSORISED, draw_rotations, make_objective
from kernels.rank_terms import TERMS, rank_terms, weigh
from kernels.ranks import average_ranks
from loaders.errors import InputError

CONFIG = load_config(None, [f"objective.{term}=0.5" for term in TERMS])


def objective(config, scores, quantiles, returns, step):
    """Loss and the terms that are on, by name."""
    made = make_objective(config, returns.shape[2], torch.device("cpu"))
    rotations = draw_rotations(made, len(returns), config.train.seed, step, torch.device("cpu"))
    loss, terms = made(scores, quantiles, returns, rotations)
    return loss, {name: term for name, term in zip(TERMS, terms, strict=True) if not term.isnan()}


def batch(seed=0, codes=40, days=6, horizons=2):
    rng = np.random.default_rng(seed)
    scores = torch.tensor(rng.normal(size=(codes, days, horizons)), dtype=torch.float32, requires_grad=True)
    quantiles = torch.tensor(rng.normal(size=(codes, days, horizons, 3)), dtype=torch.float32, requires_grad=True)
    returns = torch.tensor(rng.normal(size=(codes, days, horizons)) * 0.02, dtype=torch.float32)
    returns[rng.random((codes, days, horizons)) < 0.2] = torch.nan
    return scores, quantiles, returns


def test_missing_labels_get_no_gradient_and_others_do():
    scores, quantiles, returns = batch()
    loss, _ = objective(CONFIG, scores, quantiles, returns, 0)
    loss.backward()
    missing = ~torch.isfinite(returns)
    assert not scores.grad[missing].any()
    assert not quantiles.grad[missing].any()
    assert bool((scores.grad[~missing] != 0).all())


def test_removing_unlabelled_codes_changes_nothing():
    config = load_config(None, [])
    scores, quantiles, returns = batch()
    returns[:5] = torch.nan
    with_them, _ = objective(config, scores, quantiles, returns, 0)
    without, _ = objective(config, scores[5:], quantiles[5:], returns[5:], 0)
    assert float(with_them) == pytest.approx(float(without), rel=1e-5)


def test_loss_is_the_weighted_sum_of_its_terms():
    scores, quantiles, returns = batch()
    loss, terms = objective(CONFIG, scores, quantiles, returns, 0)
    assert set(terms) == set(TERMS)
    assert float(loss) == pytest.approx(sum(0.5 * float(v) for v in terms.values()), rel=1e-5)
    for term in ("rank_ic", "ic"):
        only = load_config(None, [f"objective.{t}={0.7 if t == term else 0}" for t in TERMS])
        single, found = objective(only, scores, quantiles, returns, 0)
        assert list(found) == [term]
        assert float(single) == pytest.approx(0.7 * float(terms[term]), rel=1e-5)


def test_days_are_separate_cross_sections_weighted_by_names():
    config = load_config(None, ["objective.sharpe=0", "objective.quantile=0", "objective.rank_ic=0"])
    scores, quantiles, returns = batch(horizons=1)
    returns[:20, 0] = torch.nan
    shifted = scores.detach() + torch.arange(6.0)[None, :, None]
    loss, _ = objective(config, shifted, quantiles, returns, 0)
    expected, names = 0.0, 0
    for day in range(6):
        valid = torch.isfinite(returns[:, day, 0])
        s = scores.detach()[valid, day, 0].numpy()
        rank = returns[valid, day, 0].numpy().argsort().argsort()
        expected += len(s) * (1 - np.corrcoef(s, rank)[0, 1])
        names += len(s)
    assert float(loss) == pytest.approx(0.3 * expected / names, rel=1e-4)


def test_a_block_without_labels_is_harmless():
    scores, quantiles, returns = batch()
    loss, _ = objective(CONFIG, scores, quantiles, torch.full_like(returns, torch.nan), 0)
    loss.backward()
    assert float(loss) == 0.0
    assert not scores.grad.any()


def test_horizons_count_by_their_weights():
    scores, quantiles, returns = batch()
    for h, weights in ((0, "[1.0, 0.0]"), (1, "[0, 2]")):
        config = load_config(None, [f"objective.horizon_weights={weights}", "objective.sharpe=0.1"])
        one = load_config(None, ["objective.sharpe=0.1"])
        part = [array[:, :, h : h + 1] for array in (scores, quantiles, returns)]
        weighed, alone = objective(config, scores, quantiles, returns, 0)[0], objective(one, *part, 0)[0]
        assert float(weighed) == pytest.approx(float(alone), rel=1e-5)
    with pytest.raises(InputError, match="3 weights for 2 horizons"):
        make_objective(load_config(None, ["objective.horizon_weights=[1, 1, 1]"]), 2, torch.device("cpu"))


def test_rotations_are_a_function_of_seed_and_step():
    made = make_objective(CONFIG, 1, torch.device("cpu"))
    first, again, other = (draw_rotations(made, 40, 0, step, torch.device("cpu")) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(set(first.tolist())) == CONFIG.objective.rotations
    assert 1 <= int(first.min()) <= int(first.max()) <= 39
    off = make_objective(load_config(None, []), 1, torch.device("cpu"))
    assert len(draw_rotations(off, 40, 0, 3, torch.device("cpu"))) == 0


def test_fifty_steps_are_those_of_the_objective_in_plain_torch():
    """The fused objective replaced one written in plain torch: the same start and data must give the same losses."""
    config = load_config(None, ["objective.rotations=4", *(f"objective.{term}=0.2" for term in TERMS)])
    made = make_objective(config, 2, torch.device("cpu"))
    start = build_model(config.model, 6, 2, config.data.context, 0)
    generator = torch.Generator().manual_seed(0)
    codes, days = 48, 4
    xs = torch.randn(50, codes, days + config.data.context - 1, 6, generator=generator)
    ys = xs[:, :, -days:, :2].cumsum(-1) * 0.02 + 0.02 * torch.randn(50, codes, days, 2, generator=generator)
    ys[torch.rand(ys.shape, generator=generator) < 0.1] = torch.nan

    def plain(scores, quantiles, returns, rotations):
        returns = returns.permute(2, 1, 0)
        mask = torch.isfinite(returns)
        ranks = average_ranks(torch.where(mask, returns, 0.0), mask.float())
        values = rank_terms(
            scores.permute(2, 1, 0), ranks, returns, mask, TERMS, quantiles=quantiles.permute(2, 1, 0, 3),
            levels=made.levels, tau=made.tau, temperature=made.temperature, rotations=rotations,
        )  # fmt: skip
        return weigh(values, mask, made.weights, made.horizons)

    def losses(objective):
        model = copy.deepcopy(start)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for step, (x, y) in enumerate(zip(xs, ys, strict=True)):
            torch.manual_seed(step)  # of the dropout
            rotations = draw_rotations(made, codes, 0, step, torch.device("cpu"))
            loss, _ = objective(*model(x, torch.ones(x.shape[:2])), y, rotations)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield float(loss.detach())

    ours, theirs = list(losses(made)), list(losses(plain))
    assert ours[-1] < ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)  # `sharpe` of 4 days runs to -12


@pytest.mark.parametrize(("target", "most"), [("z", np.inf), ("winsorised", WINSORISED)])
def test_targets_may_be_returns_rather_than_their_ranks(target, most):
    """`ic` and `huber` on a day with one wild return, by numpy."""
    settings = [f"objective.{term}={float(term in ('ic', 'huber'))}" for term in TERMS]
    scores, quantiles, returns = batch(codes=60, days=1, horizons=1)
    returns[7] = 2.5
    found, terms = objective(
        load_config(None, [*settings, f"objective.target={target}"]), scores, quantiles, returns, 0
    )
    valid = torch.isfinite(returns[:, 0, 0]).numpy()
    s, r = scores.detach().numpy()[valid, 0, 0].astype(float), returns.numpy()[valid, 0, 0].astype(float)
    wanted = np.clip((r - r.mean()) / r.std(), -most, most)
    assert float(terms["ic"]) == pytest.approx(1 - np.corrcoef(s, wanted)[0, 1], rel=1e-4)
    error = np.abs(s - (wanted - wanted.mean()) / wanted.std())
    huber = np.where(error < 1, error**2 / 2, error - 0.5).mean()
    assert float(terms["huber"]) == pytest.approx(huber, rel=1e-4)
    found.backward()
    assert bool(torch.isfinite(scores.grad).all())


def test_winsorised_targets_leave_the_returns_of_the_portfolio_alone():
    settings = [f"objective.{term}={float(term == 'sharpe')}" for term in TERMS]
    scores, quantiles, returns = batch()
    returns[3, 0] = 2.5
    values = [
        float(objective(load_config(None, [*settings, f"objective.target={target}"]), scores, quantiles, returns, 0)[0])
        for target in ("z", "winsorised")
    ]
    assert values[0] == values[1]
