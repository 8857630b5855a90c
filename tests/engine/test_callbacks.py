"""Callbacks: what they are told, one that raises, MLflow and Weights & Biases without a network."""

import json

import pytest

import engine
from engine.callbacks.protocol import named_callbacks
from engine.errors import RunFailed
from loaders.errors import InputError
from tests.conftest import SMALL
from tests.own_models import Broken, Recorder

SHORT = [*SMALL, "train.epochs=2"]


def test_it_is_told_of_everything_in_order(small_cache, tmp_path):
    recorder = Recorder()
    run = engine.train(cache=small_cache, settings=SHORT, callbacks=[recorder], out=tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [hook for hook, _ in recorder.told] == ["start", *["epoch", "validation"] * 2, "end"]
    epochs = [result for hook, result in recorder.told if hook == "epoch"]
    assert [(e.epoch, e.step, e.losses) for e in epochs] == [(x["epoch"], x["step"], x["train"]) for x in lines]
    assert [line for hook, line in recorder.told if hook == "validation"] == lines
    assert recorder.told[-1][1] == json.loads((run.folder / "summary.json").read_text())


@pytest.mark.parametrize("hook", ["on_epoch", "on_validation"])
def test_one_that_raises_fails_the_run_which_resumes_to_the_digit(small_cache, small_run, tmp_path, hook):
    broken = Broken(hook)
    with pytest.raises(RunFailed) as failed:
        engine.train(cache=small_cache, settings=SMALL, callbacks=[broken], out=tmp_path / "run", quiet=True)
    message = str(failed.value)
    assert f"Broken.{hook} raised ValueError: no more disk (" in message
    assert message.endswith(f"The run is saved; resume with --resume --out {tmp_path / 'run'}")
    assert "\n" not in message
    assert broken.told[-1] == ("failure", failed.value)
    assert not (tmp_path / "run" / "summary.json").exists()
    engine.train(out=tmp_path / "run", resume=True, quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (small_run / "metrics.jsonl").read_text()


def test_the_command_line_names_them_and_says_what_they_raised(small_cache, tmp_path, run_command):
    settings = [argument for setting in SHORT for argument in ("--set", setting)]
    code, _, err = run_command(
        "train", "--arrow", small_cache, "--out", tmp_path / "run", "--callback", "tests.own_models:Broken", *settings
    )
    assert code == 1
    assert err.startswith(f"failed: {tmp_path / 'run'}: Broken.on_epoch raised ValueError: no more")
    assert err.count("\n") == 1
    with pytest.raises(InputError, match=r"tests\.own_models:C is int, no"):
        named_callbacks(["tests.own_models:C"])
    with pytest.raises(InputError, match="is int, no"):
        engine.train(cache=small_cache, callbacks=[3])


def test_mlflow_has_settings_metrics_and_files_and_goes_on_in_its_run(small_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of a store that is a file
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(RunFailed):
        engine.train(
            cache=small_cache, settings=SHORT, out=tmp_path / "run", quiet=True,
            callbacks=[engine.MLflow("mine", uri), Broken("on_validation", epoch=1)],
        )  # fmt: skip
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("mine").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]
    run = engine.train(out=tmp_path / "run", resume=True, callbacks=[engine.MLflow("mine", uri)], quiet=True)
    (logged,) = client.search_runs([experiment])
    summary = json.loads((run.folder / "summary.json").read_text())
    assert logged.info.status == "FINISHED"
    assert logged.data.params["train.epochs"] == "2"
    assert logged.data.metrics["best_test/1/rank_ic"] == pytest.approx(summary["splits"]["test"]["1"]["rank_ic"])
    assert [m.step for m in client.get_metric_history(logged.info.run_id, "valid_rank_ic")] == [24, 48]
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} >= {"config.toml", "summary.json"}


def test_wandb_logs_offline_into_the_run_folder(small_cache, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    callback = engine.WandB(project="mine", mode="offline")
    seen = {}
    real = callback._finish

    def finish(code):
        seen.update(dict(callback.logged.summary), code=code)
        real(code)

    monkeypatch.setattr(callback, "_finish", finish)
    settings = [*SMALL, "train.epochs=1"]
    run = engine.train(cache=small_cache, settings=settings, callbacks=[callback], out=tmp_path / "run", quiet=True)
    summary = json.loads((run.folder / "summary.json").read_text())
    assert seen["code"] == 0
    assert seen["best_test/1/rank_ic"] == pytest.approx(summary["splits"]["test"]["1"]["rank_ic"])
    (folder,) = (run.folder / "wandb").glob("offline-run-*")
    assert next(folder.glob("*.wandb")).stat().st_size > 0


@pytest.mark.parametrize(("name", "package"), [("MLflow", "mlflow"), ("WandB", "wandb")])
def test_a_package_that_is_not_installed_is_one_line(name, package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InputError, match=rf"pip install 'atft-engine\[{package}\]'"):
        getattr(engine, name)()
