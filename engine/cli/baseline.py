"""`atft-engine baseline`."""

from pathlib import Path
from typing import Annotated

import typer

from engine.cli.options import Arrow, AsJson, ConfigFile, Cost, Periods, Settings, console, new_file, usable
from engine.screen.progress import showing


def baseline_command(
    arrow: Arrow = "cache/",
    kind: Annotated[
        str, typer.Option(help="Which rival: ridge, lightgbm, xgboost, catboost, reversal or online.")
    ] = "ridge",
    config: ConfigFile = None,
    settings: Settings = None,
    seeds: Annotated[int | None, typer.Option(help="Fit this many and average their scores (train.seeds).")] = None,
    half_life: Annotated[
        float | None, typer.Option(help="Days after which a sample weighs half (train.half_life); 0: none.")
    ] = None,
    online_weight: Annotated[
        float | None, typer.Option(help="Weight of the online regression (model.online_weight); 0: none.")
    ] = None,
    neutralize: Annotated[
        float | None, typer.Option(help="Share of risk that is removed (model.neutralize); 0: none.")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Walk forward: fit this many folds, join their tests.")] = None,
    rolling: Annotated[bool, typer.Option("--rolling", help="Folds are fitted to as many days as the first.")] = False,
    feature: Annotated[str, typer.Option(help="Feature that reversal bets against.")] = "ret_1",
    out: Annotated[Path | None, typer.Option(callback=new_file, help="Also write the test scores, as Parquet.")] = None,
    save: Annotated[
        Path | None, typer.Option(callback=new_file, help="Also write the fitted rival, NAME.safetensors.")
    ] = None,
    load: Annotated[
        Path | None,
        typer.Option(callback=usable, help="Score later days by a rival that --save wrote."),
    ] = None,
    cost_bps: Cost = 10.0,
    periods_per_year: Periods = None,
    as_json: AsJson = False,
) -> None:
    """Fit a rival on the same cache, split and metrics, with the help that a network gets."""
    from dataclasses import asdict

    from engine.config_file import load as load_settings
    from engine.dates import span_text
    from engine.reporting.looks import told_once
    from engine.rivals.baseline import Asked, baseline
    from engine.rivals.options import RivalConfig
    from engine.score.tables import splits_table, to_json
    from engine.training.folds import fold_settings

    given = {
        "train.seeds": seeds, "train.half_life": half_life, "model.online_weight": online_weight,
        "model.neutralize": neutralize,
    }  # fmt: skip
    chosen = [f"{key}={value}" for key, value in given.items() if value is not None]
    resolved = load_settings(RivalConfig, config, [*(settings or []), *chosen, *fold_settings(folds, rolling)], arrow)
    asked = Asked(kind, feature, folds is not None, save, load, out)
    with showing(console) as progress:
        found = baseline(resolved, asked, cost_bps, periods_per_year, progress)
    if as_json:
        result = asdict(found)
        del result["count"]
        print(to_json(result))
        return
    spans = {name: span_text(days) for name, days in found.days.items()}
    console.print(
        splits_table(f"{found.kind}: {found.help}", found.splits, spans, found.periods_per_year, cost_bps, found.notes)
    )
    if found.count is not None:
        console.print(str(found.count))
        if (unwritten := told_once(found.count)) is not None:
            console.print(unwritten)
