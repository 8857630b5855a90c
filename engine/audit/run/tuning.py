"""Whether the test of a run has days that the choice of its settings has seen."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.audit.finding import Advice, Finding, failed, passed, warned
from engine.audit.run.trained import Trained
from engine.config import Config
from engine.config_file import load_config
from loaders.errors import InputError
from loaders.split import Days

ADVICE = Advice(
    "tuning",
    "settings that were chosen on the days of the test fit its noise",
    "test on days after the last one that tuning has seen",
)
BEST = "best.toml"  # of a study


def tuning(trained: Trained) -> Finding:
    """Fails where days of the test are at or before the last one that tuning saw.

    Statistic: their number, by `split.tuned_until` of the run, which `best.toml` of a study brings along; exact. A run
    whose settings name no study is compared with those of the studies beside it (`hpo/*/best.toml`, and those in the
    folders of the run's own): where the network, its objective and its training are those of one that saw days of the
    test, it warns. Null: none. Studies that lie elsewhere, and settings that were chosen by hand, are not seen.
    """
    dates = np.unique(np.concatenate([trained.panel.calendar[d.start : d.stop] for d in _tests(trained)]))
    if trained.tuned_until is not None:
        seen = dates[dates <= np.datetime64(trained.tuned_until)]
        what = f"tuning saw days until {trained.tuned_until}: {len(seen):,} of {len(dates):,} days of the test"
        return failed(ADVICE, what, [str(seen[0]), str(seen[-1])]) if len(seen) else passed(ADVICE, what)
    own = trained.runs[0].config
    for path, until in _studies(trained.folder, own):
        seen = dates[dates <= np.datetime64(until)]
        if len(seen):
            what = f"settings are those that a study chose on days until {until}, and the run does not say so"
            return warned(ADVICE, what, [str(path)])
    return passed(ADVICE, "no study is known to have chosen the settings")


def _tests(trained: Trained) -> Iterator[Days]:
    return (trained.days(run, "test") for run in trained.runs)


def _studies(folder: Path, own: Config) -> Iterator[tuple[Path, str]]:
    """Studies beside a run that chose its settings, and the last day that each saw."""
    parent = folder.resolve().parent
    for path in sorted({*parent.glob(f"*/{BEST}"), *parent.parent.glob(f"hpo/*/{BEST}")}):
        try:
            best = load_config(path, [])
        except (InputError, OSError):
            continue
        if best.split.tuned_until is not None and _settings(best) == _settings(own):
            yield path, best.split.tuned_until


def _settings(config: Config) -> object:
    """What tuning chooses: without the number of epochs and the seed, which a run may have otherwise."""
    train = config.train.model_copy(update={"epochs": 1, "seed": 0, "device": "auto", "checkpoint_seconds": 1.0})
    return config.model, config.objective, train, config.data.context
