"""`atft-engine audit`."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import AsJson, console, usable
from engine.screen.progress import showing


def audit_command(
    cache: Annotated[str, typer.Argument(help="Cache: a folder, a folder of shards, or a URL.")],
    subject: Annotated[
        Path | None, typer.Argument(callback=usable, help="A run, folds, a score file or a study to audit on it.")
    ] = None,
    vintage: Annotated[
        Path | None,
        typer.Option(callback=usable, help="The cache as it was on an earlier day: nothing known then may differ."),
    ] = None,
    truncation: Annotated[
        bool,
        typer.Option("--truncation", help="Build the cache again as of five dates; nothing known then may differ."),
    ] = False,
    rebuild: Annotated[
        str | None,
        typer.Option(
            help="For --truncation: your command that makes the cache, or the file that it is built from, at {path} "
            "from data up to {date}. Recipe ohlcv needs none."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what makes figures better than the model: leaks, survivors, copies, luck."""
    from engine.audit.audit import audit
    from engine.audit.table import as_json as findings_json
    from engine.audit.table import findings_table
    from engine.errors import RunFailed
    from engine.score.tables import to_json

    with showing(console) as progress:
        findings = audit(cache, subject, vintage, truncation or rebuild is not None, rebuild, progress)
    if as_json:
        print(to_json(findings_json(findings)))
    else:
        console.print(findings_table(f"{cache}{'' if subject is None else f', {subject}'}", findings))
    wrong = [each.advice.check for each in findings if each.verdict == "failed"]
    if wrong:
        raise RunFailed(f"the audit of {subject or cache}: {', '.join(wrong)}")
