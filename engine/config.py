"""What a run is asked: every setting, its default and its limits. Unknown keys are refused by name.

`docs/settings.md` is made from this file. `config_file.py` reads and writes it as TOML.

Longer than other modules, since all settings stand in one place.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from loaders.cache.manifest.text import iso_date

Positive = Annotated[int, Field(ge=1, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**62)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
PositiveFloat = Annotated[float, Field(ge=1e-12, le=1e6)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
PartOrAll = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Part = Literal["embedding", "normalisation", "temporal", "static", "market", "heads"]  # of the model, see engine/model
BYPASSED: tuple[Part, ...] = ("normalisation", "temporal", "static", "market")  # parts that a model can do without
Option = bool | int | float | str | tuple[bool | int | float | str, ...]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts `true` as 1, and so would a setting that is a number."""
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        given = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        if {int, float} & kinds and bool not in kinds and any(isinstance(each, bool) for each in given):
            raise ValueError("true and false are no numbers")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of; a section's own fields are not among them."""
    if inner := get_args(annotation):
        return {kind for each in inner for kind in _kinds(each)}
    return {annotation} if isinstance(annotation, type) else set()


class Data(Section):
    """Where rows come from, and the shape of a block."""

    arrow: str = "cache/"
    """The cache: a folder, a folder of shards, or the URL of one."""
    features: tuple[str, ...] | None = None
    """Names of features the cache must have. Unset: whatever it has; the run's config.toml records them."""
    horizons: tuple[int, ...] | None = None
    """Horizons the cache must have; unset as for `features`."""
    any_scale: bool = False
    """Takes features whose deviation is outside 0.2..5 or whose mean is more than 2 from 0."""
    context: Annotated[int, Field(ge=1, le=512)] = 20
    """L, calendar days that a score may look back on, its own day included."""
    block_days: Annotated[int, Field(ge=1, le=2048)] = 32
    """D, scored days of a training block."""
    block_codes: Annotated[int, Field(ge=20, le=1_000_000)] = 64
    """S, the most codes of a training block."""
    scoring_days: Positive = 64
    """Most scored days of a block when validating and predicting."""
    tier: Literal["auto", "resident", "mapped", "ring", "host", "dali"] = "auto"
    """Where blocks form, see docs/loader.md."""
    device_share: Fraction = 0.5
    """Share of the device's free memory that a resident panel may take."""
    store: str = "~/.cache/atft-engine"
    """Folder of local copies of caches that `data.arrow` names by URL."""


class SplitConfig(Section):
    """Which days train, validate and test."""

    train_start: str | None = None
    """First day of training, YYYY-MM-DD. Unset: the first day of the cache."""
    valid_start: str | None = None
    """First day of validation, YYYY-MM-DD. Give it together with `test_start`, or neither."""
    valid_end: str | None = None
    """Last day of validation, YYYY-MM-DD. Unset: the last that leaves the gap before the test."""
    test_start: str | None = None
    """First day of the test, YYYY-MM-DD."""
    test_end: str | None = None
    """Last day of the test, YYYY-MM-DD. Unset: the last day of the cache."""
    valid_fraction: Fraction = 0.15
    """Fraction of the calendar that validates, where no dates are given."""
    test_fraction: Fraction = 0.2
    """Fraction of the calendar that tests, where no dates are given."""
    folds: Annotated[int, Field(ge=0, le=1000)] = 0
    """Number of walk-forward folds, each with the fractions above. 0: one split."""
    fold: Count = 0
    """Which of the folds this run trains on, from 0."""
    by_year: bool = False
    """The test parts of folds are the last calendar years of the cache, one each, and validation the two years before
    them, instead of the fractions above."""
    rolling: bool = False
    """Folds train on as many days as the first fold has, rather than on all days before their validation."""
    tuned_until: Annotated[str, AfterValidator(iso_date)] | None = None
    """Last day that the choice of these settings has seen; best.toml of a study has it. A test that begins at or before
    it is not out of sample, and its figures say so."""

    @model_validator(mode="after")
    def _consistent(self) -> "SplitConfig":
        if (self.valid_start is None) != (self.test_start is None):
            raise ValueError("give both split.valid_start and split.test_start, or neither")
        for key in ("train_start", "valid_end", "test_end"):
            if getattr(self, key) is not None and self.test_start is None:
                raise ValueError(f"split.{key} needs split.valid_start and split.test_start")
        if self.folds and self.test_start is not None:
            raise ValueError("split.folds goes with fractions, not with dates")
        if self.by_year and not self.folds:
            raise ValueError("split.by_year needs split.folds")
        if self.folds and self.fold >= self.folds:
            raise ValueError(f"split.fold={self.fold} is not below split.folds={self.folds}")
        return self


class ModelConfig(Section):
    """The network, and what is done to its scores."""

    name: str = "atft"
    """Which network: a key of engine/model/registry.py's MODELS, or `package.module:factory` for one of your own, see
    own_models.md."""
    options: dict[str, Option] = {}
    """Settings of a network of your own: the keyword arguments of its factory."""
    size: Literal["tiny", "small", "base"] = "tiny"
    """Width and depth."""
    selection: bool = True
    """Variable selection. Off: a plain linear layer."""
    bins: Annotated[int, Field(ge=1, le=64)] = 8
    """Pieces of each feature's piecewise-linear embedding. 1: linear."""
    residual: bool = False
    """Gated residual blocks in both branches, after each temporal layer and before the heads."""
    normalisation: bool = False
    """Adaptive normalisation over trailing spans."""
    attention: bool = False
    """Banded causal attention in the temporal branch."""
    recurrence: bool = True
    """Banded gated recurrence in the temporal branch."""
    static: bool = True
    """A branch for each day's features by themselves, beside the temporal one."""
    convolution: Literal["off", "decays", "lags"] = "decays"
    """Banded causal convolution in the static branch. Its weights are mixtures of decays, or free for each lag."""
    market_tokens: Annotated[int, Field(ge=0, le=64)] = 0
    """Tokens through which codes see the day's other codes. 0: they do not."""
    gaussian: bool = False
    """Adds each feature as the normal quantile of its rank."""
    categories: dict[str, Annotated[int, Field(ge=2, le=1_000_000)]] = {}
    """Features that are ids from 0 on, such as a sector, and how many ids each has."""
    feature_dropout: Share = 0.0
    """Share of a code's features that a block does not see in training."""
    feature_noise: Weight = 0.0
    """Standard deviation of the noise that is added to each feature in training."""
    spans: tuple[Annotated[int, Field(ge=2, le=512)], ...] = (5, 10)
    """Trailing days of the adaptive normalisation."""
    quantiles: tuple[Fraction, ...] = (0.1, 0.5, 0.9)
    """Levels of the quantile heads."""
    dropout: Share = 0.2
    """Share of channels that training drops."""
    online_weight: Weight = 0.3
    """Weight of the online regression that is added to the network's scores, see engine/score/online/. 0: none."""
    online_features: Positive = 256
    """Most features that the online regression uses: its cost per day grows with their square and cube. Of more it
    takes those with the largest mean daily IC, either sign, on the days before validation."""
    last_layer_weight: Weight = 0.0
    """Weight of the refitted last layer that is added too, see engine/score/online/last_layer.py. 0: none."""
    neutralize: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of the scores' exposure to risk factors that is removed. 0: none."""
    risk_factors: Annotated[int, Field(ge=1, le=512)] = 5
    """Number of risk factors, see engine/score/risk.py."""

    @property
    def is_own(self) -> bool:
        """Whether the network is one that `name` imports, rather than one of the engine's."""
        return ":" in self.name

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if self.options and self.name == "atft":
            raise ValueError("model.options are for a network of your own, whose factory model.name imports")
        if self.last_layer_weight and not self.online_weight:
            raise ValueError("model.last_layer_weight needs model.online_weight, with which it is kept")
        changed = [name for name in OF_ATFT if getattr(self, name) != ModelConfig.model_fields[name].default]
        if self.is_own and changed:
            raise ValueError(f"model.{changed[0]} is a setting of ATFT; those of {self.name} are in [model.options]")
        return self


OF_ATFT = (
    "size",
    "selection",
    "bins",
    "residual",
    "normalisation",
    "attention",
    "recurrence",
    "static",
    "convolution",
    "market_tokens",
    "gaussian",
    "feature_dropout",
    "feature_noise",
    "spans",
    "dropout",
    "last_layer_weight",
)  # settings of [model] that mean nothing to a network of the user's own


class OwnTerm(Section):
    """A term of the loss of your own, see own_models.md."""

    term: Annotated[str, Field(pattern=":")]
    """`package.module:function`."""
    weight: Weight = 1.0
    """Its weight."""


class Terms(Section):
    """Weights of the terms of the loss, by name; kernels/rank_terms.py computes them."""

    rank_ic: Weight = 0.7
    """1 - correlation of the scores' soft ranks with the targets' ranks."""
    ic: Weight = 0.3
    """1 - correlation of the scores with the targets."""
    sharpe: Weight = 0.0
    """- mean / standard deviation of the return of the portfolio that the scores weigh."""
    spearman: Weight = 0.0
    """Squared distance of soft ranks to the targets' ranks, 0 to 1."""
    huber: Weight = 0.0
    """Huber's loss of the scores."""
    quantile: Weight = 0.1
    """Pinball loss of the quantile heads."""
    pairwise: Weight = 0.0
    """Logistic loss on pairs."""
    listnet: Weight = 0.0
    """Cross-entropy of softmax(scores) to softmax(targets)."""

    def weights(self) -> dict[str, float]:
        """Weight per term, terms that are off left out."""
        return {term: getattr(self, term) for term in Terms.model_fields if getattr(self, term) > 0}


class ObjectiveConfig(Terms):
    """Weights of the terms of the loss, and what they aim at."""

    tau: PositiveFloat = 0.05
    """Width of the soft rank's kernel, in standard deviations of the scores."""
    temperature: PositiveFloat = 1.0
    """Temperature of listnet's target distribution."""
    rotations: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rotations of the cross-section in `pairwise`."""
    horizon_weights: tuple[Weight, ...] = ()
    """Weight of each horizon. Empty: all the same."""
    target: Literal["rank", "z", "winsorised"] = "rank"
    """What all terms but `sharpe` aim at: ranks, z-scores within the day, or z-scores clipped at 3."""
    own: dict[str, OwnTerm] = {}
    """Terms of your own by name, each a table of `term` and `weight`."""

    @model_validator(mode="after")
    def _consistent(self) -> "ObjectiveConfig":
        taken = [name for name in self.own if name in ("loss", *Terms.model_fields)]
        if taken:
            raise ValueError(f"objective.own.{taken[0]} has the name of a term of the engine; choose another one")
        return self

    def weights(self) -> dict[str, float]:
        """Weight per term, your own last, terms that are off left out."""
        return super().weights() | {name: own.weight for name, own in self.own.items() if own.weight > 0}

    def with_weights(
        self, weights: dict[str, float] | None, horizon_weights: tuple[float, ...] | None
    ) -> "ObjectiveConfig":
        """The same with these weights (terms not named are off) and weights of horizons; None: as they are."""
        changes: dict[str, Any] = {}
        if weights is not None:
            changes = {term: weights.get(term, 0.0) for term in Terms.model_fields}
            changes["own"] = {
                name: own.model_copy(update={"weight": weights.get(name, 0.0)}) for name, own in self.own.items()
            }
        if horizon_weights is not None:
            changes["horizon_weights"] = horizon_weights
        return self.model_copy(update=changes)


class TrainConfig(Section):
    """The optimizer, its schedule, and when training ends."""

    epochs: Positive = 16
    """Epochs of a run without phases."""
    half_life: Weight = 756.0
    """Recency sampling, in days: a block that ends h days before the end of training is in an epoch with probability
    0.5^(h / half_life). 0: every block is."""
    learning_rate: PositiveFloat = 1.5e-3
    """Peak learning rate of AdamW."""
    weight_decay: Weight = 0.01
    """Weight decay of AdamW."""
    warmup: Share = 0.05
    """Fraction of a phase's steps with a rising learning rate. A cosine to 0 follows."""
    clip: Annotated[float, Field(ge=1e-12, le=1e12)] = 1.0
    """Largest norm of the gradient."""
    patience: Positive = 6
    """Epochs without a better validation RankIC before the phase ends."""
    blocks: Count = 0
    """Blocks of an epoch that are trained on. 0: all."""
    seeds: Annotated[int, Field(ge=1, le=1024)] = 1
    """Models trained together, of this seed and the next ones. Their scores are averaged."""
    ema: Share = 0.0
    """Decay per step of the moving average of the weights that is validated and kept. 0: none."""
    swa: Share = 0.0
    """Last share of a phase over whose steps the weights are averaged equally. 0: none."""
    accumulate: Positive = 1
    """Blocks whose gradients make one step of the optimizer."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the step. auto: on CUDA, where a training has so many steps that it pays."""
    deterministic: bool = False
    """On CUDA, use only algorithms that repeat to the bit, some of them slower."""
    refit: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Length of the refit, as a share of a phase's epochs: when the best epoch is chosen, training goes on from its
    weights, on the days of training and validation. What results scores the days after validation. Rivals are fitted
    once more, too. 0: no refit."""
    checkpoint_seconds: Weight = 60.0
    """Seconds between checkpoints inside an epoch."""
    seed: Seed = 0
    """Seed of weights, blocks and dropout."""
    device: str = "auto"
    """auto, cpu, or a CUDA device such as cuda:1."""


class PhaseConfig(Section):
    """One of [[phases]]: epochs with settings of their own. What is not given is as in [train] and [objective]."""

    name: str
    """Name in logs."""
    epochs: Positive
    """Most epochs of the phase."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate."""
    weights: dict[str, Weight] | None = None
    """Weights of the objective's terms. Terms that are not named are off."""
    horizon_weights: tuple[Weight, ...] | None = None
    """Weight of each horizon."""
    frozen: tuple[Part, ...] = ()
    """Parts of the model whose weights stay as they are."""
    off: tuple[Part, ...] = ()
    """Parts of the model that are bypassed."""
    blocks: Count | None = None
    """Blocks of an epoch that are trained on. 0: all."""

    @model_validator(mode="after")
    def _consistent(self) -> "PhaseConfig":
        if self.weights is not None and not any(self.weights.values()):
            raise ValueError(f"every weight of the phase {self.name!r} is 0: there is nothing to train on")
        if self.horizon_weights and not any(self.horizon_weights):
            raise ValueError(f"every horizon of the phase {self.name!r} has the weight 0: there is nothing to train on")
        needed = sorted(set(self.off) - set(BYPASSED))
        if needed:
            raise ValueError(f"{needed[0]!r} cannot be off; {', '.join(BYPASSED)} can")
        return self


class Trees(Section):
    """Boosted trees. The names are LightGBM's; XGBoost and CatBoost have the same settings by other names."""

    objective: Literal["rank", "huber", "lambdarank"] = "rank"
    """Squared error of the targets' ranks, Huber's loss of them, or LambdaMART by day."""
    stop: Literal["rank_ic", "loss"] = "rank_ic"
    """What stops a fit early, on the validation part: the mean daily RankIC, or the objective."""
    trees: Positive = 500
    """Most trees."""
    patience: Positive = 50
    """Trees without a better validation before the fit stops."""
    learning_rate: Annotated[float, Field(ge=1e-4, le=1)] = 0.05
    """Shrinkage of each tree."""
    num_leaves: Annotated[int, Field(ge=2, le=4096)] = 31
    """Most leaves of a tree."""
    min_data_in_leaf: Positive = 1000
    """Least samples of a leaf; of a small panel at most a twentieth of its samples. CatBoost takes no notice of it."""
    max_bin: Annotated[int, Field(ge=2, le=254)] = 63
    """Bins of a feature."""
    feature_fraction: PartOrAll = 0.5
    """Share of the features that a tree sees."""
    bagging_fraction: PartOrAll = 0.5
    """Share of the samples that a tree sees."""
    lambda_l2: Weight = 1.0
    """L2 penalty of leaves."""


class TreesBeside(Trees):
    """Boosted trees that are fitted once the network is trained, with its seeds, half-life and neutralisation. Their
    scores are averaged with the network's, and the online regression is added to that."""

    kind: Literal["off", "lightgbm", "xgboost", "catboost"] = "off"
    """Which trees, and off: none."""
    weight: Fraction = 0.33
    """Of the trees; the network has the rest."""


class Config(Section):
    """All settings of a run."""

    data: Data = Data()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    trees: TreesBeside = TreesBeside()
    phases: tuple[PhaseConfig, ...] = ()
    """Phases one after the other, instead of `train.epochs`. Empty: one phase."""

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
        terms = [*Terms.model_fields, *self.objective.own]
        for phase in self.phases:
            unknown = sorted(set(phase.weights or {}) - set(terms))
            if unknown:
                raise ValueError(f"no term of the objective is called {unknown[0]!r}; there are {', '.join(terms)}")
            if self.model.is_own and (phase.frozen or phase.off):
                part = (*phase.frozen, *phase.off)[0]
                raise ValueError(f"the phase {phase.name!r} names {part!r}, a part of ATFT; {self.model.name} has none")
        return self
