"""A finished run, opened to score, evaluate and report."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.api.frames import naming_arguments, polars
from engine.api.panels import Date, Panel, iso_date
from engine.checkpoint import read_history
from engine.config import Config
from engine.config_file import load_config
from engine.dates import Asked, choose_days
from engine.score.files import Scores, between, holds_folds, read_joined
from engine.score.predict import load_run, predict_days
from engine.score.rows import to_file
from engine.score.tables import read_summary
from loaders.disk.content import is_there
from loaders.errors import InputError
from loaders.panel import open_panel
from loaders.verify import verified

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Run:
    """A run folder, or a folder of walk-forward folds. `Run.load` opens one, `engine.train` gives one."""

    folder: Path
    """Where its files lie."""
    config: Config
    """All its settings, resolved."""

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Open a run folder, or a folder of folds. Raises InputError where it is none."""
        path = Path(folder)
        if not is_there(path / "config.toml"):
            raise InputError(str(path), "no run: it has no config.toml", "Name a folder that `atft-engine train` wrote")
        return cls(path, load_config(path / "config.toml", []))

    @property
    def folds(self) -> "list[Run]":
        """The run of each fold, in order of time; of a single run, none."""
        if not holds_folds(self.folder):
            return []
        return [Run.load(self.folder / f"fold-{i}") for i in range(self.config.split.folds)]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json: identity, days, metrics of `splits` and throughput; None where JSON has null.

        Raises InputError where the training has not ended, and where the file is damaged or was edited.
        """
        return read_summary(self.folder)

    @cached_property
    def metrics(self) -> "pl.DataFrame":
        """What metrics.jsonl holds, a row per validation.

        Columns: `epoch`, `step`, `phase`, `learning_rate`, `valid_rank_ic` (mean over horizons), `best`; `train_TERM`
        and `weight_TERM` of the loss; `valid_METRIC_H` of each metric and horizon; `horizon_weights`, `frozen`, `off`.
        A folder of folds has the rows of all of them, and the column `fold`, from 0 on.

        Raises InputError where no validation was written yet, and where Polars is not installed.
        """
        pl = polars("Run.metrics")
        if folds := self.folds:
            numbered = [run.metrics.select(pl.lit(i, pl.Int64).alias("fold"), pl.all()) for i, run in enumerate(folds)]
            return pl.concat(numbered, how="diagonal")
        lines = read_history(self.folder)
        if lines is None:
            raise InputError(str(self.folder), "has no metrics.jsonl yet", "Train it to its end, or resume it")
        return pl.DataFrame([_flat(line) for line in lines], infer_schema_length=None)

    def predict(
        self,
        cache: str | Path | Panel | None = None,
        split: str = "test",
        start: Date | None = None,
        end: Date | None = None,
        in_sample: bool = False,
        member: int | None = None,
    ) -> "pl.DataFrame":
        """Scores of every present row of some days: the rows and values of `atft-engine predict`'s file.

        Columns: `date` (Date), `code` (String), `score_H` (Float32) for each horizon H; ordered by date and code. Of a
        folder of folds, the joined test scores, which were written when it was trained.

        Args:
            cache: to score; default: the run's own.
            split: "train", "valid" or "test", by the run's own dates.
            start, end: score these days instead, both included; default: from the first test day to the cache's last.
            in_sample: allow days at or before the last validation day.
            member: of a run of several models, this one alone, from 0 on. Default: their average.

        Raises InputError where the cache does not fit or has none of the days, for days in sample that are not allowed,
        and where Polars is not installed.
        """
        polars("Run.predict")
        with naming_arguments():
            asked = asked_days(split, start, end, in_sample)
            if holds_folds(self.folder):
                return _frame(self._joined(asked, cache, member))
            run = load_run(self.folder)
            data = run.config.data
            panel = open_panel(data.arrow if cache is None else cache_path(cache), data.store)
            days, _ = choose_days(run.state, asked, panel, str(self.folder), run.config.split.tuned_until)
            with verified(panel):
                scores = predict_days(run, panel, days, asked.name, member)
            return _frame(to_file(panel, scores))

    def _joined(self, asked: Asked, cache: Any, member: int | None) -> Scores:
        if cache is not None or member is not None:
            what = "holds scores of its own cache, of all members of each fold"
            raise InputError(str(self.folder), what, "Leave cache= and member= out, or ask one of Run.folds")
        scores = read_joined(self.folder, asked.split)
        return between(scores, asked.start, asked.end, str(self.folder))


def asked_days(split: str, start: Date | None, end: Date | None, in_sample: bool) -> Asked:
    """The days that a call asks for. Raises InputError for dates that are none, and for a span beside a split."""
    first = None if start is None else iso_date(start, "start=")
    last = None if end is None else iso_date(end, "end=")
    return Asked(split, first, last, in_sample)


def cache_path(cache: str | Path | Panel) -> str:
    """The folder or URL of a cache."""
    return str(cache.folder if isinstance(cache, Panel) else cache)


def _frame(scores: Scores) -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(
        {
            "date": scores.date.astype("datetime64[D]"),
            "code": scores.code.tolist(),
            **{f"score_{h}": values for h, values in scores.values.items()},
        }
    )


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl without nesting."""
    names = ("epoch", "step", "phase", "learning_rate", "valid_rank_ic", "best")
    return (
        {name: line[name] for name in names}
        | {f"train_{term}": value for term, value in line["train"].items()}
        | {f"weight_{term}": value for term, value in line["weights"].items()}
        | {f"valid_{name}_{h}": value for h, metrics in line["valid"].items() for name, value in metrics.items()}
        | {name: line[name] for name in ("horizon_weights", "frozen", "off")}
    )
