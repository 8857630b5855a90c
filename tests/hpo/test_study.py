"""A whole study in one process: its results, its failures, and what of the cache it reads."""

import json
import shutil

import optuna
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

import engine.training.loop
import hpo.drive
import hpo.study
from engine.config_file import load_config
from engine.inputs import open_inputs
from engine.reporting.page import absent
from engine.training.loop import train
from hpo.storage import open_storage
from hpo.study import run_study
from hpo.trials.folds import study_folds
from loaders.errors import InputError
from tests.hpo.workers import QUIET, SMALL, work


def rows(folder):
    return pq.read_table(folder / "trials.parquet").to_pylist()


def best_rank_ics(run):
    """Of a run folder: after each epoch the validation RankIC, mean over horizons, of the best epoch so far."""
    found = []
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        figures = [metrics["rank_ic"] for metrics in line["valid"].values()]
        found.append(max([sum(figures) / len(figures), *found[-1:]]))
    return found


def test_a_study_ends_with_as_many_trials_and_its_files(finished):
    folder, study = finished
    table = rows(folder)
    assert [row["number"] for row in table] == list(range(6))
    assert {row["state"] for row in table} <= {"COMPLETE", "PRUNED"}
    assert max(row["value"] for row in table if row["state"] == "COMPLETE") == study.best_value
    for row in table:
        assert 1 <= row["epochs"] <= 4
        assert row["seconds"] > 0
        assert sum(row[f"objective.{t}"] for t in ("rank_ic", "ic", "sharpe", "spearman", "huber", "pairwise")) == (
            pytest.approx(1)
        )
        assert (row["reason"] == "pruned") == (row["state"] == "PRUNED")
        reported = study.trials[row["number"]].intermediate_values
        expected = best_rank_ics(folder / "trials" / f"{row['number']:04d}")
        assert list(reported) == list(range(1, row["epochs"] + 1))
        assert list(reported.values()) == pytest.approx(expected, rel=1e-12)
    left = {path.name for path in folder.iterdir()} | {path.name for path in (folder / "trials").iterdir()}
    page = {"report.html"} if absent() is None else set()  # of the extra `report`
    assert left == page | {
        "best.toml", "study.journal", ".study", "trials", "trials.parquet", ".turn", *(f"{i:04d}" for i in range(6)),
    }  # fmt: skip


def test_the_best_configuration_trains_to_the_trials_figure(finished, tmp_path):
    folder, study = finished
    run = train(load_config(folder / "best.toml", []), tmp_path / "run", False, QUIET)
    summary = json.loads((run / "summary.json").read_text())
    valid = summary["splits"]["valid"]
    assert sum(figures["rank_ic"] for figures in valid.values()) / len(valid) == study.best_value


def test_the_first_trial_is_the_commands_own_configuration(finished):
    own, settings = load_config(None, SMALL), finished[1].trials[0].user_attrs["settings"]
    assert settings["train.learning_rate"] == own.train.learning_rate
    assert settings["objective.rank_ic"] / settings["objective.ic"] == pytest.approx(
        own.objective.rank_ic / own.objective.ic
    )
    assert settings["objective.sharpe"] == pytest.approx(0)


def test_an_altered_cache_ends_the_study(cache, tmp_path):
    altered = shutil.copytree(cache, tmp_path / "cache")
    file = next(altered.glob("*.arrow"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        run_study(work(altered, tmp_path / "out", 4), 1, QUIET)
    trials = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path / "out")).get_trials()
    assert len([trial for trial in trials if trial.state == TrialState.FAIL]) <= 1


def test_a_study_is_resumed_and_refuses_another_search(cache, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "out")
    study = run_study(work(cache, folder, 7), 1, QUIET)
    assert [trial.params for trial in study.trials[:6]] == [trial.params for trial in finished[1].trials]
    assert len(study.trials) == 7
    with pytest.raises(InputError, match="another cache, configuration or space"):
        run_study(work(cache, folder, 8, settings=["train.clip=0.5"]), 1, QUIET)


def test_the_test_part_is_not_read(cache, tmp_path, monkeypatch):
    real, parts = engine.training.loop.score_part, []

    def score_part(model, source, part, *more, **options):
        parts.append(part)
        return real(model, source, part, *more, **options)

    monkeypatch.setattr(engine.training.loop, "score_part", score_part)
    asked = work(cache, tmp_path / "out", 1, settings=["train.epochs=2"])
    run_study(asked, 1, QUIET)
    with open_inputs(asked.config, "cpu") as inputs:
        ((_, fold),) = study_folds(asked.config, inputs.panel)
        assert parts == [fold.split.valid] * 2


def test_a_trial_without_a_metric_fails_with_its_reason_and_is_replaced(cache, tmp_path, monkeypatch):
    real, calls = engine.training.loop.part_metrics, []

    def third_is_missing(*arguments):
        metrics = real(*arguments)
        calls.append(1)
        if len(calls) == 3:
            metrics["5"]["icir"] = float("nan")
        return metrics

    monkeypatch.setattr(engine.training.loop, "part_metrics", third_is_missing)
    asked = work(cache, tmp_path / "out", 2, settings=["train.epochs=2", 'hpo.metrics=["icir"]', 'hpo.pruner="none"'])
    study = run_study(asked, 1, QUIET)
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    table = rows(tmp_path / "out")
    assert table[1]["reason"] == "icir of epoch 1 is missing"
    assert table[1]["value"] is None
    assert table[1]["seconds"] > 0


def test_a_worker_whose_trial_was_given_up_drops_it(cache, tmp_path, monkeypatch):
    real, asked = hpo.drive.run_trial, work(cache, tmp_path / "out", 1, settings=["train.epochs=2"])

    def given_up(*arguments):
        """As by heartbeats that come too late, before the trial's first epoch."""
        monkeypatch.setattr(hpo.drive, "run_trial", real)
        other = optuna.load_study(study_name="s", storage=open_storage(None, asked.folder))
        other.tell(0, state=TrialState.FAIL)
        return real(*arguments)

    monkeypatch.setattr(hpo.drive, "run_trial", given_up)
    first, second = run_study(asked, 1, QUIET).trials
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert second.user_attrs["folder"] == 0
    assert first.intermediate_values == {}
    assert list(second.intermediate_values) == [1, 2]


@pytest.mark.parametrize(("epochs", "state"), [(2, "COMPLETE"), (3, "PRUNED")])
def test_a_trial_that_has_no_epoch_left_is_not_pruned(cache, tmp_path, monkeypatch, epochs, state):
    class AfterTwo(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.last_step == 2

    monkeypatch.setitem(hpo.study.PRUNERS, "halving", AfterTwo)
    study = run_study(work(cache, tmp_path / "out", 1, settings=[f"train.epochs={epochs}"]), 1, QUIET)
    assert [trial.state.name for trial in study.get_trials()] == [state]


@pytest.mark.parametrize("pruner", ["none", "wilcoxon"])
def test_folds_are_averaged_and_reported_to_the_pruner(cache, tmp_path, pruner):
    split = ["split.valid_fraction=0.15", "split.test_fraction=0.15"]
    settings = ["hpo.folds=2", f"hpo.pruner={pruner}", "train.epochs=2", *split]
    study = run_study(work(cache, tmp_path / "out", 1, settings=settings), 1, QUIET)
    first, second = (best_rank_ics(tmp_path / "out" / "trials" / "0000" / f"fold-{fold}") for fold in (0, 1))
    assert first[-1] != second[-1]
    mean = (first[-1] + second[-1]) / 2
    assert study.best_value == pytest.approx(mean)
    steps = {
        "none": {1: first[0], 2: first[1], 3: (first[1] + second[0]) / 2, 4: mean},  # epochs: means so far
        "wilcoxon": {0: first[1], 1: second[1]},  # folds: each one's own
    }
    assert study.trials[0].intermediate_values == pytest.approx(steps[pruner])


def test_several_metrics_give_a_pareto_front(cache, tmp_path):
    settings = ['hpo.metrics=["rank_ic", "sharpe"]', "train.epochs=1"]
    study = run_study(work(cache, tmp_path / "out", 3, settings=settings), 1, QUIET)
    table = rows(tmp_path / "out")
    assert all(row["value_rank_ic"] is not None and row["value_sharpe"] is not None for row in table)
    best = max(study.best_trials, key=lambda trial: trial.values[0])
    assert best.values[0] == max(row["value_rank_ic"] for row in table)
