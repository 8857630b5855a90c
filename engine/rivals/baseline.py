"""Fit a rival, or one for each fold, or read one, and evaluate it: what `atft-engine baseline` does."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.config_file import config_hash
from engine.dates import span_of, spans_of, tuned_note
from engine.inputs import make_split
from engine.model.features import categorical_features, check_categories
from engine.reporting.looks import Count, look_of, record
from engine.rivals.fit import Rival, fit_rival, part_scores
from engine.rivals.folds import fit_folds
from engine.rivals.options import Options, RivalConfig, options_of
from engine.rivals.samples import Float32
from engine.rivals.saved import Origin, check_name, load_rival, save_rival
from engine.score.files import write_scores
from engine.score.metrics import Metrics
from engine.score.part_metrics import part_metrics, part_samples
from engine.score.rows import row_scores, to_file
from loaders.errors import InputError
from loaders.panel import Panel, open_panel
from loaders.progress import Progress, part_of, quiet
from loaders.split import Days, Split
from loaders.verify import verified


@dataclass(frozen=True)
class Asked:
    """What is done with a rival.

    Args:
        kind: its name.
        feature: that `reversal` bets against.
        walks: whether there is a rival for each of `split.folds`.
        save, load, out: files, see `baseline`.
    """

    kind: str
    feature: str = "ret_1"
    walks: bool = False
    save: Path | None = None
    load: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.load is not None and (self.walks or self.save is not None):
            raise InputError("--load", "nothing is fitted then", "Leave --folds and --save out")
        if self.walks and self.save is not None:
            raise InputError("--save", "there is a rival for each fold", "Fit one of them with split.fold")
        for path in (self.save, self.load):
            if path is not None:
                check_name(path)


@dataclass(frozen=True)
class Evaluated:
    """Figures of a rival.

    Args:
        help: what it got, in words.
        notes: what has to be said with the figures.
    """

    kind: str
    help: str
    splits: dict[str, dict[str, Metrics]]
    days: dict[str, dict[str, Any]]  # of each part
    periods_per_year: float | None
    notes: list[str]
    count: Count | None  # where this look stands


Scored = dict[str, tuple[Days, Float32]]  # by part: its days, and scores [N, H] of its present rows


def baseline(
    config: RivalConfig,
    asked: Asked,
    cost_bps: float = 10.0,
    periods_per_year: float | None = None,
    progress: Progress = quiet,
) -> Evaluated:
    """Fit a rival of that kind and evaluate it on the validation and test parts.

    With folds, on the tests of all of them, joined. With a rival that was saved, on the days after its own. `out`
    receives the scores of the test days. It counts as a look at the test.

    Raises InputError for bad settings or a bad cache, and where a file cannot be read or written.
    """
    panel = open_panel(config.data.arrow, config.data.store, progress)
    check_categories(config, panel)
    ids = tuple(categorical_features(config, panel))
    options = options_of(config, asked.feature, ids, progress)
    notes: list[str] = []
    also = [asked.kind] if asked.kind in RivalConfig.model_fields else []
    settings = config_hash(config, also) + (f"-{asked.feature}" if asked.kind == "reversal" else "")
    # Values of damaged rows may be anything, of which the comparison tells; numpy does not beside it.
    with verified(panel), np.errstate(invalid="ignore", over="ignore"):
        if asked.load is not None:
            rival, scored, origin = _loaded(panel, asked.load, options)
        elif asked.walks:
            rival, scored, origin = *_folds(config, panel, asked.kind, options, notes), None
        else:
            split = make_split(config, panel)
            rival, scored = _fitted(split, panel, asked.kind, options)
            origin = Origin(spans_of(split, panel.calendar)["valid"]["last"], config.split.tuned_until, settings)
    periods = panel.manifest.periods_per_year if periods_per_year is None else periods_per_year
    splits = {
        name: part_metrics(part_samples(panel, part), values, cost_bps, periods)
        for name, (part, values) in scored.items()
    }
    tuned_until, settings = (
        (config.split.tuned_until, settings) if origin is None else (origin.tuned_until, origin.settings)
    )
    first, last = scored["test"][0].start, scored["test"][0].stop
    tuned = tuned_note(f"baseline {rival.kind}", "test", panel.calendar[first:last], tuned_until)
    notes += [] if tuned is None else [tuned]
    days = {name: span_of(panel.calendar[part.start : part.stop]) for name, (part, _) in scored.items()}
    if asked.save is not None and origin is not None:
        save_rival(asked.save, rival, panel, origin)
    name = f"baseline-{rival.kind}-{settings}"  # other settings are another model, of which the ledger counts the looks
    if asked.out is not None:
        test = row_scores(panel, scored["test"][0], scored["test"][1], "test", name)
        known = replace(test, trained_until=None if origin is None else origin.trained_until, tuned_until=tuned_until)
        write_scores(asked.out, to_file(panel, known))
    look = look_of(
        "baseline", [f"baseline {rival.kind}"], "test", days["test"], splits["test"], panel.manifest.cache_id, name,
        settings,
    )  # fmt: skip
    count = None if look is None else record(panel.folder, look)
    given = "nothing is fitted" if rival.help is None else str(rival.help)
    return Evaluated(rival.kind, given, splits, days, periods, notes, count)


def _fitted(split: Split, panel: Panel, kind: str, options: Options) -> tuple[Rival, Scored]:
    rival = fit_rival(panel, split, kind, options)
    return rival, {name: (split.part(name), values) for name, values in part_scores(rival, panel, split).items()}


def _folds(config: RivalConfig, panel: Panel, kind: str, options: Options, notes: list[str]) -> tuple[Rival, Scored]:
    count = config.split.folds
    folds = [config.model_copy(update={"split": config.split.model_copy(update={"fold": i})}) for i in range(count)]
    parts = [replace(options, progress=part_of(options.progress, i / count, (i + 1) / count)) for i in range(count)]
    joined = fit_folds(panel, [make_split(fold, panel) for fold in folds], kind, parts.__getitem__, notes.append)
    return joined.rivals[0], {"test": (joined.part, joined.scores)}


def _loaded(panel: Panel, path: Path, options: Options) -> tuple[Rival, Scored, Origin]:
    rival, origin = load_rival(path, panel, options)
    until = origin.trained_until
    start = int(np.searchsorted(panel.calendar, np.datetime64(until), "right"))
    if start == len(panel.calendar):
        what = f"was fitted up to {until}, and {panel.folder} ends on {panel.calendar[-1]}"
        raise InputError(str(path), what, "Name a cache with later days as --arrow")
    if rival.since is not None and str(panel.calendar[0]) > rival.since:
        what = f"its trees are weighed by returns from {rival.since} on; {panel.folder} begins with {panel.calendar[0]}"
        raise InputError(str(path), what, "Name a cache with those days as --arrow")
    part = Days(start, len(panel.calendar))
    return rival, {"test": (part, rival.scores(panel, part))}, origin
