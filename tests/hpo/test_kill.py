"""Studies that SIGKILL hits, as a whole or a worker of them, at moments that the test chooses."""

import signal
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import optuna
import psutil
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

import hpo.study
from hpo.cli import main
from hpo.storage import FINISHED, REASON, open_storage
from hpo.study import run_study
from tests.hpo.workers import QUIET, SMALL, first_is_killed, processes, start_parent, start_worker, work


def trials_of(asked):
    return optuna.load_study(study_name=asked.name, storage=open_storage(asked.storage, asked.folder)).get_trials()


def finished_of(trials):
    """Finished ones. None is left running, and no two are of one run folder, which would count a trial twice."""
    assert not any(trial.state == TrialState.RUNNING for trial in trials)
    finished = [trial for trial in trials if trial.state in FINISHED]
    assert len({trial.user_attrs["folder"] for trial in finished}) == len(finished)
    return finished


def test_a_study_killed_at_every_moment_ends_as_if_it_had_not_been(cache, finished, tmp_path):
    asked = work(cache, tmp_path / "out", 3)
    for moment in ("claimed", "opening", "second epoch", "before retry", "before result"):
        worker = start_worker(asked, moment)
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
    study = run_study(asked, 1, QUIET)
    # 0 was claimed, 1 has half a run folder, 2 trained for two epochs, 3 to its end; 4 only reports the result.
    attempts, unbroken = study.trials[:5], finished[1].trials[:3]
    assert [trial.state.name for trial in attempts] == ["FAIL", "FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert attempts[4].user_attrs["folder"] == 1
    assert not any(REASON in trial.user_attrs for trial in attempts)
    assert attempts[2].user_attrs["seconds"] < attempts[3].user_attrs["seconds"] < attempts[4].user_attrs["seconds"]
    done = finished_of(study.trials)
    assert done == study.trials[4:7] == study.trials[4:]
    assert done[0].params == unbroken[0].params
    assert done[0].values == unbroken[0].values
    assert done[0].intermediate_values == unbroken[0].intermediate_values
    table = pq.read_table(asked.folder / "trials.parquet").to_pylist()
    assert [row["state"] for row in table] == [trial.state.name for trial in study.trials]


@pytest.mark.parametrize("storage", [None, "postgresql"], indirect=True, ids=["journal", "postgresql"])
def test_of_two_workers_one_killed_the_other_finishes_the_study(cache, tmp_path, monkeypatch, capsys, storage, name):
    monkeypatch.setattr(hpo.study, "multiprocessing", SimpleNamespace(get_context=lambda method: processes))
    monkeypatch.setattr(hpo.study, "_worker", first_is_killed)
    asked = work(cache, tmp_path / "out", 4, storage, name=name)
    line = f"hpo --trials 4 --workers 2 --evaluate-best --arrow {cache} --out {asked.folder} --study {name}".split()
    settings = [part for setting in SMALL for part in ("--set", setting)]
    more = [] if storage is None else ["--storage", storage]
    monkeypatch.setattr(sys, "argv", ["atft-engine", *line, *settings, *more])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0

    trials = trials_of(asked)
    (lost,) = [trial for trial in trials if trial.state == TrialState.FAIL]
    (retry,) = [trial for trial in trials if trial.system_attrs.get("failed_trial") == lost.number]
    assert len(finished_of(trials)) == 4
    assert len(trials) == 5
    assert retry.params == lost.params
    assert retry.user_attrs["folder"] == lost.number
    assert list(lost.intermediate_values) == [1]
    assert retry.intermediate_values[1] == lost.intermediate_values[1]
    best = max((trial for trial in trials if trial.state == TrialState.COMPLETE), key=lambda trial: trial.value)
    assert f"best: trial {best.number}, {asked.folder / 'best.toml'}" in (out := capsys.readouterr().out)
    assert "decile spread" in out  # of the best trial on test


def test_a_worker_ends_with_the_process_that_started_it(cache, tmp_path):
    endless = work(cache, tmp_path / "out", 1000)
    parent, storage = start_parent(endless), open_storage(None, endless.folder)
    while not (
        optuna.get_all_study_names(storage)
        and any(trial.state == TrialState.RUNNING and trial.intermediate_values for trial in trials_of(endless))
    ):
        assert parent.is_alive()
        time.sleep(0.05)
    (worker,) = (p for p in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(p.cmdline()))
    parent.kill()
    _, alive = psutil.wait_procs([worker], timeout=120)
    for process in alive:
        process.kill()
    assert alive == []

    left = trials_of(endless)
    wanted = sum(trial.state in FINISHED for trial in left) + 1
    trials = run_study(replace(endless, trials=wanted), 1, QUIET).trials
    assert len(finished_of(trials)) == wanted
    lost = [trial.number for trial in left if trial.state == TrialState.RUNNING]
    assert [trial.number for trial in trials if trial.state == TrialState.FAIL] == lost
    assert [trial.system_attrs["failed_trial"] for trial in trials if "failed_trial" in trial.system_attrs] == lost
