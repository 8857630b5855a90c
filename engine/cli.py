"""The command line. Each command reads its options, calls one function and prints the result.

Exit codes: 0 done, 1 failed, 2 bad input or configuration (one line on stderr: what, where, how to mend it).
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from loaders.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
cache = typer.Typer(no_args_is_help=True, help="Build, inspect and verify caches.")
app.add_typer(cache, name="cache")

console = Console(highlight=False, soft_wrap=True)

Arrow = Annotated[str, typer.Option(help="Cache: a folder, a folder of shards, or a URL.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting, section.key=value; may be repeated.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings as a TOML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Cost = Annotated[
    float,
    typer.Option(
        min=0,
        help="For sharpe_net: cost in basis points of turnover, which is half of what is traded (a wholly new book: 2 "
        "of 4). So each unit traded costs half of it.",
    ),
]
Periods = Annotated[
    float | None, typer.Option(min=0.1, help="Dates in a year, for Sharpe ratios (default: the cache's own).")
]
SplitName = Literal["train", "valid", "test"]
Start = Annotated[str | None, typer.Option(help="First day to score, YYYY-MM-DD (default: the first of the test).")]
End = Annotated[str | None, typer.Option(help="Last day to score, YYYY-MM-DD (default: the last of the cache).")]
InSample = Annotated[bool, typer.Option("--in-sample", help="Also days at or before the last validation day.")]


def main() -> None:
    """Entry point of the console script: turns the engine's exceptions into one line and an exit code."""
    from engine.train.run import RunFailed, Stopped

    try:
        app(prog_name="atft-engine")
    except InputError as error:
        _fail(f"error: {error}", 2)
    except (RunFailed, Stopped) as error:
        _fail(f"failed: {error}", 1)
    except KeyboardInterrupt:
        _fail("stopped", 1)


def _fail(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    sys.exit(code)


def _horizons(text: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError("--horizons", f"{text!r} is no list of integers", "Write for example 1,5") from error
    if min(values) < 1 or len(set(values)) < len(values):
        raise InputError("--horizons", f"{text!r} is not distinct and 1 or more", "Write for example 1,5")
    return values


def _names(texts: list[str] | None) -> list[str]:
    return [name.strip() for text in texts or [] for name in text.split(",") if name.strip()]


@cache.command("build")
def cache_build(
    sources: Annotated[list[Path], typer.Argument(help="Parquet, CSV or Arrow files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    recipe: Annotated[str, typer.Option(help="columns: ready features; ohlcv: daily bars.")] = "columns",
    date: Annotated[str, typer.Option(help="Column of dates.")] = "date",
    code: Annotated[str | None, typer.Option(help="Column of codes (default: code, or ticker for ohlcv).")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="old=new, a column's name; may be repeated.")] = None,
    features: Annotated[list[str] | None, typer.Option(help="Names or patterns, comma-separated (columns).")] = None,
    targets: Annotated[list[str] | None, typer.Option(help="Names or patterns, comma-separated (columns).")] = None,
    categories: Annotated[list[str] | None, typer.Option(help="Features that are ids, stored as is (columns).")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Features to leave out: names or patterns.")] = None,
    horizons: Annotated[str | None, typer.Option(help="Rows ahead, such as 1,5, in the order of --targets.")] = None,
    trust_horizons: Annotated[
        bool, typer.Option("--trust-horizons", help="Do not check horizons against the targets (columns).")
    ] = False,
    transform: Annotated[
        Literal["rank", "zscore", "none"], typer.Option(help="Of features, within each date over the universe.")
    ] = "rank",
    entry: Annotated[
        Literal["close", "next_open", "next_close"] | None, typer.Option(help="Where labels begin (ohlcv).")
    ] = None,
    delisting_returns: Annotated[
        Path | None, typer.Option(help="File of code, date, return after a code's last bar (ohlcv).")
    ] = None,
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Stored type of features.")] = "float16",
    shards: Annotated[int, typer.Option(min=1, help="Write this many caches, of some of the codes each.")] = 1,
    start: Annotated[str | None, typer.Option(help="First date, YYYY-MM-DD.")] = None,
    end: Annotated[str | None, typer.Option(help="Last date, YYYY-MM-DD.")] = None,
    period: Annotated[str | None, typer.Option(help="day, week, month or era (default: as the calendar says).")] = None,
    periods_per_year: Annotated[float | None, typer.Option(help="Dates a year (default: the calendar's).")] = None,
    min_codes: Annotated[int | None, typer.Option(help="Leave out dates with fewer codes.")] = None,
    min_price: Annotated[float | None, typer.Option(min=0, help="Universe: lowest close (ohlcv).")] = None,
    min_dollar_volume: Annotated[float | None, typer.Option(min=0, help="Universe: 20-day mean (ohlcv).")] = None,
) -> None:
    """Build a cache from files, in any row order."""
    try:
        from loaders.cache.build import build
    except ModuleNotFoundError as error:
        if error.name != "polars":
            raise
        raise InputError("cache build", "polars is not installed", "pip install 'atft-engine[build]'") from error

    settings = {
        "date": date, "code": code, "features": _names(features), "targets": _names(targets),
        "categories": _names(categories), "exclude": _names(exclude), "rename": rename,
        "horizons": None if horizons is None else _horizons(horizons), "trust_horizons": trust_horizons or None,
        "transform": transform, "entry": entry, "delisting_returns": delisting_returns, "dtype": dtype,
        "shards": shards, "start": start, "end": end, "period": period, "periods_per_year": periods_per_year,
        "min_codes": min_codes, "min_price": min_price, "min_dollar_volume": min_dollar_volume,
    }  # fmt: skip
    manifest = build(recipe, sources, out, settings, console.print)
    console.print(f"{out}: {manifest.rows:,} rows, cache {manifest.cache_id}")


@cache.command("simulate")
def cache_simulate(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    codes: Annotated[int, typer.Option(help="Number of codes.")] = 500,
    days: Annotated[int, typer.Option(help="Number of trading days.")] = 1000,
    features: Annotated[int, typer.Option(help="Number of features.")] = 16,
    ic: Annotated[float, typer.Option(help="RankIC that a perfect model reaches at the first horizon.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    horizons: Annotated[str, typer.Option(help="Days ahead, such as 1,5.")] = "1,5",
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Stored type of features.")] = "float16",
) -> None:
    """Build a cache of a simulated market whose attainable RankIC is known."""
    from loaders.cache.simulation.simulate import simulate

    manifest = simulate(out, codes, days, features, ic, seed, _horizons(horizons), dtype, on_progress=console.print)
    console.print(f"{out}: {manifest.rows:,} rows, cache {manifest.cache_id}")


@cache.command("inspect")
def cache_inspect(folder: Path, as_json: AsJson = False) -> None:
    """Show what a cache holds."""
    from loaders.cache.shards import read_manifests

    if as_json:
        print(json.dumps(read_manifests(folder)[-1].model_dump()))
        return
    from engine.inputs import resolve_device
    from loaders.inspect import inspect_cache
    from loaders.panel import open_panel
    from loaders.tiers.choose import probe

    panel = open_panel(folder)
    console.print(inspect_cache(panel, probe(panel, resolve_device("auto"))))


@cache.command("verify")
def cache_verify(folder: Path) -> None:
    """Read every byte of a cache and compare it with the manifest's checksums."""
    from loaders.cache.format import verify
    from loaders.cache.shards import shard_folders

    for path in shard_folders(folder):
        manifest = verify(path)
        console.print(f"{path}: {len(manifest.checksums)} chunks agree with the manifest, cache {manifest.cache_id}")


@app.command("train")
def train_command(
    arrow: Annotated[str | None, typer.Option(help="Cache, a folder or URL (default: data.arrow, cache/).")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/<run id>).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the run's last checkpoint.")] = False,
    seeds: Annotated[int | None, typer.Option(help="Train this many models together, average their scores.")] = None,
    folds: Annotated[int | None, typer.Option(help="Walk forward: train this many folds, join their tests.")] = None,
    rolling: Annotated[bool, typer.Option("--rolling", help="Folds train on as many days as the first.")] = False,
    short: Annotated[bool, typer.Option("--dry-run", help="Two short epochs and a checklist.")] = False,
) -> None:
    """Train a model, evaluate it on validation and test, and write a run folder."""
    from engine.config_file import load_config
    from engine.dates import span_text
    from engine.distributed import is_first
    from engine.score.files import holds_folds
    from engine.score.tables import metrics_table
    from engine.train.dry_run import checklist, dry_run
    from engine.train.folds import fold_settings, train_folds
    from engine.train.loop import train
    from engine.train.run import RunFailed, resumed_config

    settings = [*(settings or []), *([] if seeds is None else [f"train.seeds={seeds}"]), *fold_settings(folds, rolling)]
    if resume and config is None:
        resolved = resumed_config(out, settings, arrow)
    else:
        resolved = load_config(config, settings, arrow)
    if short:
        items = dry_run(resolved, console)
        if is_first():
            console.print(checklist(items))
        failed = [item.name for item in items if item.ok is False]
        if failed:
            raise RunFailed(f"the dry run: {', '.join(failed)}")
        return
    walk = folds is not None or (resume and out is not None and holds_folds(out))
    run = (train_folds if walk else train)(resolved, out, resume, console)
    if not is_first():
        return
    summary = json.loads((run / "summary.json").read_text())
    for name, metrics in summary["splits"].items():
        notes = summary["notes"] if name == "test" else []
        title = f"{run} · {name} {span_text(summary['days'][name])}"
        console.print(metrics_table(title, metrics, summary["periods_per_year"], notes=notes))
    console.print(f"run: {run}")


@app.command("evaluate")
def evaluate_command(
    paths: Annotated[list[Path], typer.Argument(help="Run folders or score files; several are averaged.")],
    split: Annotated[SplitName, typer.Option(help="Part of a run, by its own dates.")] = "test",
    start: Start = None,
    end: End = None,
    in_sample: InSample = False,
    against: Annotated[Path | None, typer.Option(help="Run or score file to compare with, day by day.")] = None,
    arrow: Annotated[str | None, typer.Option(help="Cache (default: the run's own, or cache/).")] = None,
    cost_bps: Cost = 10.0,
    periods_per_year: Periods = None,
    as_json: AsJson = False,
) -> None:
    """Metrics of runs or score files."""
    from engine.dates import span_text
    from engine.evaluate import evaluate
    from engine.score.tables import comparison_table, metrics_table, to_json

    result = evaluate(
        paths, split, against, arrow, cost_bps, periods_per_year, start=start, end=end, in_sample=in_sample
    )
    if as_json:
        print(to_json(result))
        return
    days = {name: span_text(span) for name, span in result["days"].items()}
    for name, metrics in result["splits"].items():
        title = f"{', '.join(map(str, paths))} · {name} {days[name]}"
        console.print(metrics_table(title, metrics, result["periods_per_year"], cost_bps, result["notes"]))
    if against is not None:
        console.print(comparison_table(f"minus {against} · {days['against']}", result["against"], result["notes"]))


@app.command("predict")
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


@app.command("baseline")
def baseline_command(
    arrow: Arrow = "cache/",
    kind: Annotated[str, typer.Option(help="Which rival: ridge, reversal, lightgbm or online.")] = "ridge",
    config: ConfigFile = None,
    settings: Settings = None,
    feature: Annotated[str, typer.Option(help="Feature that reversal bets against.")] = "ret_1",
    out: Annotated[Path | None, typer.Option(help="Also write the test scores, as Parquet.")] = None,
    cost_bps: Cost = 10.0,
    periods_per_year: Periods = None,
    as_json: AsJson = False,
) -> None:
    """Fit a simple rival on the same cache, split and metrics."""
    from engine.baseline import Options, run_baseline
    from engine.config_file import load_config
    from engine.dates import span_text, spans_of
    from engine.inputs import make_split
    from engine.score.files import write_scores
    from engine.score.part_metrics import part_metrics, part_samples
    from engine.score.rows import row_scores, to_file
    from engine.score.tables import metrics_table, to_json
    from loaders.panel import open_panel

    resolved = load_config(config, settings or [], arrow)
    panel = open_panel(arrow, resolved.data.store)
    split = make_split(resolved, panel)
    days = spans_of(split, panel.calendar)
    scores = run_baseline(panel, split, kind, Options(feature, resolved.train.seed, resolved.model.online_features))
    periods = panel.manifest.periods_per_year if periods_per_year is None else periods_per_year
    result: dict[str, Any] = {
        name: part_metrics(part_samples(panel, split.part(name)), values, cost_bps, periods)
        for name, values in scores.items()
    }
    if out is not None:
        test = row_scores(panel, split.test, scores["test"], "test", f"baseline-{kind}")
        write_scores(out, to_file(panel, replace(test, trained_until=days["valid"]["last"])))
    if as_json:
        print(to_json({"splits": result, "days": {name: days[name] for name in result}, "periods_per_year": periods}))
        return
    for name, metrics in result.items():
        console.print(metrics_table(f"{kind} · {name} {span_text(days[name])}", metrics, periods, cost_bps))
