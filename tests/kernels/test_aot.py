"""Compiled for sm_80 and sm_90: nothing spills, every launched kernel is compiled, files and exit codes.

No GPU is needed. The command compiles everything, which takes minutes. The tests compile of the sorts the longest,
whose threads hold the most entries in the fewest registers, and of every kernel the general variant, in which nothing
is known of the arguments.
"""

import ast
import json
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from kernels import aot
from kernels.limits import LONGEST

FOLDER = Path(aot.__file__).parent
FIGURES = [
    aot.Figures("soft_rank._forward", "sm_80", "N=512", 56, 4096, 0, 2, 0.56),
    aot.Figures("correlation._correlate", "sm_90", "any N (8192)", 64, 64, 0, 8, 0.5),
]


@pytest.fixture(scope="module")
def compiled():
    """Figures of the general variants, and of a program that has to spill, for H100."""
    chosen = [replace(program, variants=program.variants[:1]) for program in aot.programs((LONGEST,))]
    walk = next(p for p in chosen if p.function == "_correlate" and p.constants["TILE"] == 1024)
    *found, _, spilling = aot.measure([*chosen, replace(walk, warps=1, most_registers=255)])
    return chosen, found, spilling


def test_nothing_spills(compiled):
    chosen, found, _ = compiled
    assert [(f.name, f.shape, f.target) for f in found] == [
        (program.name, program.shape, target) for program in chosen for target in ("sm_80", "sm_90")
    ]
    for figures in found:
        assert figures.spill_bytes == 0, figures
        assert figures.registers * 32 * figures.warps <= 65536, figures
        assert figures.occupancy > 0, figures


def _assembly(program):
    """PTX for both cards; a function that another process can import."""
    return [aot.compile_variant(program, card, program.variants[0]).asm["ptx"] for card in aot.CARDS]


def test_maxima_and_minima_keep_nan(compiled):
    """Hardware's max.f32 drops a NaN that numpy's keeps; max.NaN.f32 does not. See kernels.cuda.selects."""
    kept = 0
    with ProcessPoolExecutor(2, get_context("spawn"), aot.without_interpreter) as pool:
        for program, assemblies in zip(compiled[0], pool.map(_assembly, compiled[0]), strict=True):
            for ptx in assemblies:
                assert not re.findall(r"\b(?:max|min)\.(?:ftz\.)?f32", ptx), program.name
                kept += len(re.findall(r"\b(?:max|min)\.NaN\.f32", ptx))
    assert kept > 0


def test_what_spills_is_seen(compiled):
    """Tiles of 1,024 by one warp: three float64 sums of 32 entries a thread, and it has 255 registers of 4 bytes."""
    *_, figures = compiled
    assert figures.registers == 255
    assert figures.spill_bytes > 0


def test_names_and_shapes_stay_as_others_read_them():
    sizes = [f"N={n}" for n in (128, 512, 1024, 2048, 4096, 8192)]
    tiles = ("N up to 64", "N up to 512", "any N (8192)")
    assert [(program.name, program.shape) for program in aot.programs()] == [
        *(
            ("block_gather._gather_features", f"2048 values of {kind}{of}")
            for kind in ("float16", "float32")
            for of in ("", ", of a table")
        ),
        ("block_gather._gather_labels", "128 days, H=2"),
        ("block_gather._gather_labels", "128 days, H=2, of a table"),
        *(("correlation._correlate", shape) for shape in tiles),
        *(("correlation._ranks", shape) for shape in sizes),
        *(("rank_objective._prepare", shape) for shape in sizes),
        *(("rank_objective._terms", f"{shape}, {kind}") for shape in tiles for kind in ("ranked", "not ranked")),
        *(("soft_rank._backward", shape) for shape in tiles),
        *(("soft_rank._forward", shape) for shape in sizes),
        ("uniforms._uniforms", "1024 values"),
    ]


def test_types_and_variants_are_those_of_launches():
    (program,) = (p for p in aot.programs((1000,)) if p.shape == "any N (8192), ranked")
    types = {"scores": "*fp32", "mask": "*u1", "rotations": "*i32", "loss": "*fp32", "size": "i32", "TILE": "constexpr"}
    assert {name: program.types[name] for name in types} == types
    assert program.constants == {"RANKED": True, "TILE": 1024}
    assert (program.warps, program.most_registers) == (8, None)
    general, multiples = program.variants
    assert general == {}
    counts = ("horizons", "sections", "levels_count", "shifts")  # which launches do not specialise on
    assert multiples == dict.fromkeys([name for name in program.types if name not in {*program.constants, *counts}], 16)


def test_every_kernel_that_is_launched_is_compiled():
    """A launch is a call of a function indexed by a grid: name[grid](...)."""
    launched = set()
    for path in FOLDER.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        calls = (node.func for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript))
        module = ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts)
        launched |= {(module, call.value.id) for call in calls if getattr(call.value, "id", None) in functions}
    assert launched == {(program.module, program.function) for program in aot.programs((512,))}
    assert len(launched) == 9


def test_occupancy_by_what_runs_out_first():
    """Against NVIDIA's occupancy calculator."""
    assert aot.occupancy(32, 0, 8, aot.A100) == 1
    assert aot.occupancy(33, 0, 8, aot.A100) == 48 / 64  # 1,280 registers a warp: 12 warps for each part
    assert aot.occupancy(128, 0, 16, aot.A100) == 16 / 64
    assert aot.occupancy(16, 0, 1, aot.A100) == 32 / 64  # programs
    assert aot.occupancy(64, 65536, 16, aot.A100) == aot.occupancy(64, 65536, 16, aot.H100) == 32 / 64
    assert aot.occupancy(32, 65536, 16, aot.H100) == 48 / 64  # shared memory
    assert aot.occupancy(255, 0, 32, aot.A100) == 0


def command(monkeypatch, figures, *arguments):
    """The exit code of the command, with these figures as what it measures."""
    monkeypatch.setattr(aot, "measure", lambda programs: figures)
    return aot.main(list(arguments))


def test_json(monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, FIGURES, "--json", str(tmp_path / "a.json")) == 0
    kernels = json.loads((tmp_path / "a.json").read_text())["kernels"]
    assert kernels == [vars(figures) for figures in FIGURES]
    assert all(
        kernel.keys() >= {"name", "target", "shape", "registers", "shared_bytes", "spill_bytes"} for kernel in kernels
    )
    assert "| soft_rank._forward     | sm_80  | N=512        | 2     | 56        | 4,096" in capsys.readouterr().out


def test_a_spill_fails_and_is_named(monkeypatch, tmp_path, capsys):
    figures = [replace(FIGURES[0], spill_bytes=24), FIGURES[1]]
    assert command(monkeypatch, figures, "--json", str(tmp_path / "a.json")) == 1
    assert capsys.readouterr().err.splitlines() == [
        "failed: soft_rank._forward, N=512, sm_80: 24 bytes of a thread are spilled"
    ]
    assert json.loads((tmp_path / "a.json").read_text())["kernels"][0]["spill_bytes"] == 24


@pytest.mark.parametrize("path", ["absent/a.json", "."])
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path, path):
    command = [sys.executable, "-m", "kernels.aot", "--json", str(tmp_path / path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / path) in done.stderr
