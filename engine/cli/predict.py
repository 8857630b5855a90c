"""`atft-engine predict`."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import AsJson, End, InSample, SplitName, Start, console, new_file, usable
from engine.screen.progress import showing
from loaders.errors import InputError


def predict_command(
    run: Annotated[Path, typer.Argument(callback=usable, help="Run folder.")],
    out: Annotated[
        Path | None,
        typer.Option(callback=new_file, help="Parquet file to write: date, code, score per horizon."),
    ] = None,
    arrow: Annotated[str | None, typer.Option(help="Cache to score (default: the run's own).")] = None,
    split: Annotated[SplitName, typer.Option(help="Part of the run, by its own dates.")] = "test",
    start: Start = None,
    end: End = None,
    in_sample: InSample = False,
    member: Annotated[int | None, typer.Option(min=0, help="Of a run of several models, this one alone.")] = None,
    date: Annotated[str | None, typer.Option(help="One day instead: latest, or YYYY-MM-DD.")] = None,
    top: Annotated[int, typer.Option(min=1, help="With --date: names to show at either end.")] = 20,
    horizon: Annotated[
        int | None, typer.Option(help="With --date: rank by this horizon (default: mean of z-scores).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score days of a cache with a run's best checkpoint: a part, a span, or one day with what changed."""
    from engine.dates import Asked, choose_days, span_of, span_text
    from engine.live.scoring import score_days
    from engine.score.files import write_scores
    from engine.score.predict import load_run
    from engine.score.rows import to_file
    from loaders.panel import open_panel

    asked = Asked(split, start, end, in_sample)
    if date is not None:
        if start is not None or end is not None or split != "test":
            raise InputError("--date", "it names one day, and so do --split, --start and --end", "Leave these out")
        _one_day(run, arrow, date, in_sample, member, out, top, horizon, as_json)
        return
    if as_json or horizon is not None:
        raise InputError("--json" if as_json else "--horizon", "it goes with --date", "Pass --date latest")
    if out is None:
        raise InputError("--out", "there is no file to write to", "Name one, or pass --date latest")
    trained = load_run(run)
    data = trained.config.data
    with showing(console) as progress:
        panel = open_panel(data.arrow if arrow is None else arrow, data.store, progress)
        days, notes = choose_days(trained.state, asked, panel, str(run), trained.config.split.tuned_until)
        scores, more = score_days(trained, panel, days, asked.name, member, progress=progress)
    write_scores(out, to_file(panel, scores))
    span = span_text(span_of(panel.calendar[days.start : days.stop]))
    console.print("\n".join([f"{out}: {len(scores.rows):,} rows, {asked.name} {span}", *notes, *more]))


def _one_day(
    run: Path,
    arrow: str | None,
    date: str,
    in_sample: bool,
    member: int | None,
    out: Path | None,
    top: int,
    horizon: int | None,
    as_json: bool,
) -> None:
    from engine.live.comparison import compare, lines, tables
    from engine.live.latest import predict_latest
    from engine.score.files import write_scores
    from engine.score.rows import to_file
    from engine.score.tables import to_json

    latest = predict_latest(run, arrow, date, in_sample=in_sample, member=member)
    result = compare(latest, top, horizon)
    if out is not None:
        write_scores(out, to_file(latest.panel, latest.rows))
    if as_json:
        print(to_json(result))
        return
    for table in tables(result):
        console.print(table)
    written = [] if out is None else [f"{out}: {len(latest.rows.rows):,} rows"]
    console.print("\n".join([*lines(result), *written]))
