"""Score files and their evaluation: what is written is read, what is bad is named, averages and pairs against loops."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import fft, stats

from engine.evaluation.evaluate import evaluate
from engine.score.files import read_scores, write_scores
from engine.score.part_metrics import part_metrics, part_samples
from engine.score.rows import present_rows, row_scores, to_file
from engine.score.standard_error import mean_test
from loaders.errors import InputError
from loaders.split import Days
from tests.panels import write_panel

PART = Days(30, 110)


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("evaluate") / "cache", n_codes=60, n_days=120)


def random_scores(panel, seed):
    """A noisy forecast of every horizon, in the order of `present_rows`."""
    rows, _, _ = present_rows(panel, PART)
    rng = np.random.default_rng(seed)
    signal = panel.features[rows].mean(1, keepdims=True)
    return (signal + rng.standard_normal((len(rows), 2))).astype(np.float32)


def written(panel, path, seed, **changes):
    scores = row_scores(panel, PART, random_scores(panel, seed), "test", f"run-{seed}")
    write_scores(path, to_file(panel, scores))
    if changes:
        table = pq.read_table(path)
        for name, values in changes.items():
            table = table.set_column(table.column_names.index(name), name, [values])
        pq.write_table(table, path)
    return path


def metrics(panel, scores):
    return part_metrics(part_samples(panel, PART), scores)


def daily(panel, columns, horizon):
    """{day: [RankIC of each column of scores]} on scored rows with a target, by scipy."""
    rows, day, _ = present_rows(panel, PART)
    target = panel.targets[rows, horizon]
    sample = (panel.presence[rows] == 2) & np.isfinite(target)
    return {
        d: [stats.spearmanr(c[sample & (day == d)], target[sample & (day == d)]).statistic for c in columns]
        for d in np.unique(day)
        if (sample & (day == d)).sum() >= 20
    }


def test_present_rows_by_loop(panel):
    rows, day, code = present_rows(panel, PART)
    expected = [
        (t, s, panel.offset[s] + t - panel.first[s])
        for t in range(PART.start, PART.stop)
        for s in range(60)
        if panel.first[s] <= t < panel.first[s] + panel.days[s] and panel.presence[panel.offset[s] + t - panel.first[s]]
    ]
    assert list(zip(day, code, rows, strict=True)) == expected


def test_a_score_file_comes_back(panel, tmp_path):
    path = written(panel, tmp_path / "s.parquet", 0)
    table, scores = pq.read_table(path), read_scores(path)
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("date", "date32[day]"), ("code", "string"), ("score_1", "float"), ("score_5", "float"),
    ]  # fmt: skip
    np.testing.assert_array_equal(np.stack([scores.values[1], scores.values[5]], 1), random_scores(panel, 0))
    _, day, code = present_rows(panel, PART)
    assert scores.date.tolist() == panel.calendar[day].tolist()
    assert scores.code.tolist() == [panel.manifest.codes[c] for c in code]
    assert scores.metadata == {"cache_id": panel.manifest.cache_id, "split": "test", "run_id": "run-0"}


def test_only_samples_count(panel):
    scores = random_scores(panel, 1)
    before = metrics(panel, scores)
    rows, _, _ = present_rows(panel, PART)
    unseen = (panel.presence[rows] != 2) | np.isnan(panel.targets[rows, 0])
    assert unseen.sum() > 100
    scores[unseen, 0] = 1e6
    assert metrics(panel, scores)["1"] == before["1"]
    for i, h in enumerate((1, 5)):
        by_scipy = [values[0] for values in daily(panel, [scores[:, i]], i).values()]
        assert before[str(h)]["days"] == len(by_scipy)
    by_scipy = [values[0] for values in daily(panel, [random_scores(panel, 1)[:, 0]], 0).values()]
    assert before["1"]["rank_ic"] == pytest.approx(np.mean(by_scipy), abs=1e-12)


def test_a_part_prepared_once_serves_every_epoch(panel):
    prepared = part_samples(panel, PART)
    for seed in (0, 1, 0):
        scores = random_scores(panel, seed)
        assert part_metrics(prepared, scores) == metrics(panel, scores)
        by_scipy = [values[0] for values in daily(panel, [scores[:, 1]], 1).values()]
        assert part_metrics(prepared, scores)["5"]["rank_ic"] == pytest.approx(np.mean(by_scipy), abs=1e-12)
    for wrong in (scores[1:], scores[:, :1]):
        with pytest.raises(ValueError, match="scores of shape"):
            part_metrics(prepared, wrong)


def test_several_files_are_averaged_as_zscores_within_the_day(panel, tmp_path):
    paths = [written(panel, tmp_path / f"{seed}.parquet", seed) for seed in (0, 1)]
    found = evaluate(paths, "test", None, panel.folder)["splits"]["test"]
    rows, day, _ = present_rows(panel, PART)
    for i, h in enumerate((1, 5)):
        sample = (panel.presence[rows] == 2) & np.isfinite(panel.targets[rows, i])
        mean = np.zeros(len(rows))
        for d in np.unique(day):
            here = sample & (day == d)
            mean[here] = sum(stats.zscore(random_scores(panel, seed)[here, i].astype(float)) for seed in (0, 1)) / 2
        by_scipy = [values[0] for values in daily(panel, [mean], i).values()]
        assert found[str(h)]["rank_ic"] == pytest.approx(np.mean(by_scipy), abs=2e-3)
        assert found[str(h)]["days"] == len(by_scipy)
    alone = evaluate(paths[:1], "test", None, panel.folder)["splits"]["test"]
    assert alone["1"] == pytest.approx(metrics(panel, random_scores(panel, 0))["1"])


def test_against_pairs_the_days(panel, tmp_path):
    a, b = (written(panel, tmp_path / f"{seed}.parquet", seed) for seed in (0, 1))
    found = evaluate([a], "test", b, panel.folder)["against"]
    for i, h in enumerate((1, 5)):
        pairs = daily(panel, [random_scores(panel, seed)[:, i] for seed in (0, 1)], i).values()
        x = np.array([p - q for p, q in pairs])
        n = len(x)
        cosines = min(int(0.4 * n ** (2 / 3)), n // (3 * h))
        long_run = np.mean(fft.dct(x, norm="ortho")[1 : cosines + 1] ** 2)
        t = x.mean() / math.sqrt(long_run / n)
        assert found[str(h)]["difference"] == pytest.approx(x.mean(), abs=1e-9)
        assert found[str(h)]["difference_t"] == pytest.approx(t, rel=1e-6)
        assert found[str(h)]["difference_p"] == pytest.approx(2 * stats.t.sf(abs(t), cosines), rel=1e-6)
        assert found[str(h)]["rank_ic"] - found[str(h)]["rank_ic_against"] == pytest.approx(x.mean(), abs=1e-9)
    same = evaluate([a], "test", a, panel.folder)["against"]["1"]
    assert same["difference"] == 0
    assert math.isnan(same["difference_t"])


def test_years_are_those_of_the_days(tmp_path):
    """With and without a comparison: each year against a loop over its days, and all of them against the whole."""
    panel = write_panel(tmp_path / "cache", n_codes=60, n_days=120, start="2009-10-01")
    a, b = (written(panel, tmp_path / f"{seed}.parquet", seed) for seed in (0, 1))
    alone, paired = (evaluate([a], "test", other, panel.folder, years=True) for other in (None, b))
    for i, h in enumerate((1, 5)):
        pairs = daily(panel, [random_scores(panel, seed)[:, i] for seed in (0, 1)], i)
        years = panel.calendar[list(pairs)].astype("datetime64[Y]").astype(str)
        assert set(alone["years"][str(h)]) == set(paired["years"][str(h)]) == set(years) == {"2009", "2010"}
        for year in ("2009", "2010"):
            ours, theirs = np.array([pair for pair, of in zip(pairs.values(), years, strict=True) if of == year]).T
            by_itself, against = alone["years"][str(h)][year], paired["years"][str(h)][year]
            assert by_itself["days"] == against["days"] == len(ours)
            assert by_itself["rank_ic"] == against["rank_ic"] == pytest.approx(ours.mean(), abs=1e-9)
            assert by_itself["rank_ic_t"] == pytest.approx(mean_test(ours, h).t, rel=1e-6)
            assert against["difference"] == pytest.approx((ours - theirs).mean(), abs=1e-9)
            assert against["difference_t"] == pytest.approx(mean_test(ours - theirs, h).t, rel=1e-6)
        for result, every in ((alone, alone["splits"]["test"]), (paired, paired["against"])):
            of_years = result["years"][str(h)].values()
            mean = np.average([of["rank_ic"] for of in of_years], weights=[of["days"] for of in of_years])
            assert every[str(h)]["rank_ic"] == pytest.approx(mean, abs=1e-12)


def test_the_command_shows_years(panel, tmp_path, run_command):
    a, b = (written(panel, tmp_path / f"{seed}.parquet", seed) for seed in (0, 1))
    code, out, err = run_command("evaluate", a, "--against", b, "--arrow", panel.folder, "--by-year")
    assert (code, err) == (0, "")
    (line,) = {row.strip() for row in out.split("h=1 by year")[1].split("h=5")[0].splitlines() if "2010" in row}
    found = evaluate([a], "test", b, panel.folder, years=True)["years"]["1"]["2010"]
    assert line.split() == [
        "2010", *(f"{found[name]:.4f}" for name in ("rank_ic", "rank_ic_against")), f"{found['difference']:+.4f}",
        f"{found['difference_t']:+.1f}", str(found["days"]),
    ]  # fmt: skip
    code, out, _ = run_command("evaluate", a, "--arrow", panel.folder, "--by-year")
    assert code == 0
    assert out.split("h=1 by year")[1].splitlines()[1].split() == ["year", "RankIC", "t", "days"]


def test_bad_score_files_are_named(panel, tmp_path):
    good = pq.read_table(written(panel, tmp_path / "good.parquet", 0))
    n = good.num_rows
    nothing = np.full(n, np.nan, np.float32)
    bad = {
        "missing": good.set_column(2, "score_1", [pa.array(nothing)]),
        "infinite": good.set_column(2, "score_1", [pa.array(nothing + np.inf)]),
        "null": good.set_column(2, "score_1", [pa.nulls(n, pa.float32())]),
        "text": good.set_column(2, "score_1", [pa.array(["x"] * n)]),
        "twice": pa.concat_tables([good, good.slice(5, 1)]),
        "two_dates": good.append_column("date", good["date"]),
        "two_scores": good.append_column("score_1", good["score_5"]),
        "far": good.set_column(0, "date", [pa.array([8_400_000] * n, pa.int32()).cast(pa.date32())]),
        "no_code": good.drop_columns(["code"]),
        "no_score": good.drop_columns(["score_1", "score_5"]),
        "null_date": good.set_column(0, "date", [pa.nulls(n, pa.date32())]),
        "unknown_code": good.set_column(1, "code", [pa.array(["ZZZ"] * n)]),
        "other_days": good.set_column(0, "date", [pa.array([10] * n, pa.int32()).cast(pa.date32())]),
    }
    for name, table in bad.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    whole = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.parquet").touch()
    for name in (*bad, "cut", "empty", "absent"):
        with pytest.raises(InputError, match=name) as caught:
            evaluate([tmp_path / f"{name}.parquet"], "test", None, panel.folder)
        assert "\n" not in str(caught.value), name


def test_scores_of_another_cache_are_refused(panel, tmp_path):
    """Metrics must never come from another run's rows, even where dates and codes agree."""
    other = write_panel(tmp_path / "other", n_codes=60, n_days=120, seed=0, signal=0.1)
    path = written(panel, tmp_path / "s.parquet", 0)
    with pytest.raises(InputError, match=r"s\.parquet"):
        evaluate([path], "test", None, other.folder)
