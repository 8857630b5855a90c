"""Features that are ids: what they mean is learned, their size as numbers is not seen, and wrong ones are refused."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

from engine.config import ModelConfig
from engine.config_file import load_config, to_toml
from engine.model.registry import build_model
from engine.score.predict import load_run, predict_run
from engine.training.loop import train
from loaders.cache.build import build
from loaders.errors import InputError
from loaders.panel import open_panel

QUIET = Console(quiet=True)
SMALL = ["data.context=4", "data.block_days=16", "train.epochs=3", "train.half_life=0", "train.learning_rate=5e-3"]
SECTORS = 12


@torch.no_grad()
def test_an_id_is_a_vector_and_not_a_number():
    net = build_model(ModelConfig(), 5, 2, 4, seed=0, categories={3: 6}).eval()
    x, present = torch.randn(8, 7, 5), torch.ones(8, 7)
    x[..., 3] = torch.randint(0, 6, (8, 7)).float()
    other = x.clone()
    other[..., 3] = (x[..., 3] + 1) % 6
    scores, changed = net(x, present)[0], net(other, present)[0]
    assert (scores - changed).abs().min() > 0
    for day in range(4):  # a score sees the id of its own day alone
        torch.testing.assert_close(net(x[:, day : day + 4], present[:, :4])[0][:, 0], scores[:, day], rtol=0, atol=1e-5)
    before = x.clone()
    before[:, :3, 3] = 0
    assert torch.equal(net(before, present)[0], scores)
    net.categories.tables[0].weight.copy_(net.categories.tables[0].weight[0].expand(6, -1))
    assert torch.equal(net(x, present)[0], net(other, present)[0])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Returns are the sector's, which its number does not tell, and noise."""
    folder, random = tmp_path_factory.mktemp("sectors"), np.random.default_rng(0)
    codes, days = 96, 160
    sector = np.arange(codes) % SECTORS
    effect = np.where(np.arange(SECTORS) % 2, 1.0, -1.0)
    dates = np.busday_offset("2015-01-01", np.arange(days), "forward")
    frame = pl.DataFrame(
        {
            "date": np.repeat(dates, codes),
            "code": [f"C{i:03d}" for i in range(codes)] * days,
            "f_noise": random.standard_normal(codes * days),
            "f_sector": np.tile(sector, days).astype(float),
            "fwd_1": np.tile(effect[sector], days) * 0.01 + 0.01 * random.standard_normal(codes * days),
        }
    )
    frame.write_parquet(folder / "panel.parquet")
    settings = {"features": ["f_noise", "f_sector"], "targets": ["fwd_1"], "dtype": "float32"}
    settings |= {"transform": "none", "trust_horizons": True}  # an effect of the sector lasts
    build("columns", [folder / "panel.parquet"], folder / "cache", settings)
    return folder / "cache"


def trained(cache, run, *settings):
    """The validation RankIC of the best epoch."""
    train(load_config(None, [*SMALL, *settings], str(cache)), run, False, QUIET)
    summary = json.loads((run / "summary.json").read_text())
    return summary["splits"]["valid"]["1"]["rank_ic"]


def test_what_ids_mean_is_learned_and_kept(cache, tmp_path):
    as_ids = trained(cache, tmp_path / "ids", f"model.categories={{f_sector={SECTORS}}}")
    as_number = trained(cache, tmp_path / "number", "data.any_scale=true")
    assert as_ids > 0.6  # of the possible 0.69: means 1 apart, deviations 1
    assert as_number < as_ids / 2
    assert np.isfinite(predict_run(load_run(tmp_path / "ids"), open_panel(cache), "test").values[1]).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("model.categories={f_industry=4}", "f_industry"),
        ("model.categories={f_sector=5}", "f_sector of C005 on 2015-01-01 is 5, not one of 0..4"),
        ("model.categories={f_noise=5}", "f_noise of C000"),
    ],
)
def test_what_is_no_id_is_refused(cache, tmp_path, settings, words):
    with pytest.raises(InputError, match=r"model\.categories") as caught:
        trained(cache, tmp_path / "run", settings)
    assert words in str(caught.value)


def test_ids_survive_the_configuration_file(tmp_path):
    config = load_config(None, ['model.categories={"a b" = 3, c = 2}'])
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "config.toml", []).model.categories == {"a b": 3, "c": 2}
