"""The shuffle report: its figures against loops over sets and pairs, and against processes of known correlation."""

from itertools import pairwise

import numpy as np
import pytest

from bench import shuffle
from bench.shuffle import autocorrelation, demeaned, inflation, main, report
from loaders.cache.columns import create_columns
from loaders.cache.format import SCORED, Manifest, write_manifest
from loaders.gather import gather
from loaders.panel import open_panel
from loaders.plan import Plan
from loaders.split import Days
from tests.panels import write_panel

PHI = 0.6
CONTEXT, STEPS = 5, 12


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(shuffle, "SECONDS", 0)


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("shuffle") / "cache", n_codes=40, n_days=120)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """300 codes whose labels are AR(1) at one horizon, sums of 5 days of noise at the next, and noise at the last."""
    folder = tmp_path_factory.mktemp("known")
    codes, days = 300, 800
    noise = np.random.default_rng(0).standard_normal((3, codes, days + 4))
    labels = np.empty((codes, days, 3))
    labels[:, 0, 0] = noise[0, :, 0]
    for t in range(1, days):
        labels[:, t, 0] = PHI * labels[:, t - 1, 0] + np.sqrt(1 - PHI**2) * noise[0, :, t]
    labels[:, :, 1] = np.lib.stride_tricks.sliding_window_view(noise[1], 5, axis=1).sum(2)
    labels[:, :, 2] = noise[2, :, :days]
    columns = create_columns(folder, [days] * codes, 2, 3, "float32")
    columns.presence[:] = SCORED
    # A day's own mean is as large as the labels: it has to be taken off.
    columns.targets[:] = (labels + 2 * np.arange(days)[None, :, None] % 7).reshape(-1, 3)
    manifest = Manifest(
        features=["f0", "f1"],
        horizons=[1, 5, 10],
        dtype="float32",
        calendar=[str(day) for day in np.busday_offset("2010-01-04", np.arange(days), "forward")],
        codes=[f"C{i:03d}" for i in range(codes)],
        first=[0] * codes,
        days=[days] * codes,
        rows=codes * days,
        counts={},
        recipe={"name": "test"},
        normalisation="none",
        batches=columns.batches,
    )
    write_manifest(folder, manifest)
    return open_panel(folder)


@pytest.mark.parametrize(("days", "codes"), [(1, 7), (8, 7), (8, 40), (16, 15), (120, 9)])
def test_every_figure_against_loops(panel, days, codes):
    part = Days(CONTEXT - 1, 120)
    figures = report(panel, part, days, codes, CONTEXT, STEPS, seed=3)
    epoch = Plan(panel, part, days, codes, 3).epoch(0)
    blocks = epoch[:STEPS]
    assert (figures.shape, figures.steps) == ((days, codes), len(epoch))

    code_sets = [set(block.codes.tolist()) for block in blocks]
    day_sets = [{t for t in range(block.day, block.day + days) if part.start <= t < part.stop} for block in blocks]
    samples = [int(np.isfinite(gather(panel, part, block, days, 1).y.numpy()).any(2).sum()) for block in blocks]
    assert figures.codes == pytest.approx(np.mean([len(codes) for codes in code_sets]))
    assert figures.days == pytest.approx(np.mean([len(days) for days in day_sets]))
    assert figures.samples == pytest.approx(np.mean(samples))
    assert figures.samples_per_s > 0

    everyone = set().union(*(block.codes.tolist() for block in epoch))
    windows = [range(i, min(i + 10, len(blocks))) for i in range(max(len(blocks) - 9, 1))]
    for seen, sets, total in (
        (figures.codes_seen, code_sets, len(everyone)), (figures.days_seen, day_sets, len(part)),
    ):  # fmt: skip
        assert seen == pytest.approx(np.mean([len(set().union(*(sets[i] for i in w))) / total for w in windows]))
    for shared, sets in ((figures.codes_shared, code_sets), (figures.days_shared, day_sets)):
        assert shared == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in pairwise(sets)]))

    if days == 1:
        assert np.isnan(figures.lag_1).all()
        np.testing.assert_array_equal(figures.independent, [1, 1])
        return
    correlation = by_pairs(panel, part, blocks, days)
    np.testing.assert_allclose(figures.lag_1, correlation[1], atol=1e-12)
    variance = 1 + 2 * sum((1 - lag / days) * correlation[lag] for lag in range(1, days))
    np.testing.assert_allclose(figures.independent, figures.days / variance, rtol=1e-9)


def by_pairs(panel, part, blocks, days):
    """Correlation at every lag, [D, H]: a loop over blocks, horizons, codes and pairs of days."""
    horizons = len(panel.manifest.horizons)
    products = [[[] for _ in range(horizons)] for _ in range(days)]
    for block in blocks:
        y = gather(panel, part, block, days, 1).y.numpy().astype(np.float64)
        for h in range(horizons):
            for t in range(days):
                there = np.isfinite(y[:, t, h])
                if there.any():
                    middle = np.median(y[there, t, h])
                    spread = 6 * np.median(abs(y[there, t, h] - middle)) or np.inf
                    y[there, t, h] = np.minimum(np.maximum(y[there, t, h], middle - spread), middle + spread)
                    y[:, t, h] -= y[there, t, h].mean()
            for label in y[:, :, h]:
                for t in np.flatnonzero(np.isfinite(label)):
                    for u in np.flatnonzero(np.isfinite(label)):
                        if u >= t:
                            products[u - t][h].append(label[t] * label[u])
    mean = np.array([[np.mean(pairs) if pairs else 0 for pairs in of_lag] for of_lag in products])
    return mean / mean[0]


def test_labels_of_known_correlation(known):
    part = Days(CONTEXT - 1, 800)
    for days in (16, 64):
        figures = report(known, part, days, 100, CONTEXT, 40)
        # 40 blocks x 100 codes x days: a standard error of 0.002 for 64 days, twice that for 16, more where correlated.
        np.testing.assert_allclose(figures.lag_1, [PHI, 0.8, 0], atol=0.02)
        np.testing.assert_allclose(figures.at_random, 0, atol=0.02)
        lags = np.arange(1, days)
        exact = [PHI**lags, np.maximum(1 - lags / 5, 0), 0 * lags]
        variance = np.array([1 + 2 * ((1 - lags / days) * r).sum() for r in exact])
        np.testing.assert_allclose(figures.independent, figures.days / variance, rtol=0.1)


def test_independent_days_are_what_the_variance_of_a_mean_says():
    """Means over D days of an AR(1) process: their variance, drawn, over that of independent days."""
    days = 24
    noise = np.random.default_rng(1).standard_normal((20_000, days))
    values = np.empty_like(noise)
    values[:, 0] = noise[:, 0]
    for t in range(1, days):
        values[:, t] = PHI * values[:, t - 1] + np.sqrt(1 - PHI**2) * noise[:, t]
    drawn = values.mean(1).var() * days
    exact = inflation(PHI ** np.arange(days)[:, None])
    assert exact == pytest.approx(drawn, rel=0.04)  # the variance of 20,000 draws is known to 1%
    assert inflation(autocorrelation([values[:, :, None]])) == pytest.approx(drawn, rel=0.04)


def test_outliers_are_held_to_six_deviations_of_their_day():
    y = np.array([[-1, 0], [0, 0], [1, 0], [2, 0], [1000, 5], [np.nan, np.nan]], np.float32)[:, :, None]
    # First day: median 1, deviations 2 1 0 1 999, so held to 1 + 6 * 1. Second: three in five tie, nothing is held.
    expected = np.array([[-1, 0], [0, 0], [1, 0], [2, 0], [7, 5], [np.nan, np.nan]]) - [9 / 5, 1]
    np.testing.assert_allclose(demeaned(y)[:, :, 0], expected)


def test_missing_labels_are_left_out_of_means_and_pairs():
    y = np.array([[1, np.nan, 2, 4], [3, 5, np.nan, 0], [np.nan, np.nan, np.nan, 2]], np.float32)[:, :, None]
    labels = demeaned(y)
    np.testing.assert_array_equal(labels[:, :, 0], [[-1, np.nan, 0, 2], [1, 0, np.nan, -2], [np.nan] * 3 + [0]])
    square = (1 + 0 + 4 + 1 + 0 + 4 + 0) / 7
    pairs = [square, (0 * 2 + 1 * 0) / 2, (-1 * 0 + 0 * -2) / 2, (-1 * 2 + 1 * -2) / 2]
    np.testing.assert_allclose(autocorrelation([labels])[:, 0], np.array(pairs) / square, atol=1e-15)
    never = np.where(np.arange(4)[None, :, None] % 4 == 0, 1.0, np.nan)  # a lone day: no pair at any lag
    np.testing.assert_array_equal(autocorrelation([never])[:, 0], [1, 0, 0, 0])


def test_the_report_in_both_forms(panel, capsys):
    arguments = ["--arrow", str(panel.folder), "--days", "8,32", "--codes", "10,40", "--context", "5"]
    assert main(arguments) == 0
    terminal = capsys.readouterr().out
    assert main([*arguments, "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for shape in ("8 x 10", "8 x 40", "32 x 10", "32 x 40"):
        assert shape in terminal
        assert sum(line.startswith(f"| {shape} |") for line in lines) == 1
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 6
    assert len({line.count("|") for line in table}) == 1
    assert "40 codes, 116 days, context 5" in lines[0]
    assert lines[-1].endswith("horizons 1 and 5")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--days", "0"], ["--days", "'0'"]),
        (["--codes", "10,many"], ["--codes", "'10,many'"]),
        (["--context", "-1"], ["--context", "'-1'"]),
        (["--context", "121"], ["--context", "121", "120"]),
        (["--arrow", "nowhere"], ["nowhere", "no cache here"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(panel, capsys, options, words):
    assert main(["--arrow", str(panel.folder), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    for word in ["error: ", *words]:
        assert word in err, err
