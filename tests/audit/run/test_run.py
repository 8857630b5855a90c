"""Checks of runs: sound ones pass, and each fault is caught at its smallest dose."""

import numpy as np
import pytest

from engine.audit.audit import audit
from engine.audit.checks import RUN
from engine.audit.run.trained import trained
from tests.audit.faults import run as faults
from tests.panels import cut


def test_a_sound_run_passes(run, cache):
    found = trained(cache, run)
    assert [check(found).verdict for check in RUN] == ["passed"] * len(RUN)


def test_the_audit_of_a_run_holds_its_scores_and_its_looks(run, cache):
    found = {each.advice.check: each.verdict for each in audit(cache.folder, run)}
    assert found["splits"] == found["in sample"] == "passed"
    assert {"lag profile", "exits", "truncation", "looks at a test", "deflated RankIC"} <= {
        name.removeprefix("features: ") for name in found
    }
    assert found["truncation"] == "skipped"


@pytest.mark.parametrize("fault", faults.FAULTS_OF_RUN, ids=lambda fault: fault.name)
@pytest.mark.parametrize("dose", ["strong", "borderline"])
def test_a_fault_is_caught(fault, dose, run, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(faults, "small_run", lambda folder, seed: (cache, run))
    found = fault.audit(tmp_path, fault.doses[dose], 0)
    assert fault.is_caught(found), [f"{each.advice.check}: {each.figure}" for each in found]


def test_a_split_other_than_its_settings_is_warned_of(run, cache):
    faults.with_dates(run, "train", 0, str(cache.calendar[9]))
    found = RUN[0](trained(cache, run))
    assert found.verdict == "warned"
    assert found.concerned == ("run: train by its settings", "run: train by its summary")


def test_a_study_beside_a_run_is_found(run, cache):
    def settings(config):
        return config.model_copy(update={"split": config.split.model_copy(update={"tuned_until": "2030-01-01"})})

    study = run.parent / "hpo-a"
    study.mkdir()
    config = (run / "config.toml").read_bytes()
    faults.with_config(run, settings)
    (study / "best.toml").write_bytes((run / "config.toml").read_bytes())
    (run / "config.toml").write_bytes(config)
    found = RUN[1](trained(cache, run))
    assert (found.verdict, found.concerned) == ("warned", (str(study / "best.toml"),))


@pytest.mark.parametrize("days", [(0, 60), (100, 160), (128, 132)])
def test_caches_of_other_days_do_not_raise(days, run, cache, tmp_path):
    other = trained(cut(cache, tmp_path / "cut", *days), run)
    assert {check(other).verdict for check in RUN} <= {"passed", "skipped"}


def test_other_features_are_skipped(run, tmp_path):
    from tests.panels import write_panel

    other = trained(write_panel(tmp_path / "other", n_features=3, n_codes=40, n_days=160), run)
    found = RUN[2](other)
    assert found.verdict == "skipped"
    assert "features" in found.figure


def test_dates_are_spread_evenly():
    from engine.audit.run.trained import evenly
    from loaders.split import Days

    np.testing.assert_array_equal(evenly(Days(10, 20), 4), [10, 13, 16, 19])
    np.testing.assert_array_equal(evenly(Days(5, 7), 10), [5, 6])
