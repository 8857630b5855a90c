"""The refitted last layer: against least squares of what a whole pass of the network gives, and blind to the future."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

from engine.config_file import config_hash, load_config
from engine.evaluation.evaluate import evaluate
from engine.evaluation.sources import source_of
from engine.model.ensemble import build_ensemble
from engine.model.registry import MODELS
from engine.reporting.decomposition import scores_apart
from engine.score.online.last_layer import refit_last_layer
from engine.score.predict import load_run, predict_run
from engine.score.rows import present_rows
from engine.training.loop import train
from loaders.cache.format import ABSENT, SCORED
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.split import Days
from loaders.tiers.choose import open_source
from tests.conftest import SMALL
from tests.panels import rewritten, write_panel
from tests.refits import scores_by_lstsq

BEGIN, PART, CONTEXT = 40, Days(50, 80), 8
SETTINGS = [f"data.context={CONTEXT}", "data.scoring_days=16", "train.seeds=2"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("layer") / "cache", n_codes=60, n_days=100)


def drawn(panel, *settings):
    """A configuration and an ensemble of weights that say something."""
    config = load_config(None, [*SETTINGS, *settings])
    model = build_ensemble(config, len(panel.manifest.features), 2).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return config, model


def refitted(panel, part=PART, begin=BEGIN, settings=(), **more):
    config, model = drawn(panel, "model.neutralize=0", *settings)
    with open_source(panel, CPU) as source:
        return refit_last_layer(model, source, part, config, begin, **more)


def outputs_of(panel, model):
    """{day: its present rows, and [N, C] of them}, from one pass over the whole calendar."""
    codes, days = len(panel.offset), len(panel.calendar)
    x = np.zeros((codes, days + CONTEXT - 1, len(panel.manifest.features)), np.float32)
    here = np.zeros(x.shape[:2], np.float32)
    for c in range(codes):
        rows = slice(panel.offset[c], panel.offset[c] + panel.days[c])
        at = slice(panel.first[c] + CONTEXT - 1, panel.first[c] + panel.days[c] + CONTEXT - 1)
        here[c, at] = panel.presence[rows] != ABSENT
        x[c, at] = panel.features[rows] * here[c, at, None]
    with torch.inference_mode():
        every = [member.last_layer(torch.from_numpy(x), torch.from_numpy(here)) for member in model.members]
    outputs = torch.cat(every, -1).double().numpy()
    by_day = {t: present_rows(panel, Days(t, t + 1)) for t in range(days)}
    return {t: (rows, outputs[code, t]) for t, (rows, _, code) in by_day.items()}


def of_day(panel, values, part, day):
    return values[present_rows(panel, part).day == day]


def test_scores_are_those_of_least_squares_on_what_the_heads_are_given(panel):
    found, outputs = refitted(panel).scores, outputs_of(panel, drawn(panel)[1])
    assert found.shape == (len(present_rows(panel, PART).rows), 2)
    for day in (50, 61, 79):
        for i in (0, 1):
            expected = scores_by_lstsq(panel, outputs, day, i, BEGIN)
            assert expected.std() > 0.1
            np.testing.assert_allclose(of_day(panel, found[:, i], PART, day), expected, atol=2e-3 * expected.std())


def test_neutralised_like_the_network(panel):
    plain = refitted(panel).scores
    config, model = drawn(panel, "model.neutralize=0.6", "model.risk_factors=2")
    model.neutral.directions.copy_(
        torch.randn(model.neutral.directions.shape, generator=torch.Generator().manual_seed(1))
    )
    with open_source(panel, CPU) as source:
        found = refit_last_layer(model, source, PART, config, BEGIN).scores
    rows, day, _ = present_rows(panel, PART)
    for t in (50, 79):
        here = rows[day == t]
        before, x = torch.from_numpy(plain[day == t]), torch.from_numpy(panel.features[here]).float()
        scored = torch.from_numpy(panel.presence[here] == SCORED).float()
        expected = model.neutral(before[:, None], x[:, None], scored[:, None])[:, 0]
        assert (expected - before).abs().max() > 0.05
        np.testing.assert_allclose(found[day == t], expected, atol=1e-4)


def test_nothing_is_known_before_its_day(panel, tmp_path):
    """Returns that end after a day change no score of it, and the last that ends on it does."""
    day, h = 70, 5
    before = refitted(panel).scores
    for changed_from, changes in ((day - h + 1, False), (day - h, True)):
        targets = panel.targets[:].copy()
        code = panel.code_of(np.arange(len(targets)))
        of = np.arange(len(targets)) - panel.offset[code] + panel.first[code]
        targets[of >= changed_from, 1] *= -1
        other = rewritten(panel, tmp_path / str(changes), targets=targets)
        found = refitted(other).scores
        same = of_day(panel, found[:, 1], PART, day) == of_day(panel, before[:, 1], PART, day)
        assert same.all() != changes


def test_days_before_the_first_of_validation_count_for_nothing(panel):
    assert not refitted(panel, Days(10, BEGIN + 1)).scores.any()
    assert refitted(panel, Days(10, BEGIN + 3)).scores[-20:].any()


@pytest.mark.parametrize("settings", [(), ("model.market_tokens=2",)])
@pytest.mark.parametrize("state", [45, 50, 49])
def test_days_after_a_state_go_on_where_it_was(panel, settings, state):
    whole = refitted(panel, Days(BEGIN, 80), settings=settings)
    part = Days(50, 80)
    kept = refitted(panel, Days(BEGIN, 60), settings=settings, keep=state).sums
    found = refitted(panel, part, settings=settings, after=(state, kept))
    after = present_rows(panel, Days(BEGIN, 80)).day >= 50
    np.testing.assert_allclose(found.scores, whole.scores[after], atol=2e-4)
    np.testing.assert_allclose(found.sums.squares, whole.sums.squares, rtol=1e-4, atol=1e-2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training whose payoffs turn around after its last day of training."""
    folder = tmp_path_factory.mktemp("run")
    plain = write_panel(folder / "plain", n_codes=60, n_days=200, signal=1.0)
    targets = plain.targets[:].copy()
    code = plain.code_of(np.arange(len(targets)))
    targets[np.arange(len(targets)) - plain.offset[code] + plain.first[code] >= 100] *= -1
    turned = rewritten(plain, folder / "cache", targets=targets)
    more = ["split.valid_fraction=0.2", "split.test_fraction=0.2", "model.last_layer_weight=1", "train.seeds=2"]
    config = load_config(None, [*SMALL, *more], str(turned.folder))
    return train(config, folder / "run", False, Console(quiet=True))


def test_a_run_with_it(run):
    """Its summary, its evaluation and its parts agree, and what turned around is learned."""
    summary = json.loads((run / "summary.json").read_text())["splits"]["test"]
    found = evaluate([run], "test", None, None)["splits"]["test"]
    for h in ("1", "5"):
        assert found[h]["rank_ic"] == pytest.approx(summary[h]["rank_ic"], abs=1e-6)
    trained = load_run(run)
    panel = open_panel(trained.config.data.arrow)
    scores = predict_run(trained, panel, "test")
    source = source_of("run", scores, [], panel)
    part = Days(160, 200)
    parts = scores_apart(trained, panel, part, source, source.rows)
    assert list(parts) == [
        "network", "network, neutralised", "last layer refitted, neutralised", "online regression, neutralised",
        "all: the score",
    ]  # fmt: skip
    total = parts["network, neutralised"] + parts["last layer refitted, neutralised"]
    total = total + np.float32(trained.config.model.online_weight) * parts["online regression, neutralised"]
    np.testing.assert_allclose(total, parts["all: the score"], atol=1e-5)
    target, scored = panel.targets[source.rows, 0], panel.presence[source.rows] == SCORED
    sample = scored & np.isfinite(target)
    of = {name: stats.spearmanr(values[sample, 0], target[sample]).statistic for name, values in parts.items()}
    assert of["network"] < -0.05
    assert of["last layer refitted, neutralised"] > 0.1


def test_one_member_has_the_heads_that_it_was_trained_with(run):
    trained = load_run(run)
    panel = open_panel(trained.config.data.arrow)
    off = trained.config.model_copy(update={"model": trained.config.model.model_copy(update={"last_layer_weight": 0})})
    alone = predict_run(trained, panel, "test", member=1)
    expected = predict_run(replace(trained, config=off), panel, "test", member=1)
    for h in (1, 5):
        np.testing.assert_array_equal(alone.values[h], expected.values[h])


def test_a_registered_network_without_one_is_refused_before_its_training(monkeypatch):
    monkeypatch.setitem(MODELS, "plain", lambda *_: torch.nn.Linear(1, 1))
    config = load_config(None, ["model.name=plain", "model.last_layer_weight=0.2"])
    with pytest.raises(InputError, match=r"model\.last_layer_weight: the network 'plain' has no last_layer"):
        build_ensemble(config, 5, 2)


def test_settings():
    off, zero = (load_config(None, given) for given in ([], ["model.last_layer_weight=0"]))
    assert config_hash(off) == config_hash(zero) != config_hash(load_config(None, ["model.last_layer_weight=0.2"]))
    for wrong in (["model.online_weight=0"], ["model.name=tests.own_models:Market"]):
        with pytest.raises(InputError, match="model"):
            load_config(None, ["model.last_layer_weight=0.2", *wrong])
