"""Studies that are killed at a write, whose journal is cut short, whose disk is full, whose storage is damaged."""

import errno
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console

import engine.checkpoint
import hpo.cli  # the command, for `run_command`
import hpo.dispatch
import hpo.drive
import hpo.study
import loaders.disk.content
import loaders.disk.tensors
from engine.checkpoint import LAST
from hpo.algorithms import PRUNERS
from hpo.drive import run_trials
from hpo.storage import FINISHED, FOLDER, JOURNAL, REASON, Journal, open_storage
from hpo.study import run_study
from hpo.trials.trial import Epoch
from loaders.errors import InputError, WriteError
from tests.hpo.workers import QUIET, SMALL, work

TRIALS, EPOCHS = 6, 5


class Killed(BaseException):
    """In the place of SIGKILL: no line of the study's runs after it, since every later write raises it again."""


def trained(folds, _inputs, _folder, report, _slots, _stop):
    """In the place of a training: validation that depends on the trial's settings and on the epoch."""
    config, values = folds[0][0], []
    for epoch in range(EPOCHS):
        seen = 1000 * config.model.dropout + 7 * math.log(config.train.learning_rate) + epoch * config.objective.tau
        values.append(math.sin(seen) + 0.1 * epoch)
        is_last = epoch + 1 == EPOCHS
        if report(Epoch(epoch + 1, 0, is_last, [max(values)], [max(values)])) and not is_last:
            raise optuna.TrialPruned
    return [max(values)]
    yield


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a study of such trainings to its end.

    Its first attempt has a fault at its first write, the next at its second, and so on until attempts finish trials.
    """
    monkeypatch.setattr(hpo.drive, "run_trial", trained)
    monkeypatch.setattr(hpo.dispatch, "UNHELD", timedelta(0))
    inputs = SimpleNamespace(
        verification=SimpleNamespace(raise_if_failed=lambda: None, wait=lambda: None),
        panel=SimpleNamespace(manifest=SimpleNamespace(horizons=[1, 5])), device=torch.device("cpu"),
    )  # fmt: skip
    whole = Journal.append_logs

    def run(name, algorithms, fault=None):
        asked = work("none", tmp_path / name, TRIALS, settings=algorithms)
        asked.folder.mkdir()
        writes = attempt = 0

        def append(journal, logs):
            nonlocal writes
            writes += 1
            if fault is None or writes <= attempt:
                whole(journal, logs)
            else:
                FAULTS[fault](journal, logs, whole)

        monkeypatch.setattr(Journal, "append_logs", append)
        for attempt in range(100):
            writes = 0
            try:
                study = optuna.create_study(
                    storage=open_storage(None, asked.folder), study_name="s", load_if_exists=True,
                    direction="maximize", pruner=PRUNERS[asked.config.hpo.pruner](),
                )  # fmt: skip
                run_trials(asked, study, inputs, [(asked.config, None)])
                return study, attempt
            except (Killed, WriteError):
                pass
        raise AssertionError("the study does not end")

    return run


def killed_before(_journal, _logs, _whole):
    raise Killed


def killed_after(journal, logs, whole):
    whole(journal, logs)
    raise Killed


def torn(journal, logs, whole):
    """The half of a record is on the disk when the process ends."""
    before = journal._path.stat().st_size
    whole(journal, logs)
    os.truncate(journal._path, (before + journal._path.stat().st_size) // 2)
    raise Killed


def full(journal, logs, whole):
    """Some bytes go in, then none."""
    real, calls = os.pwrite, []

    def write(file, content, at):
        calls.append(at)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, content[:7], at)

    os.pwrite = write
    try:
        whole(journal, logs)
    finally:
        os.pwrite = real


FAULTS = {"killed before": killed_before, "killed after": killed_after, "torn": torn, "full": full}


def figures(study):
    """Of the finished trials, in their order."""
    return [
        (trial.state, trial.params, trial.values, trial.intermediate_values)
        for trial in study.get_trials(deepcopy=False, states=FINISHED)
    ]


@pytest.mark.parametrize(
    ("algorithms", "faults"),
    [
        (("hpo.sampler=tpe", "hpo.pruner=halving"), FAULTS),
        (("hpo.sampler=random", "hpo.pruner=median"), ["torn"]),
        (("hpo.sampler=qmc",), ["torn"]),
    ],
    ids=["tpe-halving", "random-median", "qmc-halving"],
)
def test_a_study_with_faults_has_the_trials_of_an_unbroken_one(run, algorithms, faults):
    unbroken, attempts = run("unbroken", algorithms)
    assert attempts == 0
    expected = figures(unbroken)
    assert {state for state, *_ in expected} == set(FINISHED)
    assert len({str(params) for _, params, *_ in expected}) == TRIALS
    for fault in faults:
        study, attempts = run(fault, algorithms, fault)
        assert attempts > 20, fault
        assert figures(study) == expected, fault
        assert not any(REASON in trial.user_attrs for trial in study.trials), fault
        assert len({trial.user_attrs[FOLDER] for trial in study.get_trials(states=FINISHED)}) == TRIALS, fault


@pytest.fixture
def copied(finished, tmp_path):
    """A finished study of six trials, to be damaged."""
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    return folder, figures(finished[1])


def refused_with(asked, words):
    """The study is refused in one line, and what it had found stays."""
    best = (asked.folder / "best.toml").read_bytes()
    for _ in range(2):
        with pytest.raises(InputError, match=words) as refused:
            run_study(asked, 1, QUIET)
        assert "\n" not in str(refused.value)
    assert (asked.folder / "best.toml").read_bytes() == best


@pytest.mark.parametrize("kept", [0, 0.5])
def test_an_emptied_journal_does_not_begin_again(cache, copied, kept, capsys):
    folder, _ = copied
    size = (folder / JOURNAL).stat().st_size
    os.truncate(folder / JOURNAL, int(kept * size))
    refused_with(work(cache, folder, 6), rf"{JOURNAL}: knows \d trials, and .*trials holds trial 5")
    assert not capsys.readouterr().err


def test_a_journal_that_is_gone_does_not_begin_again(cache, copied):
    folder, _ = copied
    (folder / JOURNAL).unlink()
    refused_with(work(cache, folder, 6), rf"{JOURNAL}: knows 0 trials")


def test_a_second_study_does_not_take_the_folder_of_another(cache, copied, tmp_path):
    folder, expected = copied
    refused_with(work(cache, folder, 6, name="other"), "holds the trials of the study 's', not of 'other'")
    refused_with(work(cache, folder, 6, f"sqlite:///{tmp_path}/other.db"), "other.db: knows 0 trials")
    assert figures(run_study(work(cache, folder, 6), 1, QUIET)) == expected


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_journal_cut_short_goes_on(cache, copied, cut, capsys):
    folder, expected = copied
    journal = folder / JOURNAL
    os.truncate(journal, journal.stat().st_size - cut)
    study = run_study(work(cache, folder, 6), 1, QUIET)
    assert figures(study) == expected
    assert ("which was cut short" in capsys.readouterr().err) == (cut > 1)  # without its newline a record is whole


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"op_code":4\n', "JSONDecodeError"),
        (b"[" * 100_000 + b"\n", "Error"),
        (b'{"op_code":"x"}\n', "Error"),
        (b"[1]\n", "line 21 is no record"),
        (b"\xff\xfe\n", "UnicodeDecodeError"),
    ],
)
def test_a_damaged_line_within_a_journal_is_refused(cache, copied, line, words):
    folder, _ = copied
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    (folder / JOURNAL).write_bytes(b"".join([*lines[:20], line, *lines[20:]]))
    with pytest.raises(InputError, match=rf"{JOURNAL}: damaged.*{words}") as refused:
        run_study(work(cache, folder, 7), 1, QUIET)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("what", ["exchanged", "left out", "twice", "edited"])
def test_lines_of_a_journal_are_those_that_were_written(cache, copied, what):
    """Each line would be a valid one where it is: its checksum tells that the lines before it were others."""
    folder, _ = copied
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    changed = {
        "exchanged": [*lines[: middle - 3], lines[middle], *lines[middle - 2 : middle], lines[middle - 3]],
        "left out": lines[:middle],
        "twice": [*lines[:middle], lines[middle - 1], lines[middle]],
        "edited": [*lines[:middle], lines[middle].replace(b"}", b" }").replace(b"0", b"1")],
    }[what]
    (folder / JOURNAL).write_bytes(b"".join([*changed, *lines[middle + 1 :]]))
    refused_with(work(cache, folder, 7), rf"{JOURNAL}: damaged.*checksum of line \d+ differs")


def test_lines_of_other_tools_have_no_checksum_of_their_own(cache, copied):
    """Optuna itself, and its dashboard, may write to a journal; the next line of ours covers theirs."""
    folder, expected = copied
    backend = JournalFileBackend(str(folder / JOURNAL))
    study = optuna.load_study(study_name="s", storage=JournalStorage(backend))
    study.set_user_attr("note", "mine")
    found = run_study(work(cache, folder, 6), 1, QUIET)
    assert (figures(found), found.user_attrs["note"]) == (expected, "mine")
    content = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(content.replace(b'"mine"', b'"thine"'))
    refused_with(work(cache, folder, 7), rf"{JOURNAL}: damaged.*checksum of line \d+ differs")


@pytest.mark.parametrize("name", ["settings", "epochs", "seconds", "folder"])
def test_an_attribute_of_another_type_is_refused(cache, copied, name):
    folder, _ = copied
    storage = open_storage(None, folder)
    trial = optuna.load_study(study_name="s", storage=storage).ask()
    trial.set_user_attr(name, "red")
    with pytest.raises(InputError, match=f"attribute '{name}' of trial 6 is 'red'"):
        run_study(work(cache, folder, 7), 1, QUIET)


def test_a_damaged_database_is_refused(cache, finished, tmp_path):
    path = tmp_path / "study.db"
    storage = f"sqlite:///{path}"
    optuna.copy_study(
        from_study_name="s", from_storage=open_storage(None, finished[0]), to_storage=open_storage(storage, tmp_path)
    )
    with sqlite3.connect(path) as database:
        (page,) = database.execute("PRAGMA page_size").fetchone()
    content = path.read_bytes()
    for at in range(page, len(content), page):
        path.write_bytes(content[:at] + bytes(page) + content[at + page :])
        try:
            run_study(work(cache, tmp_path / "out", 6, storage), 1, QUIET)
        except InputError as refused:
            assert "\n" not in str(refused)  # noqa: PT017, a page may also be one that nothing reads


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(cache, tmp_path, url):
    with pytest.raises(InputError, match="keeps nothing when the process ends"):
        run_study(work(cache, tmp_path / "out", 1, url), 1, QUIET)


def test_a_folder_that_cannot_be_made_is_one_line(cache, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="cannot be made"):
        run_study(work(cache, tmp_path / "file" / "out", 1), 1, QUIET)


@pytest.mark.parametrize("where", ["file", "/proc/study"])
def test_an_out_that_is_no_folder_is_one_line(cache, tmp_path, run_command, where):
    out = tmp_path / where  # that of an absolute path is the path
    if where == "file":
        out.write_text("x")
    code, _, error = run_command("hpo", "--arrow", cache, "--trials", "1", "--out", out)
    assert (code, error.count("\n")) == (2, 1)
    assert str(out) in error


def test_a_storage_that_keeps_nothing_is_one_line(cache, tmp_path, run_command):
    given = ["--arrow", cache, "--trials", "1", "--out", tmp_path / "out", "--storage", "sqlite:///"]
    code, _, error = run_command("hpo", *given)
    assert (code, error.count("\n")) == (2, 1)


@pytest.mark.parametrize("space", ['{"data.arrow"={choices=["a", "b"]}}', '{"model.dropout"={low=0.0, high=1.0}}'])
def test_a_space_that_can_never_work_begins_no_trial(cache, tmp_path, run_command, space):
    out = tmp_path / "out"
    given = ["--arrow", cache, "--trials", "1", "--out", out, "--set", f"hpo.space={space}"]
    code, _, error = run_command("hpo", *given)
    assert (code, error.count("\n")) == (2, 1)
    assert "hpo.space" in error
    assert not list(out.glob("*"))


def test_a_full_disk_ends_the_study_and_costs_no_trial(cache, finished, tmp_path, monkeypatch):
    """In the middle of a training, when a checkpoint is written."""
    asked = work(cache, tmp_path / "out", 3)
    real, saved = engine.checkpoint.write_atomically, []

    def save(path, content):
        saved.append(path)
        if len(saved) == 5:
            raise WriteError(str(path), "could not be written (No space left on device)", "Make room")
        real(path, content)

    monkeypatch.setattr(engine.checkpoint, "write_atomically", save)
    with pytest.raises(WriteError, match="No space left"):
        run_study(asked, 1, QUIET)
    study = run_study(asked, 1, QUIET)
    assert not any(REASON in trial.user_attrs for trial in study.trials)
    assert sum(trial.state == TrialState.FAIL for trial in study.trials) == 1
    assert figures(study) == figures(finished[1])[:3]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"), "allocate"),
        (MemoryError(), None),
    ],
    ids=["files", "torch", "memory"],
)
def test_what_the_machine_does_not_give_costs_no_trial(cache, finished, tmp_path, monkeypatch, fault, words):
    """When the last checkpoint of a trial that was stopped is read."""
    asked = work(cache, tmp_path / "out", 2)
    with monkeypatch.context() as stopped:
        stopped.setattr(optuna.Study, "tell", lambda *_, **__: raised(Killed))
        with pytest.raises(Killed):
            run_study(asked, 1, QUIET)
    with monkeypatch.context() as poor:
        if isinstance(fault, OSError):
            real = loaders.disk.content.read_plain
            poor.setattr(
                loaders.disk.content, "read_plain",
                lambda path: raised(fault) if path.name == LAST else real(path),
            )  # fmt: skip
        else:
            poor.setattr(loaders.disk.tensors, "load", lambda _: raised(fault))
        with pytest.raises((InputError, MemoryError), match=words):
            run_study(asked, 1, QUIET)
    study = run_study(asked, 1, QUIET)
    assert not any(REASON in trial.user_attrs for trial in study.trials)
    assert figures(study) == figures(finished[1])[:2]


def raised(error):
    raise error


def test_a_journal_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    study = optuna.create_study(storage=open_storage(None, tmp_path))
    monkeypatch.setattr("builtins.open", lambda *_: raised(OSError(errno.EMFILE, "Too many open files")))
    with pytest.raises(WriteError, match=rf"{JOURNAL}: cannot be read \(Too many open files\)"):
        study.get_trials()


def test_threads_of_a_study_leave_a_storage_that_fails_to_those_who_run_trials(cache, tmp_path, monkeypatch, capsys):
    """The screen asks for the status, and Optuna's thread writes heartbeats."""
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda what: told.append(what.exc_value))
    storage = open_storage(f"sqlite:///{tmp_path}/study.db", tmp_path)
    trial = optuna.create_study(storage=storage).ask()
    gone = StorageInternalError("the server closed the connection")
    monkeypatch.setattr(RDBStorage, "record_heartbeat", lambda *_: raised(gone))
    storage.record_heartbeat(trial._trial_id)

    def fail(*_):
        raise gone

    def run(*_):
        monkeypatch.setattr(hpo.study, "status", fail)
        time.sleep(1.2)  # more than a second, after which the screen asks
        raise gone

    monkeypatch.setattr(hpo.study, "run_trials", run)
    with pytest.raises(InputError, match=r"the storage failed \(StorageInternalError: the server closed"):
        run_study(work(cache, tmp_path / "out", 1), 1, Console(force_terminal=True))
    assert not told
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_ends_workers_with_one_line(cache, tmp_path):
    command = [sys.executable, "-m", "hpo", "hpo", "--trials", "100", "--workers", "2", "--arrow", str(cache)]
    command += ["--out", str(tmp_path / "out"), *(part for setting in SMALL for part in ("--set", setting))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    journal, end = tmp_path / "out" / JOURNAL, time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b'"op_code":6') > 1):  # an epoch of a trial is reported
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.decode().count("\n") == 1, error.decode()
    assert "stopped by a signal" in error.decode()
