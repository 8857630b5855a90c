"""Every command: it works, and bad input is one line on stderr, exit code 2, nothing left behind."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SMALL


@pytest.fixture
def cache(small_cache):
    return small_cache


@pytest.fixture
def trained(small_run):
    return small_run


def refused(result, *words):
    code, _, err = result
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")
    for word in words:
        assert word in err, err


def test_build_inspect_verify(run_command, tmp_path):
    days = [f"2020-01-{day:02d}" for day in range(1, 29)]
    table = pa.table(
        {
            "date": days * 30,
            "code": [f"c{i}" for i in range(30) for _ in days],
            "size": [float(i + d) for i in range(30) for d in range(28)],
            "ret_1": [0.01 * ((i * d) % 7) for i in range(30) for d in range(28)],
        }
    )
    pq.write_table(table, tmp_path / "panel.parquet")
    out = tmp_path / "cache"
    code, _, err = run_command(
        "cache", "build", tmp_path / "panel.parquet", "--out", out, "--features", "size", "--targets", "ret_1",
        "--horizons", "1",
    )  # fmt: skip
    assert code == 0, err
    code, stdout, _ = run_command("cache", "inspect", out, "--json")
    assert code == 0
    assert json.loads(stdout)["rows"] == 28 * 30
    code, stdout, _ = run_command("cache", "inspect", out)
    assert code == 0
    assert "tier here" in stdout
    code, stdout, _ = run_command("cache", "inspect", tmp_path, "--json")  # a folder of caches
    assert (code, json.loads(stdout)["codes"]) == (0, sorted(f"c{i}" for i in range(30)))
    assert run_command("cache", "verify", out)[0] == 0
    with (out / "panel.arrow").open("r+b") as file:
        file.seek(-2000, 2)
        byte = file.read(1)
        file.seek(-2000, 2)
        file.write(bytes([byte[0] ^ 1]))
    refused(run_command("cache", "verify", out), "chunk 0")


def test_simulate(run_command, tmp_path):
    out = tmp_path / "cache"
    code, stdout, _ = run_command("cache", "simulate", "--out", out, "--codes", 40, "--days", 100, "--features", 8)
    assert code == 0
    assert "oracle" in stdout.lower()
    assert set(json.loads((out / "manifest.json").read_text())["simulation"]["oracle_rank_ic"]) == {"1", "5"}


def test_evaluate_predict_and_compare(run_command, cache, trained, tmp_path):
    code, stdout, err = run_command("evaluate", trained, "--json")
    assert code == 0, err
    summary = json.loads((trained / "summary.json").read_text())
    assert json.loads(stdout)["splits"]["test"] == summary["splits"]["test"]

    scores = tmp_path / "scores.parquet"
    assert run_command("predict", trained, "--arrow", cache, "--out", scores)[0] == 0
    schema = pq.read_schema(scores)
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "date": "date32[day]", "code": "string", "score_1": "float", "score_5": "float",
    }  # fmt: skip
    code, stdout, err = run_command("evaluate", scores, "--arrow", cache, "--json")
    assert code == 0, err
    assert json.loads(stdout)["splits"]["test"] == summary["splits"]["test"]

    code, stdout, err = run_command("evaluate", trained, "--against", scores, "--arrow", cache, "--json")
    assert code == 0, err
    assert json.loads(stdout)["against"]
    assert run_command("evaluate", trained, scores, "--arrow", cache)[0] == 0


@pytest.mark.parametrize("kind", ["ridge", "reversal", "lightgbm", "online"])
def test_baselines(run_command, cache, tmp_path, kind):
    if kind == "lightgbm":
        pytest.importorskip("lightgbm", reason="LightGBM is not installed (extra `peers`)")
    code, stdout, err = run_command(
        "baseline", "--arrow", cache, "--kind", kind, "--json", "--out", tmp_path / "s.parquet"
    )
    assert code == 0, err
    test = json.loads(stdout)["splits"]["test"]
    assert test["1"]["rank_ic"] < -0.05 if kind == "reversal" else test["1"]["rank_ic"] > 0.1
    code, stdout, err = run_command("evaluate", tmp_path / "s.parquet", "--arrow", cache, "--json")
    assert code == 0, err
    assert json.loads(stdout)["splits"]["test"] == test
    assert run_command("baseline", "--arrow", cache, "--kind", kind)[0] == 0


def test_bad_input_of_every_command(run_command, cache, trained, tmp_path):
    missing = tmp_path / "missing"
    for arguments in (
        ("cache", "inspect", missing),
        ("cache", "verify", missing),
        ("train", "--arrow", missing, "--out", tmp_path / "run"),
        ("baseline", "--arrow", missing),
        ("evaluate", missing),
        ("predict", missing, "--out", tmp_path / "s.parquet"),
        ("cache", "build", missing, "--out", tmp_path / "c"),
    ):
        refused(run_command(*arguments), "missing")
    refused(run_command("cache", "build", missing, "--out", tmp_path / "c", "--horizons", "5,5"), "--horizons")
    refused(run_command("cache", "simulate", "--out", tmp_path / "c", "--codes", 3), "codes")
    refused(run_command("cache", "simulate", "--out", tmp_path / "c", "--horizons", "x"), "--horizons")
    refused(run_command("train", "--arrow", cache, "--set", "train.epoch=1"), "train.epoch")
    refused(run_command("train", "--arrow", cache, "--resume", "--out", missing), "resume")
    refused(run_command("train", "--arrow", cache, "--out", trained), "not empty")
    refused(run_command("train", "--arrow", cache, "--set", "train.device=tpu"), "train.device")
    dates = ("--set", "split.valid_start=2030-01-01", "--set", "split.test_start=2031-01-01")
    refused(run_command("train", "--arrow", cache, *dates), "empty")
    refused(run_command("baseline", "--arrow", cache, *dates), "empty")
    refused(run_command("baseline", "--arrow", cache, "--kind", "reversal", "--feature", "nope"), "nope")
    not_scores = tmp_path / "not_scores.parquet"
    not_scores.write_bytes(b"PAR1")
    refused(run_command("evaluate", not_scores, "--arrow", cache), "not_scores.parquet")
    refused(run_command("evaluate", trained, "--against", not_scores), "not_scores.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["not_scores.parquet"]


def test_usage_errors_exit_with_2(run_command):
    assert run_command("train", "--nonsense")[0] == 2
    assert run_command("evaluate")[0] == 2
    assert run_command("baseline", "--kind", "oracle")[0] == 2


def test_training_needs_no_optional_package(cache, tmp_path):
    """In a process where they cannot be imported: the engine's imports, training, evaluation and prediction work."""
    program = """
import json, sys
for name in ("polars", "optuna", "matplotlib", "nvidia.dali", "lightgbm", "scipy"):
    sys.modules[name] = None
import engine, kernels, loaders
from engine.cli.app import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["atft-engine", *command]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""
    out = str(tmp_path / "run")
    settings = [part for setting in (*SMALL, "train.epochs=1") for part in ("--set", setting)]
    commands = [
        ["train", "--arrow", str(cache), "--out", out, *settings],
        ["evaluate", out],
        ["predict", out, "--out", str(tmp_path / "s.parquet")],
        ["baseline", "--arrow", str(cache), "--kind", "ridge"],
    ]
    subprocess.run([sys.executable, "-c", program, json.dumps(commands)], check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "s.parquet").exists()
