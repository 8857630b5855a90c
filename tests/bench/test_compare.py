"""The comparison: pairs runs of one machine, reads what was written, refuses what is no run in one line."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from bench.compare import main
from bench.measurement.machine import machine_name
from bench.measurement.record import HISTORY, Record, read_history, write_record

MACHINE = "Some CPU (TM) @ 2.60GHz, 2 cores"
CONTRACT = {
    "samples_per_s", "bytes_per_s", "peer", "ratio", "limit_bytes_per_s", "share_of_limit", "peak_memory_bytes",
}  # fmt: skip


def record(commit, time, machine=MACHINE, **rates):
    figures = {
        f"test_gather[host-{peer}-L20]": {
            "median_s": 0.01,
            "rounds": 5,
            "samples_per_s": rate,
            "bytes_per_s": 8e9,
            "peer": peer,
            "ratio": 1 / 3,
            "limit_bytes_per_s": 16e9,
            "share_of_limit": 0.5,
            "peak_memory_bytes": 17_000_000,
        }
        for peer, rate in rates.items()
    }
    return Record(machine, commit, time, {"numpy": "2.4.6"}, figures)


@pytest.fixture
def history(tmp_path):
    """Three runs of one machine, and one of another between the last two."""
    write_record(tmp_path, record("aaa", "2026-01-01T00:00:00+00:00", spawn=1e6))
    write_record(tmp_path, record("bbb", "2026-01-02T00:00:00+00:00", spawn=2e6, gone=1e6))
    write_record(tmp_path, record("ccc", "2026-01-03T00:00:00+00:00", "Other, 4 cores", spawn=9e6))
    write_record(tmp_path, record("ddd", "2026-01-04T00:00:00+00:00", spawn=3e6, new=1e6))
    return tmp_path


def refused(capsys, *words):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    for word in words:
        assert word in err, err


def test_run_is_read_as_it_was_written(tmp_path):
    written = record("abc", "2026-01-01T00:00:00+00:00", spawn=29_123_456.789)
    path = write_record(tmp_path, written)
    assert path.name == "some-cpu-tm-2-60ghz-2-cores_abc.json"
    (read,) = read_history(tmp_path)
    figures = read.benchmarks["test_gather[host-spawn-L20]"]
    assert figures["samples_per_s"] == 29_123_500  # six digits
    assert figures["peak_memory_bytes"] == 17_000_000
    assert (read.machine, read.commit, read.time, read.versions) == (
        written.machine, written.commit, written.time, written.versions,
    )  # fmt: skip


def test_same_commit_on_same_machine_is_replaced(history):
    write_record(history, record("ddd", "2026-01-05T00:00:00+00:00", spawn=1e6))
    assert [r.commit for r in read_history(history)] == ["aaa", "bbb", "ccc", "ddd"]


def test_markdown_compares_with_the_run_before_on_the_same_machine(history, capsys):
    assert main(["--history", str(history), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{MACHINE}: ddd (2026-01-04), before: bbb (2026-01-02)"
    assert lines[2:6] == [
        "| benchmark | M samples/s | GB/s | of limit | peer / ours | before / now | peak MB | peer MB | notes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        "| gather host-spawn-L20 | 3.00 | 8.00 | 50% | 0.33 | 1.50 | 17.0 | - | - |",
        "| gather host-new-L20 | 1.00 | 8.00 | 50% | 0.33 | - | 17.0 | - | - |",
    ]
    assert not any("gone" in line for line in lines)


def test_benchmark_without_samples_is_compared_by_its_time(tmp_path, capsys):
    for commit, day, median in (("aaa", 1, 0.04), ("bbb", 2, 0.01)):
        figures = {"test_rank[host-L20]": {"median_s": median, "rounds": 5}}
        write_record(tmp_path, Record(MACHINE, commit, f"2026-01-0{day}T00:00:00+00:00", {}, figures))
    assert main(["--history", str(tmp_path), "--markdown"]) == 0
    assert "| rank host-L20 | - | - | - | - | 4.00 | - | - | - |" in capsys.readouterr().out


def test_kernels_are_compared_by_cells_and_have_notes_of_their_own(tmp_path, capsys):
    figures = {
        "test_soft_rank[torchsort-G16-N500]": {
            "cells_per_s": 2e6, "peak_memory_bytes": 1e6, "peer_peak_memory_bytes": 3e6, "peer_device": "cpu",
        },
        "test_growth[soft_rank-G64-N2000-N8000]": {"cells_per_s": 4e6, "growth": 1.0567, "n_log_n_growth": 1.121},
        "test_step": {"samples_per_s": 3e6, "share_of_step": 0.0432},
    }  # fmt: skip
    slower = {name: {**own, "cells_per_s": 1e6} for name, own in figures.items() if "cells_per_s" in own}
    for commit, day, results in (("aaa", 1, slower), ("bbb", 2, figures)):
        results = {name: {"median_s": 1.0, "rounds": 5, **own} for name, own in results.items()}
        write_record(tmp_path, Record(MACHINE, commit, f"2026-01-0{day}T00:00:00+00:00", {}, results))
    assert main(["--history", str(tmp_path), "--markdown"]) == 0
    assert capsys.readouterr().out.splitlines()[4:7] == [
        "| soft_rank torchsort-G16-N500 | 2.00 | - | - | - | 2.00 | 1.0 | 3.0 | peer on the cpu |",
        "| growth soft_rank-G64-N2000-N8000 | 4.00 | - | - | - | 4.00 | - | - | time as N^1.06, N log N is N^1.12 |",
        "| step | 3.00 | - | - | - | - | - | - | objective 4.3% of the step |",
    ]


def test_terminal_table_shows_whole_names(history, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["--history", str(history)]) == 0
    out = capsys.readouterr().out
    for word in (MACHINE, "gather host-spawn-L20", "gather host-new-L20", "1.50", "before: bbb"):
        assert word in out


def test_first_run_of_a_machine_has_nothing_before_it(tmp_path, capsys):
    write_record(tmp_path, record("aaa", "2026-01-01T00:00:00+00:00", spawn=1e6))
    assert main(["--history", str(tmp_path), "--markdown"]) == 0
    assert "no run before it on this machine" in capsys.readouterr().out


def test_no_history_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["--history", str(tmp_path / "nowhere")]) == 2
    refused(capsys, "nowhere", "no benchmark run", "--history")


@pytest.mark.parametrize("text", ["{", "[]", "3", json.dumps({"machine": "x"}), json.dumps({"benchmarks": {}, "x": 1})])
def test_file_that_is_no_run_is_named(history, capsys, text):
    (history / "broken.json").write_text(text)
    assert main(["--history", str(history)]) == 2
    refused(capsys, "broken.json", "not a benchmark run")


def test_machine_is_named_without_its_owner():
    name = machine_name()
    assert " cores" in name
    assert platform.node() not in name


@pytest.mark.parametrize("path", sorted(HISTORY.glob("*.json")), ids=lambda path: path.stem)
def test_kept_runs_hold_the_figures_of_the_contract_and_nothing_of_their_owner(path):
    (kept,) = (r for r in read_history(HISTORY) if json.loads(path.read_text()) == r.__dict__)
    for name, figures in kept.benchmarks.items():
        if name.startswith("test_gather["):
            assert set(figures) == {"median_s", "rounds"} | CONTRACT
            assert f"-{figures['peer']}-" in name
    text = path.read_text()
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[2]) not in text


def test_benchmarks_are_named_by_tier_peer_and_size_and_full_adds_sizes():
    def collected(*options):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "bench/bench_loader.py",
            "--benchmark-only",
            "--collect-only",
            *options,
        ]
        # A worker of pytest-xdist may run this test; the command is not one.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True, check=True
        )
        return {line for line in done.stdout.splitlines() if "::test_gather[" in line}

    default, full = collected(), collected("--full")
    assert default < full
    for peer in ("memcpy", "spawn", "spawn_blocks"):
        for size in ("L20", "L60"):
            assert sum(f"[host-{peer}-{size}-" in name for name in default) == 2  # float16 and float32
