"""`atft-engine export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.cli.options import console, new_file, usable


def export_command(
    run: Annotated[Path, typer.Argument(callback=usable, help="Run folder.")],
    out: Annotated[Path, typer.Option(callback=new_file, help="File to write.")],
    to: Annotated[Literal["onnx", "torch"], typer.Option(help="Format: ONNX, or a torch.export program.")] = "onnx",
    days: Annotated[int, typer.Option(min=1, help="Days that are scored at a time.")] = 1,
    check: Annotated[bool, typer.Option("--check", help="Compare the file's scores with the run's.")] = False,
    arrow: Annotated[
        str | None, typer.Option(help="With --check: cache to compare on (default: the run's own).")
    ] = None,
) -> None:
    """Write a run's network to a file for other programs, for any number of codes."""
    from engine.live.check import TOLERANCE, check_export
    from engine.live.export import export_run
    from engine.score.predict import load_run
    from loaders.errors import InputError
    from loaders.panel import open_panel

    trained = load_run(run)
    data = trained.config.data
    said = export_run(trained, to, out, days)
    width = days + said["context"] - 1
    console.print(
        f"{out}: run {said['run_id']}, {said['members']} models; x [codes, {width}, {len(said['features'])}], present "
        f"and scored [codes, {width}] -> scores [codes, {days}, {len(said['horizons'])}]\n"
        f"not in the file: the online regression ({said['online_regression']}), a refitted last layer "
        f"({said['last_layer']}), trees ({said['trees']})",
        markup=False,
    )
    if not check:
        return
    try:
        panel = open_panel(data.arrow if arrow is None else arrow, data.store)
    except InputError as error:
        if arrow is not None:
            raise
        panel = None
        console.print(f"check: on drawn inputs alone, for the run's own cache is not there ({error.what})")
    found = check_export(trained, out, to, days, panel)
    differences = ", ".join(f"{codes} {value:.0e}" for codes, value in found.items())
    console.print(f"check: largest differences of scores by codes, all within {TOLERANCE:g}: {differences}")
