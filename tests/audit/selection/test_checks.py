"""The checks of a choice: planted faults are caught, honest choices are not, and what is missing is said."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from engine.audit.audit import audit
from engine.audit.selection.best_of_study import best_of_study
from engine.audit.selection.deflated_rank_ic import deflated_rank_ic
from engine.audit.selection.deflated_sharpe import deflated_sharpe_ratio
from engine.audit.selection.looks import MANY, looks, most_looked
from engine.audit.selection.overfitting import backtest_overfitting
from engine.audit.selection.reality_check import reality_check
from engine.audit.selection.selection import OF_SEVERAL, audit_looks, audit_sources, audit_study, audit_variants
from engine.audit.selection.trials import MOST_SCORED, trial_runs, trial_sources
from engine.audit.selection.variants import Variants, variants_of
from engine.dates import Asked
from engine.evaluation.sources import read_source
from engine.reporting.looks import Look, ledger_of, record
from engine.reporting.sections.study import read_study
from engine.score.metrics import split_metrics
from engine.score.tables import read_summary
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.progress import quiet
from tests.audit.faults.selection import FAULTS_OF_SELECTION, HONEST, TEST, noise, scored, write_study
from tests.audit.market import PLAIN, clean_market, write_market

ALL = [check for check, _ in OF_SEVERAL]


def daily(models=10, days=400, skill=0.0, seed=0, **more):
    """Daily values of models, all of the same skill."""
    rng = np.random.default_rng(seed)
    rank_ic, spread = rng.normal(skill, 0.1, (2, days, models))
    return Variants([f"m{i}" for i in range(models)], rank_ic, spread, 1, models, 252.0, **more)


@pytest.mark.parametrize("fault", FAULTS_OF_SELECTION, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(fault, tmp_path):
    assert fault.is_caught(fault.audit(tmp_path, fault.doses["weak"], 1))


@pytest.mark.parametrize(("name", "audit", "models"), HONEST, ids=[name for name, _, _ in HONEST])
def test_an_honest_choice_is_not_blamed(name, audit, models, tmp_path):
    assert {each.verdict for each in audit(tmp_path, models // 3, 1)} == {"passed"}


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__)
def test_noise_and_skill(check):
    assert check(daily()).verdict in ("warned", "failed")
    assert check(daily()).concerned
    assert check(daily(skill=0.05)).verdict == "passed"


def test_the_same_values_give_the_same_figure():
    assert [check(daily()).figure for check in ALL] == [check(daily()).figure for check in ALL]


def test_models_that_left_no_values_count():
    """Skill that one of ten may have by luck in 1 of 1,000 cases is nothing among 10,000."""
    some = daily(skill=0.016, seed=2)
    assert deflated_rank_ic(some).verdict == "passed"
    assert deflated_rank_ic(replace(some, tried=10_000)).verdict == "failed"
    assert "10,000 models, daily values of 10" in reality_check(replace(some, tried=10_000)).figure
    assert deflated_sharpe_ratio(some).figure != deflated_sharpe_ratio(replace(some, tried=10_000)).figure


def test_values_that_say_nothing_are_skipped():
    flat, empty = np.ones((400, 3)), np.empty((0, 3))
    for check in ALL:
        for rank_ic in (flat, empty, flat[:3], np.random.default_rng(0).normal(size=(5, 3))):
            assert check(Variants(["a", "b", "c"], rank_ic, rank_ic, 5, 3)).verdict in (
                "skipped",
                "passed",
                "warned",
                "failed",
            )
        assert check(Variants(["a", "b", "c"], empty, empty, 1, 3)).verdict == "skipped"
    for check in (deflated_rank_ic, deflated_sharpe_ratio, reality_check):
        assert check(Variants(["a", "b", "c"], flat, flat, 1, 3)).verdict == "skipped"
    assert reality_check(daily(models=1)).verdict == backtest_overfitting(daily(models=1)).verdict == "skipped"
    assert deflated_sharpe_ratio(replace(daily(), spread=None)).verdict == "skipped"
    assert [each.verdict for each in audit_variants([])] == ["skipped"] * len(OF_SEVERAL)


def test_equally_good_models_are_not_overfitted():
    found = backtest_overfitting(daily(skill=0.05))
    assert found.verdict == "passed"
    assert "not above 0 in 0%" in found.figure


def look(model="a", first="2020-01-01", last="2020-12-31", days=250, horizon="1"):
    return Look("evaluate", model, first, last, days, {horizon: 0.01}, "cafe")


def test_the_days_that_most_models_were_looked_at():
    every = [look("a"), look("a"), look("b", first="2020-06-01"), look("c", "2020-06-02", "2020-06-30", 20, "5")]
    every += [look("d", "2021-01-01", "2021-12-31")]
    found = most_looked(every)
    assert (found.looks, found.models, found.first, found.last) == (4, 3, "2020-06-02", "2020-06-30")
    assert (found.days, found.horizon) == (250, 1)
    assert most_looked(every, "2020-07-01", "2021-02-01").models == 2
    assert most_looked(every, "2021-02-01").models == 1
    assert most_looked(every, "2022-01-01") is None
    assert most_looked([]) is None


def test_looks_by_count_and_by_the_figure():
    few, many = (most_looked([look(str(i)) for i in range(n)]) for n in (MANY - 1, MANY))
    assert 0.95 ** (MANY - 1) > 0.5 >= 0.95**MANY  # the least number whose best passes a 5% test every second time
    assert [looks(each).verdict for each in (None, few, many)] == ["skipped", "passed", "warned"]
    verdicts = [looks(many, p).verdict for p in (1e-6, 0.001, 0.3, float("nan"))]
    assert verdicts == ["passed", "warned", "failed", "warned"]
    assert "one model" in looks(most_looked([look()])).figure
    for each in (None, few, many):
        unread = looks(each, unread="2 lines cannot be read")
        assert unread.verdict == "warned"
    assert "2 lines cannot be read" in looks(few, unread="2 lines cannot be read").figure


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_market(clean_market(3, replace(PLAIN, codes=60, days=600)), tmp_path_factory.mktemp("a") / "cache")


def test_daily_values_are_those_of_evaluate(panel):
    rng = np.random.default_rng(0)
    shape = TEST.stop - TEST.start, len(panel.manifest.codes)
    sources = [scored(panel, name, noise(rng, *shape)) for name in "ab"]
    one, five = variants_of(panel, sources)
    assert (one.horizon, five.horizon, one.tried, one.names) == (1, 5, 2, ["a", "b"])
    rows = sources[1].rows
    kept = panel.presence[rows] == SCORED
    code = panel.code_of(rows)
    day = rows - panel.offset[code] + panel.first[code]
    expected = split_metrics(
        sources[1].values[5][kept], panel.targets[rows, 1][kept], day[kept], code[kept], 5, periods_per_year=252.0
    )
    assert five.rank_ic[:, 1].mean() == pytest.approx(expected["rank_ic"])
    assert five.spread[:, 1].mean() == pytest.approx(expected["decile_spread"])
    assert len(five.rank_ic) == expected["days"]


def test_days_that_all_models_have(panel):
    rng = np.random.default_rng(0)
    a, b = (scored(panel, name, noise(rng, TEST.stop - TEST.start, len(panel.manifest.codes))) for name in "ab")
    code = panel.code_of(b.rows)
    later = b.rows - panel.offset[code] + panel.first[code] >= TEST.start + 50
    b = replace(b, rows=b.rows[later], values={1: b.values[1][later]})
    one, five = variants_of(panel, [a, b])
    assert len(one.rank_ic) == TEST.stop - TEST.start - 50
    assert (five.names, five.tried) == (["a"], 2)
    constant = replace(a, values={h: np.zeros_like(v) for h, v in a.values.items()})
    assert list(variants_of(panel, [constant])) == []
    assert {each.verdict for each in audit_sources(panel, [constant])} == {"skipped"}


def test_a_run_that_is_not_in_the_ledger_counts(panel):
    rng = np.random.default_rng(0)
    source = scored(panel, "mine", noise(rng, TEST.stop - TEST.start, len(panel.manifest.codes)))
    first, last = str(source.dates[0]), str(source.dates[-1])
    try:
        assert next(audit_looks(panel)).verdict == "skipped"
        assert "best of one model" in list(audit_looks(panel, source))[1].figure
        record(panel.folder, look("other", first, last))
        assert "at 2 models" in next(audit_looks(panel, source)).figure
        record(panel.folder, look("mine", first, last))
        assert "3 looks" not in next(audit_looks(panel, source)).figure
        assert "2 looks at 2 models" in next(audit_looks(panel, source)).figure
    finally:
        ledger_of(panel.folder).unlink(missing_ok=True)


def test_values_of_a_study(tmp_path):
    rng = np.random.default_rng(0)
    skilled = best_of_study(read_study(write_study(tmp_path / "a", 0.05 + 0.002 * rng.normal(size=20))))
    assert skilled.verdict == "passed"
    bad = np.concatenate([np.full(5, -0.05), 0.05 + 0.002 * rng.normal(size=20)])  # trials that were worth nothing
    assert best_of_study(read_study(write_study(tmp_path / "b", bad))).verdict == "passed"
    worse = best_of_study(read_study(write_study(tmp_path / "c", -0.01 + 0.004 * rng.normal(size=20))))
    assert worse.verdict == "failed"
    assert worse.concerned[0].startswith("trial ")
    assert best_of_study(read_study(write_study(tmp_path / "d", rng.normal(size=3)))).verdict == "skipped"


def test_trials_are_scored_again(small_run, small_cache, tmp_path):
    """The daily values of a trial have the mean that its run has written down; folds of a trial are joined."""
    study = write_study(tmp_path / "study", np.linspace(0.01, 0.02, 4))
    for place in ("0001", "0002/fold-0", "0002/fold-1"):
        shutil.copytree(small_run, study / "trials" / place)
    shutil.rmtree(study / "trials/0002/fold-1")
    panel = open_panel(small_cache)
    sources = trial_sources(panel, trial_runs(read_study(study)))
    assert [each.name for each in sources] == ["trial 1", "trial 2"]
    expected = read_summary(small_run)["splits"]["valid"]
    for each in variants_of(panel, sources, 7):
        assert each.rank_ic.mean(0) == pytest.approx([expected[str(each.horizon)]["rank_ic"]] * 2, abs=1e-6)
        assert each.tried == 7
    assert len(list(audit_study(panel, study))) == 1 + len(OF_SEVERAL)


def test_a_look_that_cannot_be_kept_counts_all_the_same(small_run, small_cache, tmp_path):
    """Of two audits of one run, one beside a ledger that cannot be written: what it makes of the count is the same."""
    found = []
    for name in ("writable", "not"):
        cache = shutil.copytree(small_cache, tmp_path / name)
        if name == "not":
            ledger_of(cache).mkdir()
        found.append(audit(cache, small_run))
    kept, lost = ({each.advice.check: each for each in findings} for findings in found)
    told = kept.pop("looks at a test"), lost.pop("looks at a test")
    assert kept == lost
    assert "1 look at one model" in told[0].figure
    assert "1 look at one model" in told[1].figure
    assert "cannot be written" in told[1].figure
    assert told[1].verdict in ("warned", "failed")


def test_a_damaged_run_of_a_trial_is_refused(small_run, small_cache, tmp_path):
    study = write_study(tmp_path / "study", np.linspace(0.01, 0.02, 4))
    shutil.copytree(small_run, study / "trials/0001")
    config = study / "trials/0001/config.toml"
    config.write_text(config.read_text().replace("epochs = ", "epochs = 1"))
    with pytest.raises(InputError, match="0001"):
        list(audit_study(open_panel(small_cache), study))


def test_two_folds_of_a_trial(small_run, small_cache, tmp_path):
    """The parts of a trial's folds follow one another; here the run's own validation and test stand for two."""
    from engine.audit.selection.trials import joined

    panel = open_panel(small_cache)
    parts = [read_source(small_run, panel, Asked(split), None, quiet) for split in ("test", "valid")]
    whole = joined("trial", parts, panel)
    assert len(whole.rows) == sum(len(each.rows) for each in parts)
    assert (np.diff(whole.rows) > 0).all()
    for each in parts:
        assert whole.at(each.rows, 1).tolist() == each.values[1].tolist()


def test_what_a_study_lacks_is_said(small_cache, tmp_path):
    panel = open_panel(small_cache)
    found = list(audit_study(panel, write_study(tmp_path / "a", np.linspace(0.01, 0.02, 4))))
    assert {each.verdict for each in found} == {"skipped"}
    assert "values alone have no days" in found[1].figure
    many = write_study(tmp_path / "b", np.linspace(0.01, 0.02, MOST_SCORED + 1))
    for i in range(MOST_SCORED + 1):
        (many / f"trials/{i:04d}/checkpoints").mkdir(parents=True)
        (many / f"trials/{i:04d}/checkpoints/best.safetensors").touch()
    assert "take too long" in list(audit_study(panel, many))[1].figure
    with pytest.raises(InputError):
        list(audit_study(panel, tmp_path))
