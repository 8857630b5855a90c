"""Horizons of ready targets: from names that state them, else from the user, and never against what the data say."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from loaders.cache import build as recipes
from loaders.cache.recipes.horizons import stated_horizon
from loaders.errors import InputError
from loaders.panel import open_panel

CODES, DAYS = 60, 260


@pytest.fixture(scope="module")
def noise():
    """Forward returns of pure noise over 1, 5 and 21 days: {h: [codes, days]}, NaN beyond the panel."""
    rng = np.random.default_rng(0)
    log_returns = 0.02 * rng.standard_normal((CODES, DAYS))
    level = np.concatenate([np.zeros((CODES, 1)), np.cumsum(log_returns, 1)], 1)
    labels = {}
    for h in (1, 5, 21):
        labels[h] = np.full((CODES, DAYS), np.nan)
        labels[h][:, : DAYS - h + 1] = np.exp(level[:, h:] - level[:, :-h]) - 1
    return labels


def write(path, labels, names, seed=1):
    """The columns in that order; the panel's rows shuffled."""
    rng = np.random.default_rng(seed)
    days = np.busday_offset("2015-01-01", np.arange(DAYS), "forward")
    columns = {name: labels[h].ravel().astype(np.float32) for name, h in names.items()}
    table = pl.DataFrame(
        {
            "date": np.tile(days, CODES), "code": np.repeat([f"c{i:02d}" for i in range(CODES)], DAYS),
            "f_0": rng.standard_normal(CODES * DAYS), **columns,
        }
    )  # fmt: skip
    table.sample(fraction=1, shuffle=True, seed=0).write_parquet(path)


def build(tmp_path, labels, names, targets, horizons=None, **more):
    """{target: horizon} of the cache, and the lines that were printed."""
    write(tmp_path / "p.parquet", labels, names)
    settings = {"features": ["f_0"], "targets": targets, "horizons": horizons, **more}
    lines: list[str] = []
    manifest = recipes.build("columns", [tmp_path / "p.parquet"], tmp_path / "cache", settings, lines.append)
    assert manifest.horizons == sorted(manifest.horizons)
    return dict(zip(manifest.targets, manifest.horizons, strict=True)), lines


@pytest.mark.parametrize(
    ("name", "horizon"),
    [
        ("fwd_21", 21), ("fwd_5d", 5), ("fwd_5D", 5), ("y_1", 1), ("target_v4_20", 20), ("r_05", 5),
        ("fwd_ret_1m", None), ("fwd_ret_1w", None), ("ret20_v1", None), ("ret20", None), ("fwd21d", None),
        ("y", None), ("y_0", None), ("5_y", None), ("y_5_", None), ("y_1h", None), ("y_1.5", None),
    ],
)  # fmt: skip
def test_what_a_name_states(name, horizon):
    assert stated_horizon(name) == horizon


@pytest.mark.parametrize("order", [(1, 21), (21, 1)])
@pytest.mark.parametrize("given", [True, False])
def test_every_order_gives_the_same_cache(tmp_path, noise, order, given):
    """Columns and targets in either order; horizons by name, or given in the order of the targets."""
    names = {f"fwd_{h}": h for h in order}
    for asked in (("fwd_1", "fwd_21"), ("fwd_21", "fwd_1")):
        horizons = [int(name.split("_")[1]) for name in asked] if given else None
        found, lines = build(tmp_path, noise, names, list(asked), horizons)
        assert found == {"fwd_1": 1, "fwd_21": 21}
        assert "horizons: fwd_1 -> 1, fwd_21 -> 21" in lines
    panel = open_panel(tmp_path / "cache")
    row = panel.offset[3] + 17
    assert panel.targets[row] == pytest.approx([noise[1][3, 17], noise[21][3, 17]], rel=1e-6)


@pytest.mark.parametrize(
    ("names", "targets", "horizons", "words"),
    [
        ({"fwd_ret_1m": 21}, ["fwd_ret_1m"], None, "does not end in _<rows>"),
        ({"fwd_ret_1w": 5}, ["fwd_ret_1w"], None, "does not end in _<rows>"),
        ({"ret20_v1": 21}, ["ret20_v1"], None, "does not end in _<rows>"),
        ({"ret_v_1": 21}, ["ret_v_1"], None, "may be longer"),  # a version, read as a horizon
        ({"fwd_ret_1m": 21}, ["fwd_ret_1m"], [1], "rank correlation with itself 1 rows later is 0.9"),
        ({"fwd_ret_1m": 21}, ["fwd_ret_1m"], [5], "may be longer"),
        ({"a": 21, "b": 1}, ["a", "b"], [1, 21], "may be"),  # in the wrong order
        ({"b": 1, "a": 21}, ["b", "a"], [21, 1], "may be"),
        ({"fwd_21": 21, "fwd_1": 1}, ["fwd_21", "fwd_1"], [1, 21], "1 for target 'fwd_21', whose name states 21"),
        ({"fwd_21": 21, "fwd_1": 1}, ["fwd_1", "fwd_21"], [21, 1], "21 for target 'fwd_1', whose name states 1"),
        ({"fwd_21": 21, "fwd_1": 1}, ["fwd_*"], [1, 21], "matches 2 columns"),
        ({"fwd_1": 1, "late": 21}, ["fwd_1", "late"], None, "'late' does not end in _<rows>"),
        ({"fwd_1": 1, "late": 21}, ["fwd_1", "late"], [1], "1 horizons for 2 targets"),
        ({"fwd_1": 1, "late_1": 1}, ["fwd_1", "late_1"], None, "share a horizon"),
        ({"y_21": 5}, ["y_21"], None, "may be shorter"),
        ({"y_5": 21}, ["y_5"], None, "may be longer"),
        ({"y_5": 1}, ["y_5"], None, "may be shorter"),
    ],
)  # fmt: skip
def test_a_horizon_that_is_not_known_or_not_true_is_refused(tmp_path, noise, names, targets, horizons, words):
    with pytest.raises(InputError) as caught:
        build(tmp_path, noise, names, targets, horizons)
    assert words in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("names", "targets", "horizons"),
    [
        ({"fwd_ret_1m": 21, "fwd_ret_1d": 1}, ["fwd_ret_1m", "fwd_ret_1d"], [21, 1]),
        ({"ret20_v1": 21}, ["ret20_v1"], [21]),
        ({"a": 21, "b": 5, "c": 1}, ["c", "a", "b"], [1, 21, 5]),
    ],
)
def test_names_that_state_nothing_take_given_horizons(tmp_path, noise, names, targets, horizons):
    found, _ = build(tmp_path, noise, names, targets, horizons)
    assert found == names == dict(zip(targets, horizons, strict=True))


def test_what_the_data_say_is_what_scipy_says(tmp_path, noise):
    """Mean over all dates of Spearman's correlation of a label with itself h, and h / 2, rows later."""
    _, lines = build(tmp_path, noise, {"y_5": 5, "y_1": 1}, ["y_5", "y_1"])
    line = next(line for line in lines if "y_5:" in line)

    def mean(a, b):
        pairs = [(a[:, t], b[:, t]) for t in range(a.shape[1]) if np.isfinite(a[:, t] + b[:, t]).all()]
        return np.mean([stats.spearmanr(x, y)[0] for x, y in pairs])

    y, one = noise[5], noise[1]
    compounded = np.prod(1 + np.lib.stride_tricks.sliding_window_view(one, 5, axis=1), -1)
    wanted = {"lag h": mean(y[:, :-5], y[:, 5:]), "lag h/2": mean(y[:, :-3], y[:, 3:])}
    wanted["compounded"] = mean(y[:, :-4], compounded)
    for name, value in wanted.items():
        shown = float(line.split(f"{name} ")[1].split(",")[0])
        assert shown == pytest.approx(value, abs=0.02), name  # 200 dates of the 255, two decimals


def test_a_target_that_does_not_compound_is_refused(tmp_path, noise):
    """Right horizons by themselves, of two different markets."""
    rng = np.random.default_rng(5)
    other = np.exp(0.02 * rng.standard_normal((CODES, DAYS))) - 1
    with pytest.raises(InputError, match="'y_5' over 5 rows does not go with 5 rows of 'y_1'"):
        build(tmp_path, {1: other, 5: noise[5]}, {"y_1": 1, "y_5": 5}, ["y_*"])


def test_the_check_can_be_left_out(tmp_path, noise):
    found, _ = build(tmp_path, noise, {"y_5": 21}, ["y_5"], trust_horizons=True)
    assert found == {"y_5": 5}


def test_too_few_targets_are_not_believed(tmp_path, noise):
    """A label every 21 rows: nothing to correlate, and the line says so."""
    sparse = np.full((CODES, DAYS), np.nan)
    sparse[:, ::21] = noise[21][:, ::21]
    found, lines = build(tmp_path, {21: sparse}, {"y_5": 21}, ["y_5"])
    assert found == {"y_5": 5}
    assert any("not checked: too few targets" in line for line in lines)
