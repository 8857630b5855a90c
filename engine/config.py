"""The configuration of a run: every setting, its default and its limits. Unknown keys are refused by name."""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from loaders.errors import InputError

Positive = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Part = Literal["embedding", "normalisation", "temporal", "static", "market", "heads"]  # of the model, see engine/model
BYPASSED: tuple[Part, ...] = ("normalisation", "temporal", "static", "market")  # parts that a model can do without


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    arrow: str = "cache/"  # the cache: a folder, a folder of shards, or the URL of one
    features: tuple[str, ...] | None = None  # names and horizons the cache must have; unset: whatever it has, and the
    horizons: tuple[int, ...] | None = None  # run's config.toml records them
    context: Annotated[int, Field(ge=1, le=512)] = 20  # L, days a score may look back on, its own included
    block_days: Positive = 32  # D, scored days of a training block
    block_codes: Annotated[int, Field(ge=20)] = 64  # S, the most codes of a training block
    scoring_days: Positive = 64  # most scored days of a block when validating and predicting
    tier: Literal["auto", "resident", "mapped", "ring", "host", "dali"] = (
        "auto"  # where blocks form, see docs/loader.md
    )
    device_share: Fraction = 0.5  # of the device's free memory that a resident panel may take
    store: str = "~/.cache/atft-engine"  # local copies of caches that data.arrow names by URL


class SplitConfig(Section):
    valid_start: str | None = None  # ISO dates; both or neither
    test_start: str | None = None
    test_end: str | None = None
    valid_fraction: Fraction = 0.15  # of the calendar, where no dates are given
    test_fraction: Fraction = 0.2
    folds: Annotated[int, Field(ge=0)] = (
        0  # walk-forward: number of folds (0: one split), each with the fractions above
    )
    fold: Annotated[int, Field(ge=0)] = 0  # which of them this run trains on
    rolling: bool = False  # folds train on as many days as the first has, rather than on all before their validation

    @model_validator(mode="after")
    def _consistent(self) -> "SplitConfig":
        if (self.valid_start is None) != (self.test_start is None):
            raise ValueError("give both split.valid_start and split.test_start, or neither")
        if self.test_end is not None and self.test_start is None:
            raise ValueError("split.test_end needs split.valid_start and split.test_start")
        if self.folds and self.test_start is not None:
            raise ValueError("split.folds goes with fractions, not with dates")
        if self.folds and self.fold >= self.folds:
            raise ValueError(f"split.fold={self.fold} is not below split.folds={self.folds}")
        return self


class ModelConfig(Section):
    size: Literal["tiny", "small", "base"] = "tiny"
    selection: bool = True  # variable selection; off: a plain linear layer
    bins: Annotated[int, Field(ge=1, le=64)] = 8  # pieces of each feature's piecewise-linear embedding (1: linear)
    residual: bool = False  # gated residual blocks in both branches, after each temporal layer and before the heads
    normalisation: bool = False  # adaptive normalisation over trailing spans
    attention: bool = False  # banded causal attention, in the temporal branch
    recurrence: bool = True  # banded gated recurrence, there too
    static: bool = True  # a branch for each day's features by themselves beside the temporal one
    convolution: Literal["off", "decays", "lags"] = (
        "decays"  # banded causal convolution in that branch, its weights mixtures of decays or free for each lag
    )
    market_tokens: Annotated[int, Field(ge=0, le=64)] = 0  # through which codes see the day's others; 0: not at all
    gaussian: bool = False  # features also as normal quantiles of ranks
    categories: dict[str, Annotated[int, Field(ge=2)]] = {}  # features that are ids from 0 on, as of a sector: how many
    feature_dropout: Share = 0.0  # share of a code's features that a block does not see
    feature_noise: Weight = 0.0  # deviation of what is added to each feature in training
    spans: tuple[Annotated[int, Field(ge=2)], ...] = (5, 10)  # trailing days of the adaptive normalisation
    quantiles: tuple[Fraction, ...] = (0.1, 0.5, 0.9)  # levels of the quantile heads
    dropout: Share = 0.2
    online: Weight = 0.3  # of the online regression beside the model's scores, see engine/online.py, 0: none
    neutral: Annotated[float, Field(ge=0, le=1)] = (
        0.3  # share of scores' slope on risk directions that is taken off, 0: none
    )
    risks: Positive = 5  # number of risk directions, see engine/risk.py


class ObjectiveConfig(Section):
    rank_ic: Weight = 0.7
    ic: Weight = 0.3
    sharpe: Weight = 0.0
    spearman: Weight = 0.0
    huber: Weight = 0.0
    quantile: Weight = 0.1
    pairwise: Weight = 0.0
    listnet: Weight = 0.0
    tau: Annotated[float, Field(gt=0)] = 0.05  # width of the soft rank's kernel, in standard deviations of the scores
    temperature: Annotated[float, Field(gt=0)] = 1.0  # of listnet's target distribution
    rotations: Positive = 16  # of the cross-section in `pairwise`
    horizon_weights: tuple[Weight, ...] = ()  # of each horizon; empty: all the same
    target: Literal["rank", "z", "winsorised"] = (
        "rank"  # what all terms but sharpe aim at: ranks, deviations from the day's mean, or those held to WINSORISED
    )

    def weights(self) -> dict[str, float]:
        """Weight per term, terms that are off left out."""
        from kernels.rank_terms import TERMS

        return {term: getattr(self, term) for term in TERMS if getattr(self, term) > 0}

    def with_weights(
        self, weights: dict[str, float] | None, horizon_weights: tuple[float, ...] | None
    ) -> "ObjectiveConfig":
        """The same with these weights (terms not named are off) and weights of horizons; None: as they are."""
        from kernels.rank_terms import TERMS

        changes: dict[str, Any] = {} if weights is None else {term: weights.get(term, 0.0) for term in TERMS}
        if horizon_weights is not None:
            changes["horizon_weights"] = horizon_weights
        return self.model_copy(update=changes)


class TrainConfig(Section):
    epochs: Positive = 16
    half_life: Weight = 756.0  # days; of blocks that lie so far before training's end half are in an epoch, 0: all are
    learning_rate: Annotated[float, Field(gt=0)] = 1.5e-3
    weight_decay: Weight = 0.01
    warmup: Share = 0.05  # fraction of a phase's steps with a rising learning rate
    clip: Annotated[float, Field(gt=0)] = 1.0  # largest norm of the gradient
    patience: Positive = 6  # epochs without a better validation RankIC before the phase ends
    blocks: Annotated[int, Field(ge=0)] = 0  # of an epoch that are trained on, 0: all
    seeds: Positive = 1  # models trained together, of this seed and the next ones; their scores are averaged
    ema: Share = 0.0  # decay per step of the moving average of the weights that is validated and kept, 0: none
    swa: Share = 0.0  # last part of a phase, over whose steps the weights that are kept are averaged alike, 0: none
    accumulate: Positive = 1  # blocks whose gradients make one step of the optimizer
    compile: Literal["auto", "on", "off"] = "auto"  # the step, by torch.compile; auto: on CUDA
    deterministic: bool = False  # on CUDA: only algorithms that repeat to the bit, some of them slower
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0  # between checkpoints inside an epoch
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"  # "auto", "cpu" or a CUDA device


class PhaseConfig(Section):
    """One of [[phases]]; what is not given is as in [train] and [objective]."""

    name: str
    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    weights: dict[str, Weight] | None = None  # of the objective's terms; those not named are off
    horizon_weights: tuple[Weight, ...] | None = None
    frozen: tuple[Part, ...] = ()  # parts whose weights stay as they are
    off: tuple[Part, ...] = ()  # parts that are bypassed
    blocks: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "PhaseConfig":
        from kernels.rank_terms import TERMS

        unknown = sorted(set(self.weights or {}) - set(TERMS))
        if unknown:
            raise ValueError(f"no term of the objective is called {unknown[0]!r}; there are {', '.join(TERMS)}")
        if self.weights is not None and not any(self.weights.values()):
            raise ValueError(f"every weight of the phase {self.name!r} is 0: there is nothing to train on")
        if self.horizon_weights and not any(self.horizon_weights):
            raise ValueError(f"every horizon of the phase {self.name!r} has the weight 0: there is nothing to train on")
        needed = sorted(set(self.off) - set(BYPASSED))
        if needed:
            raise ValueError(f"{needed[0]!r} cannot be off; {', '.join(BYPASSED)} can")
        return self


class Range(Section):
    """A number between two; an integer where both are."""

    low: int | float
    high: int | float
    log: bool = False

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


class Simplex(Section):
    """Weights that are 0 or more and sum to 1: of settings of a section, or a list, one for each of the horizons."""

    simplex: Annotated[tuple[str, ...], Field(min_length=2)] | Literal["horizons"]


def _kind(given: Any) -> str:
    keys = given if isinstance(given, dict) else type(given).model_fields
    return next((kind for kind in ("choices", "simplex") if kind in keys), "range")


Dimension = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")] | Annotated[Simplex, Tag("simplex")],
    Discriminator(_kind),
]
Space = dict[str, Dimension]
Metric = Literal["rank_ic", "rank_icir", "rank_ic_t", "ic", "icir", "decile_spread", "sharpe", "sharpe_net"]

SPACE: Space = {
    "objective": Simplex(simplex=("rank_ic", "ic", "sharpe", "spearman", "huber", "pairwise")),
    "objective.horizon_weights": Simplex(simplex="horizons"),
    "objective.tau": Range(low=0.02, high=0.5, log=True),
    "train.learning_rate": Range(low=5e-4, high=8e-3, log=True),
    "train.weight_decay": Range(low=1e-3, high=1.0, log=True),
    "model.dropout": Range(low=0.0, high=0.5),
}


class HpoConfig(Section):
    """What `atft-engine hpo` searches and how; a training takes no notice of it."""

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("rank_ic",)  # of validation, several: Pareto's front
    folds: Annotated[int, Field(ge=0)] = 0  # walk-forward folds whose mean counts, 0: the split as it is
    sampler: Literal["tpe", "random", "qmc"] = "tpe"
    pruner: Literal["halving", "median", "wilcoxon", "none"] = "halving"
    seed: Annotated[int, Field(ge=0)] = 0  # of the sampler
    space: Space = SPACE


class Config(Section):
    data: Data = Data()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    phases: tuple[PhaseConfig, ...] = ()  # one after the other, instead of train.epochs; empty: one phase
    hpo: HpoConfig = HpoConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if not self.objective.weights():
            raise ValueError("every weight of [objective] is 0: there is nothing to train on")
        if self.objective.horizon_weights and not any(self.objective.horizon_weights):
            raise ValueError("every one of objective.horizon_weights is 0: there is nothing to train on")
        if self.train.ema and self.train.swa:
            raise ValueError("train.ema and train.swa are two averages of the weights: set one of them to 0")
        if self.objective.quantile > 0 and not self.model.quantiles:
            raise ValueError("objective.quantile needs at least one level in model.quantiles")
        if self.model.normalisation and (not self.model.spans or max(self.model.spans) > self.data.context):
            raise ValueError(f"model.spans must be 1 or more spans of at most data.context={self.data.context} days")
        return self


def load_config(path: Path | None, settings: list[str], arrow: str | None = None) -> Config:
    """Defaults, then the TOML file, then `section.key=value` settings, then the cache named on the command line.

    A setting's value is read as TOML where it is valid TOML (numbers, booleans, lists) and as text otherwise.
    Raises InputError naming the key, the value and what is allowed.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(
                str(path), f"not a readable TOML file ({error})", "Mend it, or leave --config out"
            ) from error
    for setting in settings:
        key, equals, text = setting.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and name):
            raise InputError("--set", f"{setting!r} is not section.key=value", "Write for example --set train.epochs=4")
        if not isinstance(values.setdefault(section, {}), dict):
            raise InputError("--set", f"{section!r} is no section", f"Sections are {', '.join(Config.model_fields)}")
        values[section][name] = _value(text.strip())
    if arrow is not None:
        values.setdefault("data", {})["arrow"] = arrow
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        given = "" if first["type"] == "extra_forbidden" or not first["loc"] else f" (got {first['input']!r})"
        what = "no such setting" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise InputError(where, what + given, f"Settings there: {_known(first['loc'])}") from error


def _known(location: tuple[int | str, ...]) -> str:
    section = Config.model_fields.get(str(location[0])) if location else None
    kind = section.annotation if section else Config
    return ", ".join(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else str(kind)


def _value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    # 2013-01-01 is a date in TOML; settings hold dates as text.
    return value if isinstance(value, bool | int | float | str | list | dict) else text


def to_toml(config: Config) -> str:
    """The complete configuration of a run as TOML; unset keys, and [hpo], which decides nothing in a run, are left out.

    JSON's strings, numbers, booleans and lists are also TOML's.
    """
    lines = []
    for section, content in config.model_dump(mode="json", exclude={"hpo"}).items():
        tables = [(f"[[{section}]]", table) for table in content] if isinstance(content, list) else []
        for heading, values in tables or ([(f"[{section}]", content)] if isinstance(content, dict) else []):
            lines.append(heading)
            lines += [f"{k} = {_toml(v)}" for k, v in values.items() if v is not None]
            lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def config_hash(config: Config) -> str:
    """Identity of what decides a run's figures: all settings but where data lies and passes, and how often it saves."""
    content = config.model_dump(mode="json")
    for name in ("arrow", "tier", "device_share", "store"):
        del content["data"][name]
    del content["train"]["checkpoint_seconds"], content["hpo"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
