"""The checks that need a GPU: every file that they name exists."""

from pathlib import Path

from bench.gpu import steps

ROOT = Path(__file__).parents[2]


def test_named_tests_and_benchmarks_exist(tmp_path):
    commands = steps(tmp_path / "cache", True, tmp_path)
    named = [part for command in commands.values() for part in command if part.startswith(("tests/", "bench/"))]
    assert len(named) > 6
    assert [part for part in named if not (ROOT / part).exists()] == []
