"""What rivals are told: the help that a network gets as well, and settings of each."""

from dataclasses import dataclass, field

from engine.config import Config, Section, Trees
from loaders.progress import Progress, quiet


class Ridge(Section):
    """Ridge regression."""

    gaussian: bool = False
    """Features and targets as normal quantiles of their ranks within the day, rather than features as they are stored
    on ranks."""


class RivalConfig(Config):
    """All settings of a run, so that a rival can be given the same help, and those of the rivals."""

    ridge: Ridge = Ridge()
    lightgbm: Trees = Trees()
    xgboost: Trees = Trees()
    catboost: Trees = Trees()


@dataclass(frozen=True)
class Help:
    """What a network has beside itself. The defaults are none of it.

    Args:
        seeds: models whose scores are standardised within the day and averaged.
        half_life: in days; a sample that is as many days before the end of training weighs half. 0: all weigh alike.
        online_weight: of the online regression's scores, which are added. 0: none.
        neutralize: share of the scores' exposure to risk factors that is removed. 0: none.
        last_layer_weight: of scores of pieces of the trees that are weighed anew each day, which are added. 0: none.
        refit: whether what was chosen on the validation days is fitted once more, to them too.
    """

    seeds: int = 1
    half_life: float = 0.0
    online_weight: float = 0.0
    neutralize: float = 0.0
    last_layer_weight: float = 0.0
    refit: bool = False

    def __str__(self) -> str:
        parts = [
            "1 seed" if self.seeds == 1 else f"{self.seeds} seeds",
            f"half-life {self.half_life:g} days" if self.half_life else "no half-life",
            f"online regression {self.online_weight:g}" if self.online_weight else "no online regression",
            f"neutralised {self.neutralize:g}" if self.neutralize else "not neutralised",
        ]
        if self.last_layer_weight:
            parts.append(f"pieces of trees refitted {self.last_layer_weight:g}")
        parts.append("refitted with the validation days" if self.refit else "no refit")
        return ", ".join(parts)


@dataclass(frozen=True)
class Options:
    """Settings of a fit."""

    feature: str = "ret_1"  # that `reversal` bets against
    seed: int = 0  # of the first model's sampling of rows and features
    help: Help = Help()
    ridge: Ridge = field(default_factory=Ridge)
    trees: dict[str, Trees] = field(default_factory=dict)  # by rival; where it is missing, the defaults
    online_features: int | None = None  # most that the online regression uses; None: all
    risk_factors: int = 5
    deviations: bool = False  # scores of a single seed are standardised within the day too
    without: tuple[int, ...] = ()  # features that the regression and risk factors leave out, such as ids
    progress: Progress = quiet


def options_of(config: RivalConfig, feature: str, without: tuple[int, ...], progress: Progress = quiet) -> Options:
    """The options that a configuration means: the help that it gives a network, and the rivals' sections."""
    model, train = config.model, config.train
    return Options(
        feature=feature, seed=train.seed,
        help=Help(
            train.seeds, train.half_life, model.online_weight, model.neutralize, model.last_layer_weight,
            train.refit > 0,
        ),
        ridge=config.ridge,
        trees={name: getattr(config, name) for name in ("lightgbm", "xgboost", "catboost")},
        online_features=model.online_features, risk_factors=model.risk_factors, without=without, progress=progress,
    )  # fmt: skip
