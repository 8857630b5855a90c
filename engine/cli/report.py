"""`atft-engine report`."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Cost, End, InSample, Periods, SplitName, Start, console, new_file, usable


def report_command(
    paths: Annotated[
        list[Path],
        typer.Argument(callback=usable, help="Runs, folds or score files, which are averaged; or one study."),
    ],
    out: Annotated[
        Path | None, typer.Option(callback=new_file, help="File to write (default: report.html in the folder).")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(callback=usable, help="Run or score file to compare with, day by day.")
    ] = None,
    arrow: Annotated[str | None, typer.Option(help="Cache (default: the run's own, or cache/).")] = None,
    split: Annotated[SplitName, typer.Option(help="Part of a run, by its own dates.")] = "test",
    start: Start = None,
    end: End = None,
    in_sample: InSample = False,
    cost_bps: Cost = 10.0,
    periods_per_year: Periods = None,
) -> None:
    """Write a report as one HTML page."""
    from engine.reporting.report import report

    path = report(
        paths, out, against, arrow, split=split, start=start, end=end, in_sample=in_sample, cost_bps=cost_bps,
        periods_per_year=periods_per_year,
    )  # fmt: skip
    console.print(f"report: {path}")
