"""All checks that need a GPU, in one call: python -m bench.gpu [--cache CACHE] [--work FOLDER].

Kernel and loader tests on the device, benchmarks of page-locking, tiers, ranking kernels and the training step (kept
under bench/history/), and a training on each tier. A step that fails does not stop the others; the end of the output
lists all of them, and the exit code is 1 where one failed. Needs the dependencies of the package, pytest, hypothesis,
psutil and pytest-benchmark; uses DALI and the peers where they are installed.
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
TESTS = [  # those of the loaders that need no polars
    "tests/kernels",
    "tests/loaders/tiers",
    *(f"tests/loaders/test_{name}.py" for name in ("gather", "plan", "tiers", "verify")),
]
BENCHMARKS = [f"bench/bench_{name}.py" for name in ("lock", "loader", "kernels", "train")]
SELECTED = "bench_lock or tier or first_block or bench_kernels or bench_train"


def steps(cache: Path, simulated: bool, work: Path) -> dict[str, list[str]]:
    """The commands by name, in their order."""
    python = [sys.executable, "-m"]
    pytest = [*python, "pytest", "-q", "-rs"]
    found = {
        "tests": [*pytest, *TESTS],
        "benchmarks": [*pytest, *BENCHMARKS, "--benchmark-only", "--history", "-k", SELECTED],
    }
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
        codes, results = {}, []
        for name, command in steps(cache, options.cache is None, work).items():
            print(f"== {name}: {' '.join(command)}", flush=True)
            begun = time.perf_counter()
            codes[name] = subprocess.run(command, check=False).returncode
            results.append(f"{name}: exit code {codes[name]} after {time.perf_counter() - begun:.0f} s")
        for tier in TIERS:
            summary = work / tier / "summary.json"
            if summary.exists():
                content = json.loads(summary.read_text())
                ranked = {h: figures["rank_ic"] for h, figures in content["splits"]["test"].items()}
                results.append(f"train {tier}: {content['throughput']} test RankIC {ranked}")
    print("\n".join(["==", torch.cuda.get_device_name(), *results]))
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
