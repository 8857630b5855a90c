"""A whole study: its results, its failures, and what is left of it when it is killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pyarrow.parquet as pq
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from rich.console import Console

import engine.train.loop
import hpo.trial
from engine.config_file import load_config
from engine.train.loop import train
from hpo.claims import SECONDS
from hpo.cli import main
from hpo.storage import open_storage
from hpo.study import Work, _sampler, run_study
from tests.panels import write_panel

SMALL = ["data.context=6", "data.block_days=6", "model.spans=[3]", "train.epochs=4", "train.patience=4"]
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hpo") / "cache"
    write_panel(folder, n_codes=40, n_days=160, signal=1.0)
    return folder


def work(cache, folder, trials=4, storage=None, settings=()):
    config = load_config(None, [*SMALL, *settings], str(cache))
    return Work(config, trials, folder, "s", storage)


def command(cache, folder, trials, *more):
    settings = [part for setting in SMALL for part in ("--set", setting)]
    return [
        sys.executable, "-m", "hpo", "hpo", "--trials", str(trials), "--arrow", str(cache), "--out", str(folder),
        *settings, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    return folder, run_study(work(cache, folder, 6), 1, QUIET)


def test_a_study_ends_with_as_many_trials_and_its_files(finished):
    folder, study = finished
    table = pq.read_table(folder / "trials.parquet").to_pylist()
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
        lines = (folder / "trials" / f"{row['number']:04d}" / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == row["epochs"]


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
    with pytest.raises(hpo.trial.InputError, match="checksum"):
        run_study(work(altered, tmp_path / "out", 4), 1, QUIET)
    trials = optuna.load_study(study_name="s", storage=open_storage(None, tmp_path / "out")).get_trials()
    assert len([trial for trial in trials if trial.state == TrialState.FAIL]) <= 1


def test_the_study_goes_on_and_refuses_another_search(cache, finished, tmp_path):
    before = shutil.copytree(finished[0], tmp_path / "out")
    study = run_study(work(cache, before, 7), 1, QUIET)
    assert len(study.get_trials()) == 7
    with pytest.raises(hpo.trial.InputError, match="another cache, configuration or space"):
        run_study(work(cache, before, 8, settings=["train.clip=0.5"]), 1, QUIET)


def test_a_trial_that_is_run_again_counts_the_time_before(cache, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "out")
    study = optuna.load_study(study_name="s", storage=open_storage(None, folder))
    study.enqueue_trial(finished[1].best_params, user_attrs={SECONDS: 1000.0})
    run_study(work(cache, folder, 7), 1, QUIET)
    row = pq.read_table(folder / "trials.parquet").to_pylist()[6]
    assert 1000 < row["seconds"] < 1000 + 600


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_studies_of_other_seeds_draw_other_trials(sampler):
    def drawn(seed):
        config = load_config(None, [f"hpo.sampler={sampler}", f"hpo.seed={seed}"])
        study = optuna.create_study(sampler=_sampler(config, 0))
        return [study.ask({"x": FloatDistribution(0, 1)}).params["x"] for _ in range(4)]

    assert drawn(0) == drawn(0)
    assert not set(drawn(0)) & set(drawn(1))


def test_the_test_part_is_not_read(cache, tmp_path, monkeypatch):
    real, parts = engine.train.loop.score_part, []

    def score_part(model, source, part, *more, **options):
        parts.append(part)
        return real(model, source, part, *more, **options)

    monkeypatch.setattr(engine.train.loop, "score_part", score_part)
    run_study(work(cache, tmp_path / "out", 1, settings=["train.epochs=2"]), 1, QUIET)
    panel = hpo.study.open_inputs
    with panel(load_config(None, SMALL, str(cache)), "cpu") as inputs:
        assert set(parts) == {inputs.split.valid}


def test_a_trial_without_a_figure_fails_with_its_reason_and_the_study_goes_on(cache, tmp_path, monkeypatch):
    real, calls = engine.train.loop.figures_of_part, []

    def third_is_missing(*arguments):
        figures = real(*arguments)
        calls.append(1)
        if len(calls) == 3:
            figures["5"]["icir"] = float("nan")
        return figures

    monkeypatch.setattr(engine.train.loop, "figures_of_part", third_is_missing)
    asked = work(cache, tmp_path / "out", 2, settings=["train.epochs=2", 'hpo.metrics=["icir"]', 'hpo.pruner="none"'])
    study = run_study(asked, 1, QUIET)
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    table = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert table[1]["reason"] == "icir of epoch 1 is missing"
    assert table[1]["value"] is None


@pytest.mark.parametrize(("epochs", "state"), [(2, "COMPLETE"), (3, "PRUNED")])
def test_a_trial_that_has_no_epoch_left_is_not_pruned(cache, tmp_path, monkeypatch, epochs, state):
    class AfterTwo(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.last_step == 2

    monkeypatch.setattr(hpo.study, "_pruner", lambda config: AfterTwo())
    study = run_study(work(cache, tmp_path / "out", 1, settings=[f"train.epochs={epochs}"]), 1, QUIET)
    assert [trial.state.name for trial in study.get_trials()] == [state]


def test_folds_count_by_their_mean(cache, tmp_path):
    settings = ["hpo.folds=2", "train.epochs=1", "split.valid_fraction=0.15", "split.test_fraction=0.15"]
    study = run_study(work(cache, tmp_path / "out", 1, settings=settings), 1, QUIET)
    found = []
    for fold in (0, 1):
        (line,) = (tmp_path / "out" / "trials" / "0000" / f"fold-{fold}" / "metrics.jsonl").read_text().splitlines()
        valid = json.loads(line)["valid"]
        found.append(sum(figures["rank_ic"] for figures in valid.values()) / len(valid))
    assert found[0] != found[1]
    assert study.best_value == pytest.approx(sum(found) / 2)


def test_several_metrics_leave_paretos_front(cache, tmp_path):
    settings = ['hpo.metrics=["rank_ic", "sharpe"]', "train.epochs=1"]
    study = run_study(work(cache, tmp_path / "out", 3, settings=settings), 1, QUIET)
    table = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert all(row["value_rank_ic"] is not None and row["value_sharpe"] is not None for row in table)
    best = max(study.best_trials, key=lambda trial: trial.values[0])
    assert best.values[0] == max(row["value_rank_ic"] for row in table)


def counted(folder, storage=None):
    """Numbers of trials by state, and of those finished how many there are of each run folder."""
    trials = optuna.load_study(study_name="study", storage=open_storage(storage, folder)).get_trials()
    done = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    folders = [trial.user_attrs.get("folder", trial.number) for trial in done]
    assert len(set(folders)) == len(folders), "a trial counted twice"
    assert not any(trial.state == TrialState.RUNNING for trial in trials)
    return len(done)


def test_killed_three_times_it_ends_with_exactly_as_many_trials(cache, tmp_path):
    folder, wanted, pauses = tmp_path / "out", 5, random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(command(cache, folder, wanted), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while not (folder / "trials").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(pauses.uniform(0.0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command(cache, folder, wanted), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert counted(folder) == wanted
    table = pq.read_table(folder / "trials.parquet").to_pylist()
    assert sum(row["state"] in ("COMPLETE", "PRUNED") for row in table) == wanted


def kill_a_worker(process, folder):
    """Of a study with two workers, the one that has begun a trial first."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        children = psutil.Process(process.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if workers and any((folder / "trials").glob("*/metrics.jsonl")):
            workers[0].kill()
            return
        time.sleep(0.05)
    raise AssertionError("no worker began a trial")


def two_workers_one_killed(cache, folder, *more):
    process = subprocess.Popen(
        command(cache, folder, 5, "--workers", "2", *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    kill_a_worker(process, folder)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def test_of_two_workers_one_killed_the_other_finishes_the_study(cache, tmp_path):
    two_workers_one_killed(cache, tmp_path / "out")
    assert counted(tmp_path / "out") == 5


def test_workers_end_with_the_process_that_started_them(cache, tmp_path):
    folder = tmp_path / "out"
    started = command(cache, folder, 500, "--workers", "2")
    process = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(folder.glob("trials/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    gone, left = psutil.wait_procs(workers, timeout=60)
    assert gone
    assert not left


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A PostgreSQL server of the test's own; gives its URL."""
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    found = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))  # where Debian puts it
    initdb = found[-1] if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL's server is not installed")
    programs, data = os.path.dirname(initdb), tmp_path_factory.mktemp("pg") / "data"
    port, as_user = 54329, []
    if os.getuid() == 0:  # a server refuses to run as root
        os.chmod(data.parent, 0o777)
        for folder in data.parents[1:3]:
            os.chmod(folder, 0o755)
        as_user = ["runuser", "-u", "nobody", "--"]
    options = f"-p {port} -k {data.parent} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        subprocess.run(
            [*as_user, initdb, "-D", str(data), "-A", "trust", "-U", "tester"], check=True, capture_output=True
        )
        subprocess.run(
            [*as_user, f"{programs}/pg_ctl", "-D", str(data), "-o", options, "-w", "start"], check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"PostgreSQL's server does not start here ({error})")
    yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    subprocess.run([*as_user, f"{programs}/pg_ctl", "-D", str(data), "-m", "immediate", "stop"], check=True)


def test_two_workers_on_postgresql_one_killed(cache, tmp_path, postgres):
    two_workers_one_killed(cache, tmp_path / "out", "--storage", postgres)
    assert counted(tmp_path / "out", postgres) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "hpo.speed=1"], "hpo.speed"),
        (["--config", "wrong.toml"], "objective.rank_oc"),
        (["--config", "empty.toml"], "empty"),
        (["--storage", "postgresql://nobody@127.0.0.1:1/none"], "--storage"),
        (["--storage", "nonsense"], "--storage"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(cache, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text('[hpo.space.objective]\nsimplex = ["ic", "rank_oc"]\n')
    (tmp_path / "empty.toml").write_text('[hpo.space]\n"model.dropout" = { low = 0.5, high = 0.2 }\n')
    line = ["hpo", "--trials", "2", "--arrow", str(cache), "--out", "out", *arguments]
    monkeypatch.setattr(sys, "argv", ["atft-engine", *line])
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert len(err.strip().splitlines()) == 1, err
    assert words in err
