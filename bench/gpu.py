"""Everything that wants a GPU, in one call: python -m bench.gpu [--cache CACHE] [--work FOLDER].

Kernel and loader tests on the device, the ladder of locks, every tier, the ranking kernels and the training step as
benchmarks (kept under bench/history/), and a training on each tier. Goes on after a step that fails and tells all of
them at the end; exit code 1 where one did. Needs the dependencies of the package, pytest, hypothesis, psutil and
pytest-benchmark; DALI and the rivals where they are installed.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

SETTINGS = ["data.block_days=64", "data.block_codes=512", "model.size=small", "train.epochs=2"]
TIERS = ["resident", "mapped", "ring"]
TESTS = ["tiers", "lock", "gather", "prefetch", "slots", "plan", "readahead", "checking"]  # need no polars


def steps(cache: Path, simulated: bool, work: Path) -> dict[str, list[str]]:
    """The commands by name, in their order."""
    python = [sys.executable, "-m"]
    pytest = [*python, "pytest", "-q", "-rs"]
    found = {
        "tests": [*pytest, "tests/kernels", *(f"tests/loaders/test_{name}.py" for name in TESTS)],
        "benchmarks": [
            *pytest, *(f"bench/bench_{name}.py" for name in ("lock", "loader", "kernels", "train")), "--benchmark-only",
            "--history", "-k", "lock or upload or tier or first_block or bench_kernels or bench_train",
        ],
    }  # fmt: skip
    if simulated:
        size = ["--codes", "3000", "--days", "2000", "--features", "80"]
        found["simulate"] = [*python, "engine", "cache", "simulate", "--out", str(cache), *size]
    for tier in TIERS:
        settings = [part for setting in [*SETTINGS, f"data.tier={tier}"] for part in ("--set", setting)]
        train = ["engine", "train", "--arrow", str(cache), "--out", str(work / tier), *settings]
        found[f"train {tier}"] = [*python, *train]
    return found


def main() -> int:
    """Entry point; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cache", type=Path, help="train on this cache (default: a simulated one of 5M rows)")
    parser.add_argument("--work", type=Path, help="folder for runs (default: a temporary one)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: no CUDA device here. Run it on a machine with one", file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="atft-gpu-") as temporary:
        work = options.work or Path(temporary)
        cache = options.cache or work / "cache"
        codes, told = {}, []
        for name, command in steps(cache, options.cache is None, work).items():
            print(f"== {name}: {' '.join(command)}", flush=True)
            begun = time.perf_counter()
            codes[name] = subprocess.run(command, check=False).returncode
            told.append(f"{name}: exit code {codes[name]} after {time.perf_counter() - begun:.0f} s")
        for tier in TIERS:
            summary = work / tier / "summary.json"
            if summary.exists():
                content = json.loads(summary.read_text())
                ranked = {h: figures["rank_ic"] for h, figures in content["splits"]["test"].items()}
                told.append(f"train {tier}: {content['throughput']} test RankIC {ranked}")
    print("\n".join(["==", torch.cuda.get_device_name(), *told]))
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
