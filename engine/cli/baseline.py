"""`atft-engine baseline`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Arrow, AsJson, ConfigFile, Cost, Periods, Settings, console, new_file
from engine.screen.progress import showing


def baseline_command(
    arrow: Arrow = "cache/",
    kind: Annotated[str, typer.Option(help="Which rival: ridge, reversal, lightgbm or online.")] = "ridge",
    config: ConfigFile = None,
    settings: Settings = None,
    feature: Annotated[str, typer.Option(help="Feature that reversal bets against.")] = "ret_1",
    out: Annotated[Path | None, typer.Option(callback=new_file, help="Also write the test scores, as Parquet.")] = None,
    cost_bps: Cost = 10.0,
    periods_per_year: Periods = None,
    as_json: AsJson = False,
) -> None:
    """Fit a simple rival on the same cache, split and metrics."""
    from engine.baseline import Options, run_baseline
    from engine.config_file import config_hash, load_config
    from engine.dates import span_text, spans_of
    from engine.inputs import make_split
    from engine.model.features import categorical_features, check_categories
    from engine.reporting.looks import look_of, record, told_once
    from engine.score.files import write_scores
    from engine.score.part_metrics import part_metrics, part_samples
    from engine.score.rows import row_scores, to_file
    from engine.score.tables import splits_table, to_json
    from loaders.panel import open_panel
    from loaders.verify import verified

    resolved = load_config(config, settings or [], arrow)
    with showing(console) as progress:
        panel = open_panel(arrow, resolved.data.store, progress)
        split = make_split(resolved, panel)
        check_categories(resolved, panel)
        ids = tuple(categorical_features(resolved, panel))
        days = spans_of(split, panel.calendar)
        options = Options(feature, resolved.train.seed, resolved.model.online_features, ids, progress)
        with verified(panel):
            scores = run_baseline(panel, split, kind, options)
    periods = panel.manifest.periods_per_year if periods_per_year is None else periods_per_year
    result: dict[str, Any] = {
        name: part_metrics(part_samples(panel, split.part(name)), values, cost_bps, periods)
        for name, values in scores.items()
    }
    if out is not None:
        test = row_scores(panel, split.test, scores["test"], "test", f"baseline-{kind}")
        write_scores(out, to_file(panel, replace(test, trained_until=days["valid"]["last"])))
    look = look_of(
        "baseline", [f"baseline {kind}"], "test", days["test"], result["test"], panel.manifest.cache_id,
        f"baseline-{kind}", config_hash(resolved),
    )  # fmt: skip
    count = None if look is None else record(panel.folder, look)
    if as_json:
        print(to_json({"splits": result, "days": {name: days[name] for name in result}, "periods_per_year": periods}))
        return
    spans = {name: span_text(days[name]) for name in result}
    console.print(splits_table(kind, result, spans, periods, cost_bps))
    if count is not None:
        console.print(str(count))
        if (unwritten := told_once(count)) is not None:
            console.print(unwritten)
