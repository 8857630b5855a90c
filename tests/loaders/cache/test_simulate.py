"""The simulated market: its oracle is right and reachable, a line is not enough, nothing looks ahead."""

import errno
import math
import os

import numpy as np
import pytest
from scipy import stats

from loaders.cache.format import ABSENT, CONTEXT, SCORED, verify
from loaders.cache.simulation import market, planted, simulate
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.random_bits import mix, random_bits

SETTINGS = dict(codes=60, days=240, features=6, ic=0.2, seed=3, horizons=[1, 5, 7], dtype="float32")
MIN_SAMPLES = 20


def write(folder, **settings):
    simulate.simulate(folder, **(SETTINGS | settings))
    return open_panel(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small") / "cache")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large") / "cache"
    return write(folder, codes=800, days=600, features=16, ic=0.08, horizons=[1, 5], dtype="float16")


def grid(panel, column, missing):
    """Rows as [S, T], `missing` outside the spans."""
    out = np.full((len(panel.first), len(panel.calendar)), missing, np.float64)
    for s, (offset, first, days) in enumerate(zip(panel.offset, panel.first, panel.days, strict=True)):
        out[s, first : first + days] = column[offset : offset + days]
    return out


def samples(panel, i):
    """Scored with a target for the i-th horizon, [S, T]."""
    return (grid(panel, panel.presence, 0) == SCORED) & np.isfinite(grid(panel, panel.targets[:, i], np.nan))


def daily_rank_ic(panel, score, i, shuffle=None):
    """Spearman's correlation of each day with enough samples, by scipy."""
    target, valid = grid(panel, panel.targets[:, i], np.nan), samples(panel, i)
    out = []
    for t in range(valid.shape[1]):
        rows = valid[:, t]
        if rows.sum() >= MIN_SAMPLES:
            y = target[rows, t]
            out.append(stats.spearmanr(score[rows, t], y if shuffle is None else shuffle.permutation(y)).statistic)
    return np.array(out)


def lagged(values, lag):
    """The value `lag` days before, 0 before the first day."""
    return np.pad(values, ((0, 0), (lag, 0)))[:, : values.shape[1]]


def planted_features(panel):
    return [grid(panel, panel.features[:, f].astype(np.float64), 0.0) for f in range(4)]


def oracle(panel, horizon):
    """E[g[t] + .. + g[t + h - 1] | features up to t], day by day ahead, from the definition of g in `planted`."""
    ret, f1, f2, f3 = planted_features(panel)
    total = np.zeros_like(ret)
    for k in range(horizon):
        p = planted.PERSISTENCE**k
        known_today = 1.0 if k == 0 else 0.0  # ret_1 of a later day is not known, and expected to be 0
        total += math.sqrt(planted.LINEAR / 2) * (p * f1 - known_today * ret)
        total += math.sqrt(planted.PRODUCT / 2) * (p * p * f1 * f2 - known_today * ret * f2)
        window = sum(lagged(f3, lag - k) for lag in (5, 6, 7, 8, 9) if lag >= k)
        total += math.sqrt(planted.LAGGED / 5) * window
    return total


def test_oracle_recomputed_from_the_cache(small):
    for i, h in enumerate(small.manifest.horizons):
        found = daily_rank_ic(small, oracle(small, h), i).mean()
        # Forecasts are stored as float32 while they are ranked: a swap of two neighbours moves a day by 1e-4 at most.
        assert found == pytest.approx(small.manifest.simulation["oracle_rank_ic"][str(h)], abs=1e-5)


def test_measured_oracle_is_the_expected_one(large):
    simulation = large.manifest.simulation
    for i, h in enumerate(large.manifest.horizons):
        daily = daily_rank_ic(large, oracle(large, h), i)
        # float16 features may swap neighbours.
        assert daily.mean() == pytest.approx(simulation["oracle_rank_ic"][str(h)], abs=1e-4)
        # Days whose returns overlap share their noise: at most h times the variance.
        error = daily.std() * math.sqrt(h / len(daily))
        assert abs(daily.mean() - simulation["expected_rank_ic"][str(h)]) < 3 * error
    assert simulation["expected_rank_ic"]["1"] == pytest.approx(0.08, abs=1e-9)


@pytest.mark.parametrize("ic", [0.02, 0.45])
def test_strength_is_a_setting(tmp_path, ic):
    panel = write(tmp_path / "cache", codes=300, days=400, features=4, ic=ic, horizons=[5])
    daily = daily_rank_ic(panel, oracle(panel, 5), 0)
    assert abs(daily.mean() - ic) < 4 * daily.std() * math.sqrt(5 / len(daily))


def least_squares_rank_ic(panel, columns, i):
    """RankIC of the best linear combination, fitted on the rank targets of the very days it is measured on."""
    target, valid = grid(panel, panel.targets[:, i], np.nan), samples(panel, i)
    x = np.stack([c[valid] for c in columns], 1)
    ranked = np.where(valid, target, np.nan)
    y = (stats.rankdata(ranked, axis=0, nan_policy="omit") / valid.sum(0) - 0.5)[valid]
    penalty = 1e-3 * len(x) * np.eye(x.shape[1])
    coefficients = np.linalg.solve(x.T @ x + penalty, x.T @ y)
    return daily_rank_ic(panel, sum(c * b for c, b in zip(columns, coefficients, strict=True)), i).mean()


def test_a_line_is_not_enough_and_the_ingredients_are(large):
    today = [grid(large, large.features[:, f].astype(np.float64), 0.0) for f in range(16)]
    ret, f1, f2, f3 = today[:4]
    ingredients = [ret, f1, ret * f2, f1 * f2, *(lagged(f3, lag) for lag in range(10))]
    for i, h in enumerate(large.manifest.horizons):
        best = large.manifest.simulation["oracle_rank_ic"][str(h)]
        ridge = least_squares_rank_ic(large, today, i) / best
        assert 0.2 < ridge <= 0.6
        assert ridge == pytest.approx(large.manifest.simulation["expected_linear_share"][str(h)], abs=0.1)
        assert least_squares_rank_ic(large, ingredients, i) / best > 0.9


def test_reversal_pays(large):
    assert daily_rank_ic(large, -planted_features(large)[0], 0).mean() > 0.01


def test_shuffled_labels_score_nothing(large):
    daily = daily_rank_ic(large, oracle(large, 1), 0, np.random.default_rng(0))
    assert abs(daily.mean() / daily.std() * math.sqrt(len(daily))) < 3


def test_the_temporal_part_needs_days_5_to_9(large):
    f3 = planted_features(large)[3]
    target, valid = np.log1p(grid(large, large.targets[:, 0], np.nan)), samples(large, 0)
    at = [np.corrcoef(lagged(f3, lag)[valid], target[valid])[0, 1] for lag in range(12)]
    noise = 1 / math.sqrt(valid.sum())
    assert max(np.abs(at[:5] + at[10:])) < 4 * noise < min(at[5:10])


def test_features_are_standard_normal(large):
    for name, column in zip(large.manifest.features, large.features[large.presence != ABSENT].T, strict=True):
        # An AR(1) of coefficient 0.95 has 1/39 of the independent values: 350,000 / 39 leave a standard error of 0.01.
        assert abs(column.mean(dtype=np.float64)) < 0.05, name
        assert column.std(dtype=np.float64) == pytest.approx(1, abs=0.05), name
    x = large.features.astype(np.float64)
    both = (large.presence[1:] != ABSENT) & (large.presence[:-1] != ABSENT)
    persistence = [np.corrcoef(x[1:][both, f], x[:-1][both, f])[0, 1] for f in range(6)]
    # Neighbouring rows of two codes are 1 pair in 500.
    np.testing.assert_allclose(persistence, [0, 0.8, 0.8, 0, 0.95, 0], atol=0.01)


def test_values_are_those_of_the_stream(small):
    """scipy's normal quantile of the project's own bits, recursed in numpy, at (code, day, feature)."""

    def stream(code, feature):
        bits = random_bits(mix(3, market.FEATURE, code, feature), 240)
        return stats.norm.ppf(((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53)

    code = int(np.argmax(small.first))
    rows = small.rows_of(code, 0, 240)
    shown = small.presence[rows] != ABSENT
    assert small.first[code] > 0
    ret = stream(code, 0)[small.first[code] :][: len(shown)]
    np.testing.assert_allclose(small.features[rows, 0][shown], ret[shown], rtol=1e-6, atol=1e-6)
    steps, slow = stream(code, 1), np.zeros(240)
    slow[0] = steps[0]
    for t in range(1, 240):
        slow[t] = 0.8 * slow[t - 1] + 0.6 * steps[t]
    slow = slow[small.first[code] :][: len(shown)]
    np.testing.assert_allclose(small.features[rows, 1][shown], slow[shown], rtol=1e-6, atol=1e-6)


def test_golden_values(small):
    """The first code's first three days of ret_1, f1, f2, f3 at seed 3: fixed for ever."""
    expected = [
        [0.57618207, -0.7589232, 0.9324432, -0.952839],
        [-0.3752882, -0.17149504, 0.8301276, -0.736085],
        [0.8637589, 0.90271324, 0.5964276, -0.032068454],
    ]
    np.testing.assert_allclose(small.features[:3, :4], expected, rtol=1e-6)


def test_normal_quantile():
    """Wichura's three branches and their borders against scipy's quantile."""
    u = np.concatenate([10.0 ** -np.arange(1, 17), np.linspace(0.001, 0.999, 999), 1 - 2.0 ** -np.arange(2, 50)])
    np.testing.assert_allclose([market.normal_quantile(v) for v in u], stats.norm.ppf(u), rtol=2e-7, atol=2e-7)


def test_nothing_depends_on_what_comes_later_or_lies_beside(small, tmp_path):
    """A larger market of the same seed agrees on every (code, day, feature) that both show."""
    wide = write(tmp_path / "cache", codes=75, days=300, features=9)
    for f in range(6):
        a, b = grid(small, small.features[:, f], 0.0), grid(wide, wide.features[:, f], 0.0)[:60, :240]
        shown = (a != 0) & (b != 0)
        assert shown.mean() > 0.7
        np.testing.assert_array_equal(a[shown], b[shown])


def test_a_later_gap_leaves_earlier_targets_alone(small, tmp_path):
    """A return depends on features up to its own day: where both spans agree so far, so do the targets."""
    longer = write(tmp_path / "cache", days=260)
    same = np.flatnonzero((small.first == 0) & (longer.first == 0) & (small.days == 240))
    assert len(same) > 20
    for code in same:
        a, b = small.targets[small.rows_of(code, 0, 230)], longer.targets[longer.rows_of(code, 0, 230)]
        agree = np.isfinite(a) & np.isfinite(b)
        np.testing.assert_array_equal(a[agree], b[agree])


@pytest.mark.parametrize("threads", [1, 7])
def test_the_same_for_any_number_of_threads(small, tmp_path, monkeypatch, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    assert write(tmp_path / "cache").manifest == small.manifest
    verify(tmp_path / "cache")


def test_seeds_differ(small, tmp_path):
    other = write(tmp_path / "cache", seed=4)
    assert other.manifest.cache_id != small.manifest.cache_id
    assert abs(np.corrcoef(small.features[:5000, 0], other.features[:5000, 0])[0, 1]) < 0.06


def test_targets_are_where_both_closes_are(small):
    present = grid(small, small.presence, 0) != ABSENT
    for i, h in enumerate(small.manifest.horizons):
        later = np.pad(present, ((0, 0), (0, h)))[:, h:]
        np.testing.assert_array_equal(np.isfinite(grid(small, small.targets[:, i], np.nan)), present & later)


def test_targets_compound(small):
    day, five = (1 + grid(small, small.targets[:, i], np.nan) for i in (0, 1))
    product = np.prod([np.roll(day, -k, 1) for k in range(5)], axis=0)
    product[:, -5:] = np.nan
    both = np.isfinite(product) & np.isfinite(five)
    assert both.mean() > 0.7
    np.testing.assert_allclose(product[both], five[both], rtol=1e-6)  # float32 targets


def test_ret_1_is_the_surprise_of_its_own_day(large):
    ret = planted_features(large)[0]
    target, valid = np.log1p(grid(large, large.targets[:, 0], np.nan)), samples(large, 0)
    centred = target - np.where(valid, target, 0).sum(0) / np.maximum(valid.sum(0), 1)
    tomorrow = np.roll(ret, -1, 1)
    assert np.corrcoef(tomorrow[valid], centred[valid])[0, 1] > 0.97


@pytest.mark.parametrize(("i", "h"), [(0, 1), (1, 5)])
def test_variance_of_returns(large, i, h):
    log_return, valid = np.log1p(grid(large, large.targets[:, i], np.nan)), samples(large, i)
    spread = np.nanvar(np.where(valid, log_return, np.nan)[:, :-h], axis=0).mean()
    expected = market.RETURN_SD**2 * planted.return_variance(h, large.manifest.simulation["scale"])
    assert spread == pytest.approx(expected, rel=0.02)


def test_spans_begin_and_end_with_a_present_day(large):
    ends = np.concatenate([large.offset, large.offset + large.days - 1])
    assert (large.presence[ends] != ABSENT).all()


def test_a_market_has_every_oddity(small):
    counts, presence = small.manifest.counts, grid(small, small.presence, -1)
    assert counts == {
        "absent": (presence == ABSENT).sum(),
        "context": (presence == CONTEXT).sum(),
        "scored": (presence == SCORED).sum(),
        "late_listings": (small.first > 0).sum(),
        "delistings": (small.first + small.days < 240).sum(),
        "gaps": ((presence[:, 1:] == ABSENT) & (presence[:, :-1] > ABSENT)).sum(),
    }
    assert min(counts.values()) >= 3
    assert counts["absent"] < 0.05 * small.manifest.rows
    assert counts["context"] < 0.15 * small.manifest.rows
    absent = small.presence == ABSENT
    assert not small.features[absent].any()
    assert np.isnan(small.targets[absent]).all()


def test_dtypes_agree(small, tmp_path):
    half = write(tmp_path / "cache", dtype="float16")
    assert half.features.dtype == np.float16
    np.testing.assert_array_equal(half.features, small.features.astype(np.float16))
    np.testing.assert_array_equal(half.targets, small.targets)
    assert half.manifest.simulation == small.manifest.simulation


def test_too_few_codes_for_a_cross_section(tmp_path):
    lines = []
    manifest = simulate.simulate(tmp_path / "cache", 20, 60, 4, 0.05, 0, [1], "float16", lines.append)
    assert manifest.simulation["oracle_rank_ic"] == {"1": None}
    assert "oracle RankIC at 1 d: undefined" in lines[-1]


def test_progress_names_the_oracle(tmp_path):
    lines = []
    manifest = simulate.simulate(tmp_path / "cache", **SETTINGS, on_progress=lines.append)
    for h, value in manifest.simulation["oracle_rank_ic"].items():
        assert any(f"oracle RankIC at {h} d: {value:.4f}" in line for line in lines)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"codes": 19}, ["--codes", "19", "20"]),
        ({"days": 59, "horizons": [1]}, ["--days", "59", "60"]),
        ({"features": 3}, ["--features", "3", "4"]),
        ({"seed": -1}, ["--seed", "-1"]),
        ({"ic": 0.0}, ["--ic", "0.0"]),
        ({"ic": 0.5}, ["--ic", "0.5"]),
        ({"ic": math.nan}, ["--ic", "nan"]),
        ({"ic": 0.4, "horizons": [50]}, ["--ic", "0.4", "50 days", "0.32"]),
        ({"horizons": []}, ["--horizons"]),
        ({"horizons": [0, 1]}, ["--horizons", "[0, 1]"]),
        ({"horizons": [5, 1]}, ["--horizons", "[5, 1]"]),
        ({"horizons": [1, 1]}, ["--horizons", "[1, 1]"]),
        ({"horizons": [1, 60]}, ["--horizons", "60", "240"]),
        ({"dtype": "float64"}, ["--dtype", "float64", "float16"]),
    ],
)
def test_bad_settings(tmp_path, settings, words):
    with pytest.raises(InputError) as caught:
        write(tmp_path / "cache", **settings)
    for word in words:
        assert word in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(simulate, "create_columns", full)
    with pytest.raises(InputError, match="the disk is full"):
        write(tmp_path / "cache")
    assert not list(tmp_path.iterdir())
