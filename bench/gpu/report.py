"""The figures in words: each target beside what was measured, and when compiling the step pays."""

from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from bench.bench_batched import GPU_CASES, case_name
from bench.measurement.record import Figures

Benchmarks = dict[str, Figures]
EPOCH_ROWS = 9.0e6  # of the epoch that a target speaks of
TRIALS = 20
SOFT_RANK = "test_soft_rank[plain-G64-N4000]"


@dataclass(frozen=True)
class Target:
    """A figure that is wanted."""

    what: str
    find: Callable[[Benchmarks], float | None]  # in what was measured; None: it was not
    bound: float
    at_least: bool
    unit: str  # a format

    def row(self, benchmarks: Benchmarks) -> list[str]:
        """What it is, what was measured, what is wanted, and whether it is met."""
        found = self.find(benchmarks)
        wanted = f"at {'least' if self.at_least else 'most'} {self.unit.format(self.bound)}"
        if found is None:
            return [self.what, "not measured", wanted, ""]
        met = found >= self.bound if self.at_least else found <= self.bound
        return [self.what, self.unit.format(found), wanted, "met" if met else "MISSED"]


def figure(benchmark: str, key: str) -> Callable[[Benchmarks], float | None]:
    """A number of one benchmark."""

    def find(benchmarks: Benchmarks) -> float | None:
        value = benchmarks.get(benchmark, {}).get(key)
        return None if value is None else float(value)

    return find


def fastest(count: int, key: str) -> Callable[[Benchmarks], float | None]:
    """A number of the faster of two steps of K models on the default block, compiled or not."""

    def find(benchmarks: Benchmarks) -> float | None:
        both = [benchmarks.get(f"test_captured[{case_name(count, 32, 64, mode)}]") for mode in ("eager", "compiled")]
        best = min((found for found in both if found), key=lambda found: float(found["step_s"]), default={})
        return float(best[key]) if key in best else None

    return find


def _ratio_of_seeds(benchmarks: Benchmarks) -> float | None:
    five, one = (figure(f"train[{name}]", "median_s")(benchmarks) for name in ("seeds5", "whole"))
    return five / one if five is not None and one is not None else None


def _large_epoch(benchmarks: Benchmarks) -> float | None:
    rate = figure("train[large-blocks]", "samples_per_s")(benchmarks)
    return None if rate is None else EPOCH_ROWS / rate


def _study(benchmarks: Benchmarks) -> float | None:
    whole = figure("hpo", "trials")(benchmarks) == TRIALS
    return figure("hpo", "median_s")(benchmarks) if whole else None


def _failed(benchmarks: Benchmarks) -> float | None:
    found = benchmarks.get("tests")
    return None if found is None else float(found["tests_failed"]) + float(found["tests_error"])


TARGETS = (
    Target("kernel and tier tests that fail", _failed, 0, False, "{:.0f}"),
    Target("step of one model, 32 x 64, ms", lambda b: _scaled(fastest(1, "step_s")(b), 1e3), 0.9, False, "{:.2f}"),
    Target("of that step the GPU is busy", fastest(1, "busy_share"), 0.85, True, "{:.0%}"),
    Target(
        "20 models in a step, M samples/s in all",
        lambda b: _scaled(fastest(20, "samples_per_s")(b), 1e-6), 8, True, "{:.1f}",
    ),
    Target("GPU utilisation, tier resident", figure("train[resident]", "device_utilization"), 0.85, True, "{:.0%}"),
    Target("soft ranks of 64 x 4,000, of the byte limit", figure(SOFT_RANK, "share_of_limit"), 0.5, True, "{:.0%}"),
    Target("whole training, cold compiler, s", figure("train[whole]", "median_s"), 30, False, "{:.1f}"),
    Target("GPU utilisation, whole training", figure("train[whole]", "device_utilization"), 0.85, True, "{:.0%}"),
    Target("--seeds 5 over one model, times", _ratio_of_seeds, 1.6, False, "{:.2f}"),
    Target("epoch of 9.0M samples at the rate of 64 x 512, s", _large_epoch, 2, False, "{:.2f}"),
    Target("hpo of 20 trials, s", _study, 120, False, "{:.0f}"),
)  # fmt: skip


def targets(benchmarks: Benchmarks) -> Table:
    """Each target beside what was measured."""
    table = Table(title="targets", title_justify="left", box=SIMPLE, padding=0)
    for column in ("", "measured", "wanted", ""):
        table.add_column(column)
    for target in TARGETS:
        table.add_row(*target.row(benchmarks))
    return table


def steps(benchmarks: Benchmarks) -> Table:
    """The captured steps."""
    rows = {
        name: [
            f"{float(found['step_s']) * 1e3:.3f}",
            f"{float(found['samples_per_s']) * 1e-6:.2f}",
            _shown(found, "busy_share", "{:.0%}"),
            _shown(found, "launches", "{:.0f}"),
            _shown(found, "prepare_s", "{:.1f}"),
        ]
        for name, found in benchmarks.items()
        if "step_s" in found
    }
    return _table("steps", ("ms", "M samples/s", "GPU busy", "launches", "prepared in s"), rows)


def trainings(benchmarks: Benchmarks) -> Table:
    """The trainings."""
    rows = {
        name: [
            _shown(found, "median_s", "{:.1f}"),
            _shown(found, "samples_per_s", "{:,.0f}"),
            _shown(found, "data_wait_fraction", "{:.1%}"),
            _shown(found, "device_utilization", "{:.0%}"),
            " / ".join(f"{value:.4f}" for key, value in found.items() if key.startswith("rank_ic_h")) or "-",
        ]
        for name, found in benchmarks.items()
        if name.startswith("train[")
    }
    return _table("trainings", ("whole, s", "samples/s", "data wait", "GPU busy", "test RankIC"), rows)


def others(benchmarks: Benchmarks) -> Benchmarks:
    """What neither of these tables shows."""
    return {
        name: found
        for name, found in benchmarks.items()
        if "step_s" not in found and not name.startswith(("train[", "tests"))
    }


def compile_rules(benchmarks: Benchmarks) -> list[str]:
    """For each shape that was measured with and without a compiler: compile if steps * gain > cold compile."""
    lines = []
    for count, days, codes, mode in GPU_CASES:
        eager = benchmarks.get(f"test_captured[{case_name(count, days, codes, 'eager')}]")
        compiled = benchmarks.get(f"test_captured[{case_name(count, days, codes, 'compiled')}]")
        if mode != "eager" or eager is None or compiled is None:
            continue
        gain = float(eager["step_s"]) - float(compiled["step_s"])
        cost = float(compiled["prepare_s"]) - float(eager["prepare_s"])
        name = f"K={count}, {days} x {codes}: compiling takes {cost:.1f} s and gains {gain * 1e3:.3f} ms a step"
        lines.append(f"{name}, so it pays from {cost / gain:,.0f} steps on" if gain > 0 else f"{name}, so never pays")
    return lines


def longest_kernels(benchmarks: Benchmarks) -> list[str]:
    """Of each step, the kernels that take most of its time."""
    return [
        line
        for name, found in benchmarks.items()
        if "longest" in found
        for line in (
            f"{name}: {found['launches']:.0f} launches a step",
            *(f"  {k}" for k in str(found["longest"]).split("; ")),
        )
    ]


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value * by


def _shown(found: Figures, key: str, unit: str) -> str:
    return unit.format(found[key]) if key in found else "-"


def _table(title: str, columns: tuple[str, ...], rows: dict[str, list[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=0)
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name, cells in rows.items():
        table.add_row(Text(name.removeprefix("test_captured")), *cells)
    return table
