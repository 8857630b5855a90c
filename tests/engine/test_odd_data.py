"""Whole caches of odd content: constant, huge, few or no samples. A figure, or one line that says what is odd."""

import numpy as np
import pytest

from tests.conftest import SMALL
from tests.panels import rewritten, write_panel

SETTINGS = [part for setting in (*SMALL, "train.epochs=1", "train.blocks=2") for part in ("--set", setting)]
KINDS = [["baseline", "--kind", kind] for kind in ("ridge", "online", "reversal")]


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("odd") / "base", n_codes=40, n_days=120, signal=1.0)


CONTENT = {
    "constant": lambda p: {"features": np.zeros_like(p.features)},
    "the same": lambda p: {"features": np.repeat(p.features[:, :1], p.features.shape[1], 1)},
    "huge": lambda p: {"features": p.features * np.float32(1e30)},
    "no targets": lambda p: {"targets": np.full_like(p.targets, np.nan)},
    "one target": lambda p: {"targets": np.where(np.isnan(p.targets), np.nan, np.float32(0.01))},
    "none scored": lambda p: {"presence": np.minimum(p.presence, 1)},
    "absent": lambda p: {"presence": np.zeros_like(p.presence)},
    "not finite": lambda p: {"features": np.where(np.arange(len(p.features))[:, None] % 37, p.features, np.nan)},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CONTENT)
def test_odd_content_is_a_figure_or_a_line(run_command, panel, tmp_path, name):
    rewritten(panel, tmp_path / "c", **CONTENT[name](panel))
    for command in (*KINDS, ["train", "--out", tmp_path / "r", *SETTINGS]):
        code, out, err = run_command(*command, "--arrow", tmp_path / "c")
        assert code in (0, 1, 2)
        assert err.count("\n") == (code > 0), err
        assert "atft-engine itself" not in err
        assert code or "RankIC" in out


@pytest.mark.parametrize("kind", ["ridge", "online", "lightgbm"])
def test_few_codes_have_rivals(run_command, tmp_path, kind):
    if kind == "lightgbm":
        pytest.importorskip("lightgbm", reason="LightGBM is not installed (extra `peers`)")
    write_panel(tmp_path / "c", n_codes=2, n_days=160)
    code, _, err = run_command("baseline", "--arrow", tmp_path / "c", "--kind", kind)
    assert (code, err) == (0, "")


def test_a_single_code_is_not_trained_on(run_command, tmp_path):
    write_panel(tmp_path / "c", n_codes=1, n_days=120)
    code, _, err = run_command("train", "--arrow", tmp_path / "c", "--out", tmp_path / "r", *SETTINGS)
    assert (code, err.count("\n")) == (2, 1)
    assert "has a single code" in err


def test_days_without_a_row_cannot_be_scored(run_command, small_run, panel, tmp_path):
    cache = rewritten(panel, tmp_path / "c", presence=np.zeros_like(panel.presence))
    line = ["predict", small_run, "--arrow", cache.folder, "--in-sample", "--start", "2010-03-01"]
    code, _, err = run_command(*line, "--out", tmp_path / "s.parquet")
    assert (code, err.count("\n")) == (2, 1)
    assert "no code has a row" in err
