"""A whole training on a simulated market: reading, steps, validation, checkpoints, the final evaluation.

`epoch` times one epoch of `engine.training`, from opening the cache to the finished run folder. `fit` times a training
beside a peer's fit on the same cache and the same split, once each, and reports the test RankIC of both: a faster fit
is no gain if it forecasts worse. `ranks` times an epoch by one process and by two, of one thread each.

    samples_per_s        training samples of all epochs over the whole time
    loop_samples_per_s   over the time of the training loop alone, as the run's summary has it
    data_wait_fraction   of the loop, waiting for blocks; validation_fraction of loop and validation
    ratio                the peer's time over ours
    rank_ic_h1, ...      of the test part, by horizon; peer_rank_ic_h1, ... the peer's, oracle_rank_ic_h1, ... of the
                         best possible forecast on the whole panel
    peak_memory_bytes    that a run adds at its peak
"""

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from rich.console import Console

from bench.measurement.clock import DEVICE
from bench.measurement.memory import peak_memory
from bench.peers import installed_peer, peer_names
from bench.workloads.fitting import Fitting, Market, fitting, write_market
from engine.score.part_metrics import part_metrics, part_samples
from engine.training.loop import train

QUIET = Console(quiet=True)
ROUNDS = 3
EPOCHS = 4  # of a fit
LARGE = pytest.mark.full
MARKETS = [
    pytest.param(Market(400, 800, 32), id="320k"),
    pytest.param(Market(2500, 2000, 59), id="5M", marks=LARGE),
]
SIZES = [pytest.param("tiny", id="tiny"), pytest.param("small", id="small", marks=LARGE)]
CONTEXTS = pytest.mark.parametrize("context", [20, pytest.param(60, marks=LARGE)], ids="L{}".format)


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that holds a market as `cache`; removed at the end."""
    with TemporaryDirectory(prefix="atft-bench-") as folder:
        write_market(Path(folder) / "cache", request.param)
        yield Path(folder)


@pytest.mark.parametrize("folder", MARKETS, indirect=True)
@pytest.mark.parametrize("size", SIZES)
@CONTEXTS
def test_epoch(benchmark: BenchmarkFixture, folder: Path, size: str, context: int) -> None:
    """One epoch with its validation, and the final evaluation on the validation and the test part."""
    work = fitting(folder / "cache", f"model.size={size}", f"data.context={context}", "train.epochs=1", "train.refit=0")
    fresh = new_folders(folder)
    warm(work, next(fresh))
    run = benchmark.pedantic(lambda to: trained(work, to), setup=lambda: ((next(fresh),), {}), rounds=ROUNDS)
    memory = peak_memory(lambda: trained(work, next(fresh)), DEVICE)
    if benchmark.stats is not None:
        record_run(benchmark, run, median(benchmark.stats.stats.data), memory)


@pytest.mark.parametrize("folder", MARKETS, indirect=True)
@pytest.mark.parametrize("size", SIZES)
@CONTEXTS
@pytest.mark.parametrize("name", peer_names("fit"))
def test_fit(benchmark: BenchmarkFixture, folder: Path, size: str, context: int, name: str) -> None:
    """A training beside the peer's fit, with the RankIC of both."""
    peer = installed_peer(name)
    work = fitting(
        folder / "cache", f"model.size={size}", f"data.context={context}", f"train.epochs={EPOCHS}", "train.refit=0"
    )
    fresh, seconds = new_folders(folder), []
    warm(work, next(fresh))
    with peer.build(work) as state:
        begun = time.perf_counter()
        theirs = deque(peer.run(state, [work.config.train.seed]), 1).pop()
        seconds.append(time.perf_counter() - begun)
    run = benchmark.pedantic(trained, args=(work, next(fresh)))
    if benchmark.stats is not None:
        mine = median(benchmark.stats.stats.data)
        summary = record_run(benchmark, run, mine)
        peer_metrics = part_metrics(part_samples(work.panel, work.split.test), theirs["test"])
        figures = {"": summary["splits"]["test"], "peer_": peer_metrics}
        oracle = (work.panel.manifest.simulation or {})["oracle_rank_ic"]
        benchmark.extra_info.update(
            peer=name,
            ratio=seconds[0] / mine,
            peer_s=seconds[0],
            **{f"{whose}rank_ic_h{h}": by[h]["rank_ic"] for whose, by in figures.items() for h in by},
            **{f"oracle_rank_ic_h{h}": figure for h, figure in oracle.items()},
        )


@pytest.mark.skipif(DEVICE.type == "cuda", reason="one GPU is one rank")
@pytest.mark.parametrize("folder", MARKETS, indirect=True)
@pytest.mark.parametrize("ranks", [1, 2], ids="R{}".format)
def test_ranks(benchmark: BenchmarkFixture, folder: Path, ranks: int) -> None:
    """One epoch by that many ranks of one thread each, started by torchrun; the time includes the start."""
    fresh = new_folders(folder)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [
        *launch,
        "-m",
        "engine",
        "train",
        "--arrow",
        str(folder / "cache"),
        "--set",
        "train.epochs=1",
        "--set",
        "train.refit=0",
        "--out",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def epoch(run: Path) -> Path:
        subprocess.run([*command, str(run)], check=True, capture_output=True, env=environment)
        return run

    run = benchmark.pedantic(epoch, setup=lambda: ((next(fresh),), {}), rounds=ROUNDS)
    if benchmark.stats is not None:
        record_run(benchmark, run, median(benchmark.stats.stats.data))


def new_folders(folder: Path) -> Iterator[Path]:
    """Folders for runs that do not exist yet."""
    return (path for i in count() if not (path := folder / f"run{i}").exists())


def trained(work: Fitting, run: Path) -> Path:
    """Train into a folder, and return it."""
    return train(work.config, run, False, QUIET)


def warm(work: Fitting, run: Path) -> None:
    """Train on a single block, to load compiled code, modules and the file's pages."""
    short = work.config.train.model_copy(update={"epochs": 1, "blocks": 1})
    train(work.config.model_copy(update={"train": short}), run, False, QUIET)


def record_run(benchmark: BenchmarkFixture, run: Path, seconds: float, memory: int | None = None) -> dict[str, Any]:
    """Add a run's own figures to the benchmark's, and return its summary."""
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    throughput = summary["throughput"]
    samples = throughput["samples_per_s"] * throughput["epoch_s"] * summary["epochs"]
    benchmark.extra_info.update(
        samples_per_s=samples / seconds,
        loop_samples_per_s=throughput["samples_per_s"],
        data_wait_fraction=throughput["data_wait_fraction"],
        validation_fraction=throughput["validation_fraction"],
        epochs=summary["epochs"],
    )
    if memory is not None:
        benchmark.extra_info["peak_memory_bytes"] = memory
    return summary
