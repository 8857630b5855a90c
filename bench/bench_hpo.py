"""A study beside what it replaces: a `train` command for each trial, and a random search of the same duration.

Also studies by sampler and pruner, side by side.

    overhead_s    from the end of a trial to the first step of the next, median; overhead_most_s the largest
    epochs_share  of the epochs that as many whole trainings would take
    ratio         wall time of as many `train` commands over the study's (extrapolated from SEPARATE of them)
    best          validation RankIC of the best trial; peer_best, of a random search without pruning that took as long
                  as the study. For several studies the mean, with its standard error best_error
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from statistics import mean, median, stdev
from tempfile import TemporaryDirectory

import optuna
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from rich.console import Console

import engine.training.epoch
from bench.workloads.fitting import Market, write_market
from engine.config_file import load
from hpo.config import StudyConfig, Work
from hpo.study import run_study

QUIET = Console(quiet=True)
SEPARATE = 2  # commands that are timed
EPOCHS = 4
STUDIES = 5  # of each method of search


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that holds a market as `cache`, and a smaller one, for many studies, as `small`."""
    with TemporaryDirectory(prefix="atft-bench-") as folder:
        write_market(Path(folder) / "cache", Market(300, 700, 16))
        write_market(Path(folder) / "small", Market(150, 500, 16))
        yield Path(folder)


@pytest.mark.parametrize("trials", [pytest.param(8, id="8"), pytest.param(20, id="20", marks=pytest.mark.full)])
def test_study(benchmark: BenchmarkFixture, folder: Path, trials: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study with the default space, sampler and pruner."""
    fresh = (folder / f"study{i}" for i in count() if not (folder / f"study{i}").exists())
    times = _Times(monkeypatch)
    work = _work(folder / "cache", next(fresh), trials)
    study = benchmark.pedantic(run_study, args=(work, 1, QUIET))
    if benchmark.stats is None:
        return
    spent = median(benchmark.stats.stats.data)
    gaps = times.gaps(study)
    begun = time.perf_counter()
    for i in range(SEPARATE):
        command = [sys.executable, "-m", "engine", "train", "--arrow", str(folder / "cache")]
        out = folder / f"run{trials}-{i}"
        subprocess.run(
            [*command, "--set", f"train.epochs={EPOCHS}", "--set", "train.refit=0", "--out", str(out)],
            check=True,
            capture_output=True,
        )
    separate = (time.perf_counter() - begun) / SEPARATE * trials
    random = _random_search(folder / "cache", next(fresh), spent)
    epochs = sum(trial.user_attrs["epochs"] for trial in study.get_trials())
    benchmark.extra_info.update(
        peer="separate",
        ratio=separate / spent,
        overhead_s=median(gaps),
        overhead_most_s=max(gaps),
        epochs_share=epochs / (trials * EPOCHS),
        best=study.best_value,
        peer_best=random,
    )


@pytest.mark.full
@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("tpe", "halving"), ("random", "halving"), ("qmc", "halving"), ("tpe", "median"), ("tpe", "none")],
)
def test_search(benchmark: BenchmarkFixture, folder: Path, sampler: str, pruner: str) -> None:
    """Studies of 20 trials from different seeds: the default sampler and pruner beside others."""
    fresh = (folder / f"search{i}" for i in count() if not (folder / f"search{i}").exists())
    method = [f"hpo.sampler={sampler}", f"hpo.pruner={pruner}"]

    def search() -> list[optuna.Study]:
        works = [_work(folder / "small", next(fresh), 20, *method, f"hpo.seed={seed}") for seed in range(STUDIES)]
        return [run_study(work, 1, QUIET) for work in works]

    studies = benchmark.pedantic(search)
    if benchmark.stats is None:
        return
    epochs = sum(trial.user_attrs["epochs"] for study in studies for trial in study.get_trials())
    values = [study.best_value for study in studies]
    benchmark.extra_info.update(
        epochs_share=epochs / (STUDIES * 20 * EPOCHS), best=mean(values), best_error=stdev(values) / STUDIES**0.5
    )


class _Times:
    """When each training step began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[float] = []
        real = engine.training.epoch.train_step

        def train_step(*arguments, **more):  # type: ignore[no-untyped-def]
            self.steps.append(time.time())
            return real(*arguments, **more)

        monkeypatch.setattr(engine.training.epoch, "train_step", train_step)

    def gaps(self, study: optuna.Study) -> list[float]:
        """Seconds from the end of each trial but the last to the first step of the next."""
        ends = [trial.datetime_complete for trial in study.get_trials()]
        found = []
        for end, following in pairwise(ends):
            assert end is not None
            assert following is not None
            found.append(min(step for step in self.steps if step > end.timestamp()) - end.timestamp())
        return found


def _work(cache: Path, out: Path, trials: int, *settings: str) -> Work:
    config = load(StudyConfig, None, [f"train.epochs={EPOCHS}", *settings], str(cache))
    return Work(config, trials, out, "bench", None)


def _random_search(cache: Path, out: Path, seconds: float) -> float:
    """The best of the random trials, trained to the end, that begin within the time."""
    begun, best, trials = time.perf_counter(), float("-inf"), 0
    while time.perf_counter() - begun < seconds:
        trials += 1
        search = _work(cache, out, trials, "hpo.sampler=random", "hpo.pruner=none")
        best = run_study(search, 1, QUIET).best_value
    return best
