"""Options of the benchmarks: --full for the larger sizes, --history and --figures to keep the figures."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.measurement.here import record_of
from bench.measurement.record import HISTORY, Figures, shortened, write_record

MEASURED: pytest.StashKey[dict[str, Figures]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the larger sizes")
    parser.addoption("--history", action="store_true", help="keep the figures in bench/history")
    parser.addoption(
        "--figures", type=Path, help="add the figures of each benchmark to this file as it ends, a line of JSON"
    )


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
        file: Path | None = request.config.getoption("--figures", default=None)
        if file is not None:
            with file.open("a") as lines:
                lines.write(json.dumps({"name": request.node.name, "figures": shortened(figures)}) + "\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    if not config.getoption("--history", default=False):
        return
    if exitstatus != 0 or not config.stash[MEASURED]:
        terminalreporter.write_line("history: nothing kept, since not all benchmarks passed")
        return
    terminalreporter.write_line(f"history: {write_record(HISTORY, record_of(config.stash[MEASURED]))}")
