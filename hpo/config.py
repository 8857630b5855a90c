"""The section [hpo], the search of a study, beside all settings of a run and of rivals."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from engine.config import Section
from engine.rivals.options import RivalConfig
from engine.score.metrics import METRICS
from hpo.algorithms import PRUNERS, SAMPLERS


class Range(Section):
    """A number in [low, high]; an integer where both are."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    log: bool = False
    """Log-uniform."""

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
    keys = given if isinstance(given, dict) else getattr(type(given), "model_fields", ())
    return next((kind for kind in ("choices", "simplex") if kind in keys), "range")


Dimension = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")] | Annotated[Simplex, Tag("simplex")],
    Discriminator(_kind),
]
Space = dict[str, Dimension]

NETWORK = "network"
Kind = Literal["network", "ridge", "lightgbm", "xgboost", "catboost"]  # what is tuned


def _trees(kind: str) -> Space:
    return {
        f"{kind}.objective": Choices(choices=("rank", "huber")),
        f"{kind}.learning_rate": Range(low=0.01, high=0.2, log=True),
        f"{kind}.num_leaves": Range(low=7, high=127, log=True),
        f"{kind}.min_data_in_leaf": Range(low=200, high=20_000, log=True),
        f"{kind}.feature_fraction": Range(low=0.2, high=1.0),
        f"{kind}.bagging_fraction": Range(low=0.2, high=1.0),
        f"{kind}.lambda_l2": Range(low=1e-2, high=1e3, log=True),
    }


SPACES: dict[str, Space] = {
    NETWORK: {
        "objective": Simplex(simplex=("rank_ic", "ic", "sharpe", "spearman", "huber", "pairwise")),
        "objective.horizon_weights": Simplex(simplex="horizons"),
        "objective.tau": Range(low=0.02, high=0.5, log=True),
        "train.learning_rate": Range(low=5e-4, high=8e-3, log=True),
        "train.weight_decay": Range(low=1e-3, high=1.0, log=True),
        "model.dropout": Range(low=0.0, high=0.5),
    },
    "ridge": {
        "ridge.gaussian": Choices(choices=(False, True)),
        "train.half_life": Range(low=126.0, high=6048.0, log=True),
    },
    **{kind: _trees(kind) for kind in ("lightgbm", "xgboost")},
    "catboost": {name: of for name, of in _trees("catboost").items() if "min_data_in_leaf" not in name},
}
"""The default space of each kind."""
SPACE = SPACES[NETWORK]


def _one_of(kind: str, known: Callable[[], Iterable[str]]) -> AfterValidator:
    """Refuses a name that a registry does not hold when it is asked."""

    def check(name: str) -> str:
        if name not in (names := list(known())):
            raise ValueError(f"{name!r} is no {kind}; there are {', '.join(names)}")
        return name

    return AfterValidator(check)


Metric = Annotated[str, _one_of("metric to maximise", lambda: (name for name, of in METRICS.items() if of.maximised))]
Sampler = Annotated[str, _one_of("sampler", lambda: SAMPLERS)]
Pruner = Annotated[str, _one_of("pruner", lambda: PRUNERS)]


class HpoConfig(Section):
    """What `atft-engine hpo` searches and how."""

    kind: Kind = "network"
    """What is tuned: the network, or a rival of `baseline`."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("rank_ic",)
    """Validation metrics that are maximised. Several: the Pareto front."""
    folds: Annotated[int, Field(ge=0, le=1000)] = 0
    """Walk-forward folds whose mean metric is the value. Their validation parts are as long as the split's, follow one
    another, and end with it, so before the test. 0: the split as it is."""
    sampler: Sampler = "tpe"
    """A sampler of hpo/algorithms.py."""
    pruner: Pruner = "halving"
    """A pruner of hpo/algorithms.py."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the sampler."""
    space: Space = SPACE
    """The search space: a setting, `section.key`, and its range."""

    @property
    def sections(self) -> tuple[str, ...]:
        """Of what is tuned, beside those of a run."""
        return () if self.kind == NETWORK else (self.kind,)


class StudyConfig(RivalConfig):
    """All settings of a run and of rivals, and the search."""

    hpo: HpoConfig = HpoConfig()
    """The search."""


@dataclass(frozen=True)
class Work:
    """A study to run."""

    config: StudyConfig
    trials: int  # finished ones that are wanted
    folder: Path
    name: str
    storage: str | None  # URL, None: a journal in the folder
    batch: int = 1  # trials that a process trains at a time
