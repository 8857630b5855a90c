"""Scoring a part: in pieces of its codes where they do not see one another, with the scores of whole blocks."""

import numpy as np
import pytest
import torch

from engine.config_file import load_config
from engine.model.ensemble import build_ensemble
from engine.score import predict
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
    monkeypatch.setattr(predict, "PIECE", piece)
    config = load_config(None, ["data.scoring_days=32", *settings])
    model = build_ensemble(config, len(panel.manifest.features), 2).train()
    model.bypass(bypassed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    seen = []
    for member in model.members:
        member.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with open_source(panel, torch.device("cpu")) as source:
        scores = score_part(model, source, PART, config)
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
        every = score_part(model, source, part, config)
        some = score_part(model, source, part, config, metrics_only=present_rows(panel, part))
    universe = panel.presence[rows] == SCORED
    assert len(np.unique(code[universe])) < len(np.unique(code))
    scored = np.isfinite(some).all(1)
    np.testing.assert_array_equal(scored, universe if fewer else True)
    np.testing.assert_allclose(some[scored], every[scored], atol=1e-5)
    samples = part_samples(panel, part)
    expected, found = (part_metrics(samples, scores) for scores in (every, some))
    assert found["1"]["samples"] > 30
    assert found["1"] == pytest.approx(expected["1"], nan_ok=True, abs=1e-6)
