"""The parts of the two halves: what each runs, how long it may take, and where its figures come from."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.gpu import results
from bench.measurement.record import Figures

HALF_S = 340  # seconds that a half may take; with what goes on around its parts, six minutes
HALVES = ("first", "second")
TIERS = ("resident", "mapped", "ring")
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
PROCESSES = 12  # that run tests
# What failed on a device before, and what was written since. Left out, so that two minutes are enough: tests of values,
# all of which passed on a device and whose many shapes are each compiled there, and those of kernels for CPUs.
TESTS = (
    "tests/kernels/rank_objective/test_operator.py",
    "tests/kernels/rank_objective/test_edges.py",
    "tests/kernels/rank_objective/test_not_finite.py",
    "tests/kernels/rank_objective/test_members.py",
    "tests/kernels/soft_rank/test_operator.py",
    "tests/kernels/test_block_gather.py",
    "tests/kernels/test_uniforms.py",
    "tests/kernels/test_correlation.py",
    "tests/loaders/test_tiers.py",
    "tests/loaders/tiers/test_lock.py",
)
NOT_THESE = "not numba and not threads_change_nothing and not cpu_tensors"
STEPS = "captured"
KERNELS = "(G64-N4000 and (plain or torchsort or argsort)) or growth or (G16-N2000 and pairwise)"
DALI = "tier and dali"
TIER_SIZE = ("--codes", "3000", "--days", "2000", "--features", "32")
MARKET_SIZE = ("--codes", "4484", "--days", "2434", "--features", "82")
TRIALS = 20
BARS = ("--recipe", "ohlcv", "--horizons", "1,5", "--start", "2003-01-01", "--min-price", "3",
        "--min-dollar-volume", "1000000")  # fmt: skip
SPLIT = ("split.valid_start=2013-01-01", "split.test_start=2015-01-01")  # of the README, with these bars


@dataclass(frozen=True)
class Part:
    """A command, and what is known when it has ended."""

    name: str
    command: tuple[str, ...]  # without Python's own name
    limit_s: float
    read: Callable[[bool, float], dict[str, Figures]]  # by benchmark, from whether it ended well and its seconds
    cold: bool = False  # nothing that was compiled before is used


def parts_of(half: str, kept: Path, scratch: Path, cache: Path | None = None, prices: Path | None = None) -> list[Part]:
    """The parts of a half in their order.

    Args:
        kept: folder of logs and figures.
        scratch: folder of caches and runs.
        cache: to train on, instead of one that is made.
        prices: daily bars, Parquet; the README's cache of them is built for the second half.
    """
    return _first(kept, scratch, cache) if half == "first" else _second(kept, scratch, cache, prices)


def _first(kept: Path, scratch: Path, cache: Path | None) -> list[Part]:
    given = cache or scratch / "cache"
    quick = ("train.epochs=2", "train.refit=0", "train.half_life=0", "train.compile=off")
    tests = (*PYTEST, "-n", str(PROCESSES), "--dist", "worksteal", "-k", NOT_THESE, *TESTS)
    parts = [
        Part("tests", tests, 115, partial(results.of_tests, kept / "tests.log")),
        _benchmark("steps", kept, 120, "bench/bench_batched.py", STEPS, cold=True),
        *([] if cache else [_simulated(given, TIER_SIZE, 30)]),
        *(_training(tier, scratch, given, 30, (*quick, f"data.tier={tier}")) for tier in TIERS),
        _training("seeds2", scratch, given, 25, (*quick, "train.blocks=500", "train.seeds=2")),
        _training("accumulate2", scratch, given, 25, (*quick, "train.blocks=500", "train.accumulate=2")),
    ]
    dry = ("-m", "engine", "train", "--arrow", str(given), "--dry-run", *_set("train.compile=off"))
    return [*parts, Part("dry-run", dry, 25, partial(results.of_command, "train[dry-run]"))]


def _second(kept: Path, scratch: Path, cache: Path | None, prices: Path | None) -> list[Part]:
    given = cache or scratch / "cache"
    build = ("-m", "engine", "cache", "build", str(prices), "--out", str(given), *BARS)
    made = Part("build", build, 60, partial(results.of_command, "cache[build]"))
    split = SPLIT if prices and not cache else ()
    whole = ("data.block_days=64", "data.block_codes=512", "train.epochs=2", "train.refit=0", "train.half_life=0")
    study = ("-m", "hpo", "hpo", "--trials", str(TRIALS), "--batch", "auto", "--arrow", str(given),
             "--out", str(scratch / "hpo"), *_set("hpo.pruner=none", *split))  # fmt: skip
    return [
        _benchmark("kernels", kept, 60, "bench/bench_kernels.py", KERNELS),
        _benchmark("lock", kept, 40, "bench/bench_lock.py", "bench_lock"),
        _benchmark("dali", kept, 20, "bench/bench_loader.py", DALI),
        *([] if cache else [made if prices else _simulated(given, MARKET_SIZE, 45)]),
        _training("whole", scratch, given, 70, split, cold=True),
        _training("large-blocks", scratch, given, 40, (*whole, *split)),
        _training("seeds5", scratch, given, 100, ("train.seeds=5", *split), cold=True),
        Part("hpo", study, 200, partial(results.of_study, scratch / "hpo")),
    ]


def _simulated(cache: Path, size: tuple[str, ...], limit: float) -> Part:
    command = ("-m", "engine", "cache", "simulate", "--out", str(cache), *size)
    return Part("simulate", command, limit, partial(results.of_command, "cache[simulate]"))


def _training(
    name: str, scratch: Path, cache: Path, limit: float, settings: tuple[str, ...], cold: bool = False
) -> Part:
    run = scratch / name
    command = ("-m", "engine", "train", "--arrow", str(cache), "--out", str(run), *_set(*settings))
    return Part(name, command, limit, partial(results.of_training, f"train[{name}]", run), cold)


def _benchmark(name: str, kept: Path, limit: float, file: str, chosen: str, cold: bool = False) -> Part:
    figures = kept / f"{name}.jsonl"
    command = (*PYTEST, "-rs", file, "--benchmark-only", "--figures", str(figures), "-k", chosen)
    return Part(name, command, limit, partial(results.of_benchmarks, figures), cold)


def _set(*settings: str) -> tuple[str, ...]:
    return tuple(word for setting in settings for word in ("--set", setting))


def command_of(part: Part) -> list[str]:
    """As a process is started with it."""
    return [sys.executable, "-u", *part.command]
