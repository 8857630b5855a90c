"""Options of the benchmarks: --full for the larger sizes, --history to keep the figures."""

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from platform import python_version

import pytest

from bench.measurement.machine import machine_name
from bench.measurement.record import HISTORY, Figures, Record, write_record
from engine.train.tracking import git_revision

MEASURED: pytest.StashKey[dict[str, Figures]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the larger sizes")
    parser.addoption("--history", action="store_true", help="keep the figures in bench/history")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: a larger size, run only with --full")
    config.stash[MEASURED] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full", default=False):
        items[:] = [item for item in items if item.get_closest_marker("full") is None]


@pytest.fixture(autouse=True)
def _keep_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    benchmark = getattr(request.node, "funcargs", {}).get("benchmark")
    if benchmark is not None and benchmark.stats is not None and not benchmark.has_error:
        stats = benchmark.stats.stats
        figures = {"median_s": stats.median, "rounds": stats.rounds, **benchmark.extra_info}
        request.config.stash[MEASURED][request.node.name] = figures


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    if not config.getoption("--history", default=False):
        return
    if exitstatus != 0 or not config.stash[MEASURED]:
        terminalreporter.write_line("history: nothing kept, since not all benchmarks passed")
        return
    record = Record(
        machine=machine_name(),
        commit=git_revision() or "unknown",
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": python_version(), **{name: version(name) for name in ("numba", "numpy", "torch")}},
        benchmarks=config.stash[MEASURED],
    )
    terminalreporter.write_line(f"history: {write_record(HISTORY, record)}")
