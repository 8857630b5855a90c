"""Terms of the loss of the user's own against their definition, in the trainer, resumed, batched and over ranks."""

import json

import numpy as np
import pytest
import torch

import engine
from engine.config_file import config_hash, load_config
from engine.errors import Stopped
from engine.training.objective import make_objective, stacked, term_names
from kernels.rank_terms import TERMS
from loaders.errors import InputError
from tests import own_models
from tests.conftest import SMALL

CPU = torch.device("cpu")
SQUARES, LONG_SHORT = "tests.own_models:squares", "tests.own_models:long_short"
NONE = torch.empty(0, dtype=torch.int32)
BOTH = [
    f"objective.own.squares={{term='{SQUARES}', weight=0.2}}",
    f"objective.own.long_short={{term='{LONG_SHORT}', weight=0.4}}",
]
S, D, H, Q = 20, 5, 2, 3


def block(seed=0, members=()):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(*members, S, D, H, generator=random)
    returns = 0.02 * torch.randn(*members, S, D, H, generator=random)
    returns[torch.rand(returns.shape, generator=random) < 0.2] = torch.nan
    returns[..., 1:, 2, :] = torch.nan  # a day of one entry, which counts nothing
    returns[..., 4, 0] = torch.nan  # a day of none, for one horizon
    return scores.requires_grad_(), torch.zeros(*members, S, D, H, Q), returns


def by_hand(scores, returns, weights):
    """Both terms in float64 by their definition, entry by entry."""
    scores, returns = scores.detach().double().numpy(), returns.double().numpy()
    total = entries = 0.0
    portfolios = []
    for h in range(H):
        daily = []
        for d in range(D):
            valid = np.isfinite(returns[:, d, h])
            s, r = scores[valid, d, h], returns[valid, d, h]
            daily.append(np.sum(s * r) / (1 + np.abs(s).sum()))
            if valid.sum() >= 2:
                total += weights[h] * valid.sum() * np.mean((s - 50 * r) ** 2)
                entries += weights[h] * valid.sum()
        portfolios.append(-np.mean(daily))
    return total / entries, float(np.average(portfolios, weights=weights))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0)])
def test_values_and_the_loss_are_those_of_the_definition(weights):
    settings = [*BOTH, f"objective.horizon_weights={list(weights)}"]
    objective = make_objective(load_config(None, settings), H, CPU)
    without = make_objective(load_config(None, settings[2:]), H, CPU)
    scores, quantiles, returns = block()
    loss, terms = objective(scores, quantiles, returns, NONE)
    fused, others = without(scores, quantiles, returns, NONE)
    expected = by_hand(scores, returns, weights)
    assert terms[len(TERMS) :].tolist() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(terms[: len(TERMS)], others, equal_nan=True)
    more = 0.2 * expected[0] + 0.4 * expected[1]
    assert float(loss.detach()) == pytest.approx(float(fused.detach()) + more, rel=1e-5)


def test_the_gradient_is_that_of_the_loss():
    """By differences in one direction; entries without a target get none."""
    objective = make_objective(load_config(None, [*BOTH, "objective.rank_ic=0", "objective.quantile=0"]), H, CPU)
    scores, quantiles, returns = block()
    (slope,) = torch.autograd.grad(2 * objective(scores, quantiles, returns, NONE)[0], scores)
    assert torch.isfinite(slope).all()
    assert not slope[torch.isnan(returns)].any()
    step = 1e-3 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ahead, behind = (objective(scores + sign * step, quantiles, returns, NONE)[0] for sign in (1, -1))
    assert float((slope * step).sum()) == pytest.approx(float(ahead - behind), rel=2e-3)


def test_members_have_what_each_has_alone_and_one_without_a_block_no_nan():
    configs = [load_config(None, BOTH), load_config(None, [*BOTH[:1], f"objective.own.long_short.term={LONG_SHORT}",
               "objective.own.long_short.weight=0"])]  # fmt: skip
    each = [make_objective(config, H, CPU) for config in configs]
    scores, quantiles, returns = block(members=(2,))
    losses, terms = stacked(each)(scores, quantiles, returns, NONE)
    for k, objective in enumerate(each):
        loss, of_one = objective(scores[k], quantiles[k], returns[k], NONE)
        torch.testing.assert_close(losses[k], loss)
        torch.testing.assert_close(terms[k], of_one, equal_nan=True)
    returns[1] = torch.nan
    losses, _ = stacked(each)(scores, quantiles, returns, NONE)
    (slope,) = torch.autograd.grad(losses.sum(), scores)
    assert torch.isfinite(slope).all()
    assert not slope[1].any()


@pytest.fixture(scope="module")
def run(small_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "own"
    objective = {"squares": (0.2, own_models.squares), "long_short": (0.4, own_models.long_short)}
    return engine.train(cache=small_cache, objective=objective, settings=SMALL, out=folder, quiet=True)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_is_reported_under_its_name_and_falls(run):
    first, *_, last = lines(run.folder)
    assert list(last["train"]) == ["loss", "rank_ic", "ic", "quantile", "squares", "long_short"]
    assert (last["weights"]["squares"], last["weights"]["long_short"]) == (0.2, 0.4)
    assert last["train"]["long_short"] < first["train"]["long_short"]


def test_a_resumed_run_has_the_same_metrics(run, small_cache, tmp_path, monkeypatch):
    from engine.training import epoch

    seen = []
    monkeypatch.setattr(epoch, "_stopped", lambda run: seen.append(run) or len(seen) == 30)
    monkeypatch.setattr(epoch.signal, "Signals", lambda number: None)
    with pytest.raises(Stopped):
        engine.train(run.config, out=tmp_path / "run", quiet=True)
    engine.train(out=tmp_path / "run", resume=True, quiet=True)
    assert lines(tmp_path / "run") == lines(run.folder)


def test_the_identity_of_a_run_knows_of_it(run, small_cache):
    assert config_hash(run.config) != config_hash(load_config(None, SMALL, str(small_cache)))
    with pytest.raises(InputError, match="the configuration differs"):
        engine.train(out=run.folder, resume=True, settings=["objective.own.squares.weight=0.3"], quiet=True)


def test_a_function_of_a_notebook_has_the_name_that_it_is_given(small_cache, tmp_path):
    settings = [*SMALL, "train.epochs=1"]
    run = engine.train(
        cache=small_cache, objective=lambda s, t, m: own_models.squares(s, t, m), settings=settings,
        out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert run.config.objective.own["lambda"].term.startswith("__main__:")
    assert lines(run.folder)[0]["train"]["lambda"] > 0


def test_phases_weigh_it(tmp_path):
    (tmp_path / "c.toml").write_text(
        '[[phases]]\nname = "a"\nepochs = 1\nweights = {squares = 1.0}\n[[phases]]\nname = "b"\nepochs = 1\n'
        "weights = {ic = 1.0}\n"
    )
    config = load_config(tmp_path / "c.toml", BOTH)
    first, second = (config.objective.with_weights(phase.weights, None) for phase in config.phases)
    assert (first.weights(), second.weights()) == ({"squares": 1.0}, {"ic": 1.0})
    assert term_names(first) == term_names(second)


@pytest.mark.parametrize(
    ("name", "term", "words"),
    [
        ("flat", "tests.own_models:flat", "its gradient is zero on random scores"),
        ("wrong", "tests.own_models:wrong_shape", r"gave \(3, 12\) of scores \(3, 12\), not one value"),
        ("nan", "tests.own_models:not_finite", "not finite on random scores; one day of them has no valid entry"),
        ("fails", "tests.own_models:Recorder", "raised TypeError"),
        ("ic", SQUARES, "has the name of a term of the engine"),
        ("gone", "tests.own_models:gone", "cannot be imported"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(name, term, words):
    with pytest.raises(InputError, match=words):
        make_objective(load_config(None, [f"objective.own.{name}.term={term}"]), H, CPU)
