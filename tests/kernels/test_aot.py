"""Compiled for sm_80 and sm_90: nothing spills, the table says what is launched, files and exit codes.

No GPU is needed. Sorts of 1,024 and 2,048, which take minutes more, are left to the command.
"""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from triton.runtime.jit import mangle_type

from kernels import aot, block_gather
from kernels.cuda import correlation, rank_objective, soft_rank

PROGRAMS = aot.programs()
FOLDER = Path(aot.__file__).parent
LEFT_OUT = (1024, 2048)


@pytest.fixture(scope="module")
def compiled():
    return aot.measure(p for p in PROGRAMS if p.constants.get("BLOCK") not in LEFT_OUT)


def test_nothing_spills(compiled):
    assert {figures.target for figures in compiled} == {"sm_80", "sm_90"}
    assert {figures.name for figures in compiled} == {program.name for program in PROGRAMS}
    for figures in compiled:
        assert figures.spill_bytes == 0, figures
        assert figures.registers * 32 * figures.warps <= 65536, figures
        assert figures.occupancy > 0, figures


def test_what_spills_is_seen():
    """Tiles of 1,024 by one warp: three float64 sums of 32 entries a thread, and it has 255 registers of 4 bytes."""
    walk = next(p for p in PROGRAMS if p.function == "_correlate")
    figures = aot.measure([replace(walk, warps=1)], [aot.H100])[0]
    assert figures.registers == 255
    assert figures.spill_bytes > 0


class Recorder:
    """In the place of a kernel: keeps what it is launched with."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid):
        return lambda *arguments, **keywords: self.launches.append((arguments, keywords))


def launch(n):
    """Call every function that launches kernels, on cross-sections of n entries."""
    rows, levels = torch.empty(2, n), torch.empty(3)
    mask, order, one = torch.ones(2, n, dtype=torch.bool), torch.zeros(2, n, dtype=torch.int32), torch.ones(())
    soft_rank.forward(rows, mask, one)
    soft_rank.backward(rows, mask, one, order, rows, rows, levels)
    correlation.pearson(rows, rows, mask)
    correlation.average_ranks(rows, mask)
    for ranked in (True, False):
        deep, weights = rows[None], torch.empty(8)
        rank_objective.rank_objective(
            deep, deep, deep, mask[None], torch.empty(1, 2, n, 3), weights, one[None], one, one, levels, order[0],
            ranked,
        )  # fmt: skip
    address = torch.zeros(3, 2, dtype=torch.int64)
    x, presence, y = torch.empty(2, 128, 5), torch.empty(2, 128, dtype=torch.uint8), torch.empty(2, 109, 2)
    for half in (True, False):
        block_gather.gather_block(address, *address[:2], half, address[2], 0, 20, (0, 9), 2, x, presence, y)


@pytest.mark.parametrize("n", aot.SIZES)
def test_the_table_is_what_is_launched(n, monkeypatch):
    kernels = {}
    for program in PROGRAMS:
        module = import_module(program.module)
        if (program.module, program.function) not in kernels:
            kernel, recorder = getattr(module, program.function), Recorder()
            kernels[program.module, program.function] = kernel.arg_names, recorder
            monkeypatch.setattr(module, program.function, recorder)
    launch(n)
    known = [(p.module, p.function, p.constants | {"num_warps": p.warps}) for p in PROGRAMS]
    for (module, function), (names, recorder) in kernels.items():
        assert recorder.launches, function
        for arguments, keywords in recorder.launches:
            assert (module, function, keywords) in known
            given = [name for name in names if name not in keywords]
            types = {name: mangle_type(value) for name, value in zip(given, arguments, strict=True)}
            assert {name: kind.replace("u1", "i1") for name, kind in types.items()} == {
                name: aot.ARGUMENTS[name] for name in given
            }, function


def test_every_argument_of_the_table_is_one_of_a_kernel():
    kernels = [getattr(import_module(program.module), program.function) for program in PROGRAMS]
    known = {name for kernel in kernels for name in kernel.arg_names}
    constants = {name for program in PROGRAMS for name in program.constants}
    assert known == set(aot.ARGUMENTS) | constants
    assert {name for program in PROGRAMS for name in program.ones} <= set(aot.ARGUMENTS)


def test_every_kernel_that_is_launched_is_in_the_table():
    """A launch is a call of something indexed by a grid: name[grid](...)."""
    launched = {
        (".".join(path.relative_to(FOLDER.parent).with_suffix("").parts), node.func.value.id)
        for path in FOLDER.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript) and isinstance(node.func.value, ast.Name)
    }
    assert launched == {(program.module, program.function) for program in PROGRAMS}


def test_occupancy_by_what_runs_out_first():
    """Against NVIDIA's occupancy calculator."""
    assert aot.occupancy(32, 0, 8, aot.A100) == 1
    assert aot.occupancy(33, 0, 8, aot.A100) == 48 / 64  # 1,280 registers a warp: 12 warps for each part
    assert aot.occupancy(128, 0, 16, aot.A100) == 16 / 64
    assert aot.occupancy(16, 0, 1, aot.A100) == 32 / 64  # programs
    assert aot.occupancy(64, 65536, 16, aot.A100) == aot.occupancy(64, 65536, 16, aot.H100) == 32 / 64
    assert aot.occupancy(32, 65536, 16, aot.H100) == 48 / 64  # shared memory
    assert aot.occupancy(255, 0, 32, aot.A100) == 0


def test_counts_and_bounds(compiled):
    """Of the shortest sorts: what enters and leaves, the stages of a bitonic network, and the longer of two times."""
    n = 512
    exchanges = sum(n // 2 for length in range(1, 10) for _ in range(length))
    found = {(f.name, f.target): f for f in compiled if f.shape == "N=512"}
    forward, ranks = found["soft_rank._forward", "sm_80"], found["correlation._ranks", "sm_90"]
    assert (forward.bytes, forward.operations) == (n * (4 + 1 + 4 + 4 + 4 + 4), exchanges + 28 * n)
    assert (ranks.bytes, ranks.operations) == (n * (4 + 1 + 4), exchanges + 8 * n)
    assert forward.bound_us == pytest.approx(1e6 * forward.bytes / 2.039e12)
    assert ranks.bound_us == pytest.approx(1e6 * ranks.bytes / 3.35e12)


@pytest.fixture
def quick(monkeypatch, compiled):
    """The command, with figures that are there already."""
    monkeypatch.setattr(aot, "measure", lambda programs: compiled)


def test_json(quick, compiled, tmp_path, capsys):
    assert aot.main(["--json", str(tmp_path / "a.json")]) == 0
    kernels = json.loads((tmp_path / "a.json").read_text())["kernels"]
    assert len(kernels) == len(compiled)
    for kernel, figures in zip(kernels, compiled, strict=True):
        assert kernel.keys() >= {"name", "target", "shape", "registers", "shared_bytes", "spill_bytes"}
        assert kernel == vars(figures)
    printed = capsys.readouterr().out
    assert all(figures.name in printed for figures in compiled)


def test_a_spill_fails_and_is_named(monkeypatch, compiled, tmp_path, capsys):
    monkeypatch.setattr(aot, "measure", lambda programs: [replace(compiled[0], spill_bytes=24), *compiled[1:]])
    assert aot.main(["--json", str(tmp_path / "a.json")]) == 1
    error = capsys.readouterr().err
    assert error.splitlines() == [
        f"failed: {compiled[0].name}, {compiled[0].shape}, {compiled[0].target}: 24 bytes of a thread are spilled"
    ]
    assert json.loads((tmp_path / "a.json").read_text())["kernels"][0]["spill_bytes"] == 24


@pytest.mark.parametrize("path", ["absent/a.json", "."])
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path, path):
    command = [sys.executable, "-m", "kernels.aot", "--json", str(tmp_path / path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / path) in done.stderr
