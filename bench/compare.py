"""The newest benchmark run beside the one before on the same machine, and beside the peers: python -m bench.compare.

Prints a table for the terminal, or Markdown with --markdown. Reads bench/history/ and measures nothing.
"""

import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.measurement.record import HISTORY, Figures, Record, read_history
from loaders.errors import InputError

COLUMNS = (
    "benchmark", "M samples/s", "GB/s", "of limit", "peer / ours", "before / now", "peak MB", "peer MB", "notes",
)  # fmt: skip
LEFT = ("benchmark", "notes")  # text; the others are numbers
SHARES = (
    "wait {wait_share:.1%}, forward {forward_share:.0%}, loss {loss_share:.1%}, backward {backward_share:.0%}, "
    "optimizer {optimizer_share:.1%}; beside them gather {gather_share:.1%}, copy {copy_share:.1%}"
)
CAPTION = "peer / ours and before / now are ratios of time: above 1, ours is faster, and now is; a cell is a sample"


def newest_pair(records: list[Record]) -> tuple[Record, Record | None]:
    """The newest of the runs, given oldest first, and the one before it on the same machine."""
    newest = records[-1]
    return newest, next((old for old in reversed(records[:-1]) if old.machine == newest.machine), None)


def rows(newest: Record, before: Record | None) -> list[list[str]]:
    """Cells of the table, a row per benchmark of the newest run; a dash for a figure that it does not have."""
    old = before.benchmarks if before else {}
    return [
        [
            _readable(name),
            _cell(figures, _rate(figures), "{:.2f}", 1e-6),
            _cell(figures, "bytes_per_s", "{:.2f}", 1e-9),
            _cell(figures, "share_of_limit", "{:.0%}"),
            _cell(figures, "ratio", "{:.2f}"),
            f"{_speed(figures) / _speed(old[name]):.2f}" if name in old else "-",
            _cell(figures, "peak_memory_bytes", "{:,.1f}", 1e-6),
            _cell(figures, "peer_peak_memory_bytes", "{:,.1f}", 1e-6),
            _notes(figures),
        ]
        for name, figures in newest.benchmarks.items()
    ]


def title(newest: Record, before: Record | None) -> str:
    """Which runs are compared, and where they ran."""
    against = f"before: {before.commit} ({before.time[:10]})" if before else "no run before it on this machine"
    return f"{newest.machine}: {newest.commit} ({newest.time[:10]}), {against}"


def terminal(newest: Record, before: Record | None) -> Table:
    """The table for a terminal."""
    table = Table(title=title(newest, before), box=SIMPLE, padding=0, caption=CAPTION)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in LEFT else "right", overflow="fold")
    for name, *figures in rows(newest, before):
        table.add_row(Text(name), *figures)
    return table


def markdown(newest: Record, before: Record | None) -> str:
    """The table as Markdown, its title and caption as paragraphs around it."""
    head = [list(COLUMNS), ["---" if column in LEFT else "---:" for column in COLUMNS]]
    lines = ["| " + " | ".join(row) + " |" for row in [*head, *rows(newest, before)]]
    return "\n".join([title(newest, before), "", *lines, "", CAPTION])


def main(arguments: list[str] | None = None) -> int:
    """Entry point; gives the exit code: 0 done, 2 no history or a bad one."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--history", type=Path, default=HISTORY, help="folder of runs (default: bench/history)")
    options = parser.parse_args(arguments)
    try:
        newest, before = newest_pair(read_history(options.history))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.markdown:
        print(markdown(newest, before))
    else:
        Console().print(terminal(newest, before))
    return 0


def _readable(name: str) -> str:
    """`test_gather[host-spawn-L20]` as `gather host-spawn-L20`."""
    return name.removeprefix("test_").replace("[", " ").removesuffix("]")


def _speed(figures: Figures) -> float:
    """Samples per second, which do not depend on the length of a pass; passes per second where there are no samples."""
    return float(figures[_rate(figures)] if _rate(figures) in figures else 1 / float(figures["median_s"]))


def _rate(figures: Figures) -> str:
    """The name of the rate: for a kernel, cells of cross-sections per second, which the table shows as samples."""
    return "cells_per_s" if "cells_per_s" in figures else "samples_per_s"


def _notes(figures: Figures) -> str:
    """Figures that only some benchmarks have."""
    notes = [
        pattern.format(**figures)
        for name, pattern in (
            ("growth", "time as N^{growth:.2f}, N log N is N^{n_log_n_growth:.2f}"),
            ("share_of_step", "objective {share_of_step:.1%} of the step"),
            ("wait_share", SHARES),
            ("data_wait_fraction", "data wait {data_wait_fraction:.1%} of {loop_samples_per_s:,.0f} samples/s"),
            ("peer_rank_ic_h1", "RankIC {rank_ic_h1:.4f}, peer's {peer_rank_ic_h1:.4f} at h=1"),
            ("peer_device", "peer on the {peer_device}"),
        )
        if name in figures
    ]
    return ", ".join(notes) or "-"


def _cell(figures: Figures, key: str, pattern: str, scale: float = 1.0) -> str:
    value = figures.get(key)
    return "-" if not isinstance(value, int | float) else pattern.format(value * scale)


if __name__ == "__main__":
    sys.exit(main())
