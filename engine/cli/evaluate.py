"""`atft-engine evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import AsJson, Cost, End, InSample, Periods, SplitName, Start, console, new_file, usable
from engine.screen.progress import showing


def evaluate_command(
    paths: Annotated[
        list[Path], typer.Argument(callback=usable, help="Run folders or score files; several are averaged.")
    ],
    split: Annotated[SplitName, typer.Option(help="Part of a run, by its own dates.")] = "test",
    start: Start = None,
    end: End = None,
    in_sample: InSample = False,
    against: Annotated[
        Path | None, typer.Option(callback=usable, help="Run or score file to compare with, day by day.")
    ] = None,
    arrow: Annotated[str | None, typer.Option(help="Cache (default: the run's own, or cache/).")] = None,
    stack_until: Annotated[
        str | None,
        typer.Option(help="Weigh the sources by their scores up to this day, YYYY-MM-DD, and evaluate the days after."),
    ] = None,
    by_year: Annotated[bool, typer.Option("--by-year", help="Also RankIC, or the comparison, year by year.")] = False,
    out: Annotated[
        Path | None, typer.Option(callback=new_file, help="Also write the scores, averaged or stacked, as Parquet.")
    ] = None,
    cost_bps: Cost = 10.0,
    periods_per_year: Periods = None,
    as_json: AsJson = False,
) -> None:
    """Metrics of runs or score files."""
    from engine.dates import span_text
    from engine.evaluation.evaluate import evaluate
    from engine.reporting.looks import Count
    from engine.score.tables import comparison_table, metrics_table, to_json, years_table

    with showing(console) as progress:
        result = evaluate(
            paths, split, against, arrow, cost_bps, periods_per_year, start=start, end=end, in_sample=in_sample,
            stack_until=stack_until, years=by_year, out=out, progress=progress,
        )  # fmt: skip
    if as_json:
        print(to_json(result))
        return
    days = {name: span_text(span) for name, span in result["days"].items()}
    for name, metrics in result["splits"].items():
        title = f"{', '.join(map(str, paths))} · {name} {days[name]}"
        console.print(metrics_table(title, metrics, result["periods_per_year"], cost_bps, result["notes"]))
    if against is not None:
        console.print(comparison_table(f"minus {against} · {days['against']}", result["against"], result["notes"]))
    for horizon, years in result.get("years", {}).items():
        console.print(years_table(f"h={horizon} by year", years))
    if (look := result["look"]) is not None:
        console.print(str(Count(**look)))
        for note in Count(**look).notes:
            console.print(note)
