"""Features and labels from daily bars: each against its formula in a loop, ranks against scipy, no look-ahead."""

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from loaders.cache import build as recipes
from loaders.cache.format import ABSENT, CONTEXT, SCORED
from loaders.cache.recipes.features import FEATURES, daily_features
from loaders.errors import InputError
from loaders.panel import open_panel


def bars(n_codes=30, n_days=320, seed=0, gaps=0.0):
    """Random walks with volume; sorted by code and date."""
    rng = np.random.default_rng(seed)
    days = np.busday_offset("2010-01-01", np.arange(n_days), "forward")
    frames = []
    for s in range(n_codes):
        begin = 0 if s <= n_codes // 2 else int(rng.integers(0, n_days // 4))
        n = n_days - begin
        close = (20 * np.exp(np.cumsum(0.02 * rng.standard_normal(n)))).astype(np.float32)
        open_ = (close * np.exp(0.01 * rng.standard_normal(n))).astype(np.float32)
        frame = pl.DataFrame(
            {
                "date": days[begin:],
                "ticker": [f"s{s:02d}"] * n,
                "open": open_,
                "high": (np.maximum(open_, close) * np.exp(0.01 * rng.random(n))).astype(np.float32),
                "low": (np.minimum(open_, close) * np.exp(-0.01 * rng.random(n))).astype(np.float32),
                "close": close,
                "volume": rng.integers(1_000, 1_000_000, n),
            }
        )
        keep = rng.random(n) >= gaps
        keep[[0, -1]] = True
        frames.append(frame.filter(keep))
    return pl.concat(frames)


def build(frame, folder, **changes):
    folder.mkdir(exist_ok=True)
    frame.write_parquet(folder / "bars.parquet")
    settings = {"horizons": [1, 5], "dtype": "float32"} | changes
    manifest = recipes.build("ohlcv", [folder / "bars.parquet"], folder / "cache", settings)
    return open_panel(folder / "cache"), manifest


def by_key(panel):
    """{(date, code): (presence, features, targets)} of every row of every span."""
    found = {}
    for s, code in enumerate(panel.manifest.codes):
        for d in range(panel.days[s]):
            row = panel.offset[s] + d
            day = str(panel.calendar[panel.first[s] + d])
            found[day, code] = (int(panel.presence[row]), panel.features[row].copy(), panel.targets[row].copy())
    return found


def deviation(values):
    return math.sqrt(max(np.mean(np.square(values)) - np.mean(values) ** 2, 0))


def by_loop(t, o, h, low, c, v, r, m):
    """The features of day t of one code without gaps, from their definitions; None: the history is too short."""

    def last(x, k, lag=0):
        return x[t - lag - k + 1 : t - lag + 1].astype(np.float64)

    def ret(k, lag=0):
        return c[t - lag] / c[t - lag - k] - 1

    gaps = np.array([np.nan] + [np.clip(o[i] / c[i - 1] - 1, -0.5, 0.5) for i in range(1, len(c))])
    inside = np.clip(c / o - 1, -0.5, 0.5)
    log_range = np.log(h / low)
    dollars = c * v
    daily = np.array([np.nan] + [c[i] / c[i - 1] - 1 for i in range(1, len(c))])

    out = {f"ret_{k}": (k, lambda k=k: ret(k)) for k in (1, 2, 5, 10, 20, 60, 120, 250)}
    out["ret_1_lag_1"] = (2, lambda: ret(1, 1))
    out["ret_1_lag_2"] = (3, lambda: ret(1, 2))
    out["ret_5_lag_5"] = (10, lambda: ret(5, 5))
    out["momentum_120_20"] = (120, lambda: c[t - 20] / c[t - 120] - 1)
    out["momentum_250_20"] = (250, lambda: c[t - 20] / c[t - 250] - 1)
    for k in (5, 20, 60):
        out[f"vol_{k}"] = (k, lambda k=k: deviation(last(r, k)))
    out["vol_5_60"] = (60, lambda: deviation(last(r, 5)) / deviation(last(r, 60)))
    out["down_vol_20"] = (20, lambda: math.sqrt(np.mean([min(x, 0) ** 2 for x in last(r, 20)])))
    out["skew_60"] = (60, lambda: stats.skew(last(r, 60)))
    out["max_ret_20"] = (20, lambda: last(daily, 20).max())
    out["min_ret_20"] = (20, lambda: last(daily, 20).min())
    for k in (5, 10, 20, 60, 120, 250):
        out[f"ma_gap_{k}"] = (k - 1, lambda k=k: c[t] / last(c, k).mean() - 1)
    for k in (1, 5, 20):
        out[f"range_{k}"] = (k - 1, lambda k=k: last(log_range, k).mean())
        out[f"gap_{k}"] = (k, lambda k=k: last(gaps, k).mean())
        out[f"intraday_{k}"] = (k - 1, lambda k=k: last(inside, k).mean())
    for k in (1, 5, 20, 60, 250):
        out[f"position_{k}"] = (
            k - 1,
            lambda k=k: (c[t] - last(low, k).min()) / (last(h, k).max() - last(low, k).min()),
        )
    out["volume_1_20"] = (19, lambda: v[t] / last(v, 20).mean())
    out["volume_5_20"] = (19, lambda: last(v, 5).mean() / last(v, 20).mean())
    out["volume_5_60"] = (59, lambda: last(v, 5).mean() / last(v, 60).mean())
    out["dollar_20"] = (19, lambda: math.log(last(dollars, 20).mean()))
    out["dollar_5_60"] = (59, lambda: last(dollars, 5).mean() / last(dollars, 60).mean())
    out["illiquidity_20"] = (20, lambda: np.mean(np.abs(last(r, 20)) / last(dollars, 20)))
    for k in (5, 20):
        out[f"signed_volume_{k}"] = (k, lambda k=k: (np.sign(last(r, k)) * last(v, k)).sum() / last(v, k).sum())
    out["volume_return_20"] = (20, lambda: np.corrcoef(np.log1p(last(v, 20)), last(r, 20))[0, 1])
    out["traded_20"] = (19, lambda: 1.0)
    out["log_close"] = (0, lambda: math.log(c[t]))

    def beta(day):
        return np.polyfit(m[day - 59 : day + 1], r[day - 59 : day + 1], 1)[0]

    def residuals(k):
        return np.array([r[day] - beta(day) * m[day] for day in range(t - k + 1, t + 1)])

    out["beta_60"] = (60, lambda: beta(t))
    out["residual_1"] = (60, lambda: residuals(1)[0])
    out["residual_5"] = (65, lambda: residuals(5).mean())
    out["residual_20"] = (80, lambda: residuals(20).mean())
    out["residual_vol_60"] = (120, lambda: deviation(residuals(60)))
    out["weekday_50"] = (50, lambda: np.mean([r[t + 1 - 5 * k] for k in range(1, 11)]))
    out["annual_20"] = (250, lambda: c[t - 230] / c[t - 250] - 1)
    return {name: (formula() if t >= needed else None) for name, (needed, formula) in out.items()}


@pytest.mark.parametrize("t", [30, 70, 130, 299])
def test_every_feature_against_its_definition(t):
    frame = bars(n_codes=1, n_days=300, seed=t)
    o, h, low, c, v = (frame[name].to_numpy().astype(np.float32) for name in ("open", "high", "low", "close", "volume"))
    r = np.diff(np.log(c.astype(np.float64)), prepend=np.log(float(c[0]))).astype(np.float32)
    m = 0.5 * r.astype(np.float64) + 0.01 * np.random.default_rng(t).standard_normal(len(r))
    found = daily_features(o, h, low, c, v, r, m)
    oracle = by_loop(t, *(x.astype(np.float64) for x in (o, h, low, c, v, r)), m)
    assert set(found) == set(oracle) == set(FEATURES)
    assert 40 <= len(FEATURES) <= 60
    compared = 0
    for name in FEATURES:
        if oracle[name] is not None:
            assert found[name][t] == pytest.approx(oracle[name], rel=1e-6, abs=1e-9), name
            compared += 1
    assert compared >= (20 if t == 30 else 40)
    for name in ("ret_60", "ma_gap_60", "vol_60", "volume_5_60", "annual_20"):  # no value before its history is there
        assert np.isnan(found[name][:58]).all(), name


def test_ranks_of_every_date_against_scipy(tmp_path):
    """ret_1 among scored rows is the uniform transform of its average rank; context rows stand where they would."""
    frame = bars(n_codes=60, n_days=60, gaps=0.05)
    panel, _ = build(frame, tmp_path, min_price=18.0)
    column = panel.manifest.features.index("log_close")
    found = by_key(panel)
    checked = 0
    for (day,), rows in frame.group_by("date"):
        close = dict(zip(rows["ticker"], rows["close"], strict=True))
        scored = [s for s, price in close.items() if price >= 18]
        if len(scored) < 20:
            continue
        ranks = dict(zip(scored, stats.rankdata([close[s] for s in scored]), strict=True))
        for code, price in close.items():
            presence, features, _ = found[str(day)[:10], code]
            assert presence == (SCORED if code in ranks else CONTEXT)
            share = ((ranks[code] - 0.5) if code in ranks else sum(close[s] < price for s in scored)) / len(scored)
            assert features[column] == pytest.approx((share - 0.5) * math.sqrt(12), abs=1e-5)
            checked += 1
    assert checked > 2000


def test_ties_share_a_rank_and_missing_features_are_zero(tmp_path):
    frame = bars(n_codes=40, n_days=30).with_columns(close=pl.lit(20.0, pl.Float32))
    panel, manifest = build(frame, tmp_path)
    names = panel.manifest.features
    assert not panel.features[:, names.index("log_close")].any()  # all tied: the middle
    assert not panel.features[:, names.index("ret_250")].any()
    assert manifest.source[names.index("ret_250")].missing == 1
    assert manifest.source[names.index("log_close")].constant


def test_labels_are_forward_returns_over_calendar_days(tmp_path):
    frame = bars(gaps=0.1)
    panel, _ = build(frame, tmp_path)
    close = {(str(d), s): c for d, s, c in frame.select("date", "ticker", pl.col("close").cast(pl.Float64)).iter_rows()}
    calendar = [str(day) for day in panel.calendar]
    known = 0
    for (day, code), (presence, _, targets) in by_key(panel).items():
        for h, label in zip((1, 5), targets, strict=True):
            t = calendar.index(day) + h
            later = close.get((calendar[t], code)) if t < len(calendar) else None
            if presence == ABSENT or later is None:
                assert np.isnan(label)
            else:
                assert label == pytest.approx(later / close[day, code] - 1, rel=1e-5, abs=1e-6)
                known += 1
    assert known > 10_000


def test_later_bars_change_no_earlier_row(tmp_path):
    """Bars after a date are replaced; every feature and the presence up to that date stay bitwise the same."""
    frame = bars(n_codes=40, gaps=0.05)
    cut = frame["date"].unique().sort()[280]
    later = pl.col("date") > cut
    scale = pl.int_range(pl.len()) % 7 * 0.3 + 0.4
    changed = frame.with_columns(
        *(
            pl.when(later).then(pl.col(x) * scale).otherwise(pl.col(x)).cast(pl.Float32)
            for x in ("open", "high", "low", "close")
        ),
        volume=pl.when(later).then(pl.col("volume") * 3 + 7).otherwise(pl.col("volume")),
    )
    limits = {"min_price": 15.0, "min_dollar_volume": 5e6}
    before, after = (by_key(build(f, tmp_path / n, **limits)[0]) for f, n in ((frame, "a"), (changed, "b")))
    same = different = 0
    for (day, code), (presence, features, _) in before.items():
        equal = presence == after[day, code][0] and features.tobytes() == after[day, code][1].tobytes()
        if day <= str(cut):
            assert equal, (day, code)
            same += 1
        else:
            different += not equal
    assert same > 9000
    assert different > 1000


def test_the_universe_uses_the_dates_own_information(tmp_path):
    frame = bars(n_codes=40, n_days=60, gaps=0.05)
    panel, manifest = build(frame, tmp_path, min_price=19.0, min_dollar_volume=9e6)
    calendar = [str(day) for day in panel.calendar]
    bar = {(str(d), s): (c, c * v) for d, s, c, v in frame.select("date", "ticker", "close", "volume").iter_rows()}
    for (day, code), (presence, _, _) in by_key(panel).items():
        t = calendar.index(day)
        dollars = sum(bar.get((calendar[d], code), (0, 0))[1] for d in range(max(t - 19, 0), t + 1)) / 20
        if (day, code) not in bar:
            assert presence == ABSENT
        elif abs(dollars - 9e6) > 10:
            assert presence == (SCORED if bar[day, code][0] >= 19 and dollars >= 9e6 else CONTEXT)
    assert manifest.counts["scored"] > 100
    assert manifest.counts["context"] > 100


def test_start_looks_back_where_the_file_does(tmp_path):
    frame = bars(n_codes=40, n_days=400, gaps=0.05)
    start = "2011-03-15"
    full, part = (by_key(build(frame, tmp_path / n, start=s)[0]) for n, s in (("a", None), ("b", start)))
    assert {key for key in part if part[key][0] != ABSENT} == {
        k for k in full if k[0] >= start and full[k][0] != ABSENT
    }
    for key, (presence, features, targets) in part.items():
        assert presence == full[key][0]
        np.testing.assert_allclose(features, full[key][1], atol=0.2)  # a rounding may swap two neighbours
        np.testing.assert_array_equal(targets, full[key][2])
    gaps = np.concatenate([np.abs(x - full[key][1]) for key, (_, x, _) in part.items()])
    assert (gaps > 1e-6).mean() < 0.001


def test_odd_bars(tmp_path):
    """One oddity per code; what happens to each is the recipe's documentation."""
    frame = bars(n_codes=30, n_days=40).filter(pl.col("ticker") < "s15")
    day = str(frame["date"].unique().sort()[20])
    before, after = (str(frame["date"].unique().sort()[i]) for i in (19, 21))

    def at(code, **values):
        nonlocal frame
        here = (pl.col("ticker") == code) & (pl.col("date").cast(pl.String) == day)
        frame = frame.with_columns(
            *(
                pl.when(here).then(pl.lit(v)).otherwise(pl.col(n)).cast(frame[n].dtype).alias(n)
                for n, v in values.items()
            )
        )

    at("s00", open=0.0)
    at("s01", volume=0)
    at("s02", high=0.0)
    at("s03", high=1.0)
    at("s04", close=0.0)
    at("s05", close=5000.0)
    at("s06", volume=-5)
    at("s07", open=float("nan"))
    at("s08", close=None)
    frame = frame.filter((pl.col("ticker") != "s09") | (pl.col("date").cast(pl.String) == day))
    panel, manifest = build(frame, tmp_path)
    expected = {
        "bars": frame.height,
        "bars_without_close": 2,
        "bars_without_open": 2,
        "bars_without_range": 1,
        "bars_without_volume": 2,
        "ranges_widened": 2,
        "bad_ticks": 2,
        "one_day_codes": 1,
        "context": 2,
    }
    assert {name: manifest.counts[name] for name in expected} == expected
    found = by_key(panel)
    for code in ("s00", "s01", "s02", "s03", "s06", "s07"):
        assert found[day, code][0] == SCORED
        assert np.isfinite(found[day, code][2]).all()
    for code in ("s04", "s08"):
        assert found[day, code][0] == CONTEXT
        assert np.isnan(found[day, code][2]).all()
        assert np.isnan(found[before, code][2][0])  # no label ends on it
        assert np.isfinite(found[after, code][2][0])
    assert np.isnan(found[day, "s05"][2]).all()  # the tick down again
    assert np.isnan(found[before, "s05"][2]).all()  # the tick up
    assert np.isfinite(found[after, "s05"][2][0])
    # Per horizon h, the labels whose span t+1..t+h holds either tick: h + 1.
    assert manifest.counts["targets_lost_to_bad_ticks"] == 2 + 6
    assert found[day, "s09"][0] == SCORED
    assert np.isnan(found[day, "s09"][2]).all()


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda f: f.drop("open"), {}, ["'open'"]),
        (lambda f: f.with_columns(close=pl.lit("x")), {}, ["'close'"]),
        (lambda f: pl.concat([f, f[3:4]]), {}, ["two rows for", "s00"]),
        (lambda f: f, {"start": "2040-01-01"}, ["no row"]),
        (lambda f: f, {"start": "2011-06-01"}, ["no row", "--start"]),
        (lambda f: f, {"code": "symbol"}, ["'symbol'"]),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, change, options, words):
    with pytest.raises(InputError) as caught:
        build(change(bars(n_codes=3)), tmp_path, **options)
    for word in words:
        assert word in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bars.parquet"]
