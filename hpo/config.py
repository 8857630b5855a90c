"""What a study searches and how: the section [hpo], beside all settings of a run."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from engine.config import Config, Count, Section
from engine.score.metrics import METRICS


class Range(Section):
    """A number between two; an integer where both are."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    log: bool = False
    """Drawn uniformly in the logarithm."""

    @model_validator(mode="after")
    def _consistent(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"the range {self.low}..{self.high} is empty")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, not at {self.low}")
        return self


class Choices(Section):
    """One of several values."""

    choices: Annotated[tuple[bool | int | float | str, ...], Field(min_length=2)]
    """The values."""


class Simplex(Section):
    """Weights that are 0 or more and sum to 1: of settings of a section, or a list, one for each of the horizons."""

    simplex: Annotated[tuple[str, ...], Field(min_length=2)] | Literal["horizons"]
    """Names of the settings, or "horizons"."""


def _kind(given: Any) -> str:
    keys = given if isinstance(given, dict) else type(given).model_fields
    return next((kind for kind in ("choices", "simplex") if kind in keys), "range")


Dimension = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")] | Annotated[Simplex, Tag("simplex")],
    Discriminator(_kind),
]
Space = dict[str, Dimension]

SPACE: Space = {
    "objective": Simplex(simplex=("rank_ic", "ic", "sharpe", "spearman", "huber", "pairwise")),
    "objective.horizon_weights": Simplex(simplex="horizons"),
    "objective.tau": Range(low=0.02, high=0.5, log=True),
    "train.learning_rate": Range(low=5e-4, high=8e-3, log=True),
    "train.weight_decay": Range(low=1e-3, high=1.0, log=True),
    "model.dropout": Range(low=0.0, high=0.5),
}


def _metric(name: str) -> str:
    known = [metric for metric, of in METRICS.items() if of.maximised]
    if name not in known:
        raise ValueError(f"{name!r} is no metric to maximise; there are {', '.join(known)}")
    return name


class HpoConfig(Section):
    """What `atft-engine hpo` searches and how."""

    metrics: Annotated[tuple[Annotated[str, AfterValidator(_metric)], ...], Field(min_length=1)] = ("rank_ic",)
    """Validation metrics that are maximised. Several: Pareto's front."""
    folds: Count = 0
    """Walk-forward folds whose mean counts. 0: the split as it is."""
    sampler: Literal["tpe", "random", "qmc"] = "tpe"
    """Optuna's sampler."""
    pruner: Literal["halving", "median", "wilcoxon", "none"] = "halving"
    """Optuna's pruner."""
    seed: Count = 0
    """Seed of the sampler."""
    space: Space = SPACE
    """What is searched: a setting, `section.key`, and its range."""


class StudyConfig(Config):
    """All settings of a run, and the search."""

    hpo: HpoConfig = HpoConfig()
    """The search."""
