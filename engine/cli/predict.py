"""`atft-engine predict`."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import End, InSample, SplitName, Start, console


def predict_command(
    run: Path,
    out: Annotated[Path, typer.Option(help="Parquet file to write: date, code, score per horizon.")],
    arrow: Annotated[str | None, typer.Option(help="Cache to score (default: the run's own).")] = None,
    split: Annotated[SplitName, typer.Option(help="Part of the run, by its own dates.")] = "test",
    start: Start = None,
    end: End = None,
    in_sample: InSample = False,
    member: Annotated[int | None, typer.Option(min=0, help="Of a run of several models, this one alone.")] = None,
) -> None:
    """Score days of a cache with a run's best checkpoint."""
    from engine.dates import Asked, choose_days, span_of, span_text
    from engine.score.files import write_scores
    from engine.score.predict import load_run, predict_days
    from engine.score.rows import to_file
    from loaders.panel import open_panel

    asked = Asked(split, start, end, in_sample)
    trained = load_run(run)
    data = trained.config.data
    panel = open_panel(data.arrow if arrow is None else arrow, data.store)
    days, notes = choose_days(trained.state, asked, panel, str(run), trained.config.split.tuned_until)
    scores = predict_days(trained, panel, days, asked.name, member)
    write_scores(out, to_file(panel, scores))
    span = span_text(span_of(panel.calendar[days.start : days.stop]))
    console.print("\n".join([f"{out}: {len(scores.rows):,} rows, {asked.name} {span}", *notes]))
