"""Scoring a part: in pieces of its codes where they do not see one another, with the scores of whole blocks."""

import numpy as np
import pytest
import torch

from engine.config_file import load_config
from engine.model.ensemble import build_ensemble
from engine.score import pieces
from engine.score.part_metrics import part_metrics, part_samples
from engine.score.predict import score_part
from engine.score.rows import present_rows
from loaders.cache.format import SCORED
from loaders.split import Days
from loaders.tiers.choose import open_source
from tests.panels import write_panel

PART = Days(30, 110)


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("predict") / "cache", n_codes=60, n_days=120)


def scored(panel, monkeypatch, piece, settings, bypassed=()):
    """Scores, and the most codes that a member saw at a time."""
    monkeypatch.setattr(pieces, "PIECE", piece)
    config = load_config(None, ["data.scoring_days=32", *settings])
    model = build_ensemble(config, len(panel.manifest.features), 2).train()
    model.bypass(bypassed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    seen = []
    for member in model.members:
        member.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with open_source(panel, torch.device("cpu")) as source:
        scores = score_part(model, source, PART, config).numpy()
    assert model.training
    assert all(member.training for member in model.members)
    return scores, max(seen)


@pytest.mark.parametrize(
    ("settings", "bypassed", "apart"),
    [
        ([], (), True),
        (["train.seeds=2"], (), True),
        (["model.market_tokens=4"], (), False),
        (["model.market_tokens=4"], ("market",), True),
    ],
)
def test_pieces_have_the_scores_of_whole_blocks(panel, monkeypatch, settings, bypassed, apart):
    whole, codes = scored(panel, monkeypatch, 1 << 20, settings, bypassed)
    pieces, fewer = scored(panel, monkeypatch, 7 * 27 + 5, settings, bypassed)
    assert codes > 50
    assert fewer == (7 if apart else codes)
    assert whole.std() > 0.01
    np.testing.assert_allclose(pieces, whole, atol=1e-5)  # a product's sums may be ordered by its shape


@pytest.mark.parametrize(
    ("settings", "fewer"),
    [([], True), (["train.seeds=2"], True), (["model.market_tokens=2"], False)],
)
def test_for_metrics_only_codes_of_the_universe_are_scored(panel, settings, fewer):
    """Codes that are context on the part's one day: their scores are left out, all others are what they are."""
    config = load_config(None, ["data.scoring_days=32", *settings])
    model = build_ensemble(config, len(panel.manifest.features), 2).eval()
    part = Days(30, 31)
    rows, _, code = present_rows(panel, part)
    with open_source(panel, torch.device("cpu")) as source:
        every = score_part(model, source, part, config).numpy()
        some = score_part(model, source, part, config, metrics_only=present_rows(panel, part)).numpy()
    universe = panel.presence[rows] == SCORED
    assert len(np.unique(code[universe])) < len(np.unique(code))
    scored = np.isfinite(some).all(1)
    np.testing.assert_array_equal(scored, universe if fewer else True)
    np.testing.assert_allclose(some[scored], every[scored], atol=1e-5)
    samples = part_samples(panel, part)
    expected, found = (part_metrics(samples, scores) for scores in (every, some))
    assert found["1"]["samples"] > 30
    assert found["1"] == pytest.approx(expected["1"], nan_ok=True, abs=1e-6)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_gpu_takes_codes_in_pieces_of_bounded_memory(panel, monkeypatch, seeds):
    """8 days behind a context of 20 are 27 days of 6 features, 162 values a code: 6 codes in 1,000 values."""
    config = load_config(None, ["data.context=20", f"train.seeds={seeds}"])
    model = build_ensemble(config, 6, 2).eval()
    x, present = torch.randn(17, 27, 6), torch.ones(17, 27)
    seen = []
    for member in model.members:
        member.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(pieces, "VALUES", 1_000)
    with pieces.in_pieces(model, 8, 20, 6, torch.device("cuda")) as in_pieces, torch.inference_mode():
        found, _ = in_pieces(x, present, present)
    assert seen == [6, 6, 5] * seeds
    with torch.inference_mode():
        torch.testing.assert_close(found, model(x, present, present)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "device", "values", "days"),
    [
        (["model.market_tokens=2"], "cuda", 60 * 5 * 40, 20),  # at most 40 - 19 = 21 days: 4 blocks of 80
        (["model.market_tokens=2"], "cuda", 100, 1),
        (["model.market_tokens=2"], "cuda", 1 << 25, 27),
        (["model.market_tokens=2"], "cpu", 100, 27),
        ([], "cuda", 100, 27),
    ],
)
def test_a_gpu_takes_fewer_days_where_codes_see_one_another(panel, monkeypatch, settings, device, values, days):
    config = load_config(None, ["data.context=20", "data.scoring_days=32", *settings])
    monkeypatch.setattr(pieces, "VALUES", values)
    model = build_ensemble(config, len(panel.manifest.features), 2)
    assert pieces.block_days(model, panel, PART, config, torch.device(device)) == days
