"""LightGBM: boosted trees, one fit per horizon and seed, stopped early on the validation part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.rivals.samples import Float, Float32, InPieces, Int, Problem
from engine.rivals.trees.data import GRADES, Data, cuts, data_of, least_of_leaf, settings_of
from loaders.errors import InputError

OBJECTIVES = {"rank": "regression", "huber": "huber", "lambdarank": "lambdarank"}
LEAST_FILTERED = 400  # samples: a twentieth of them are the 20 that LightGBM expects in a leaf
MOST_OF_DAY = 10_000  # samples that its LambdaMART takes


@dataclass(frozen=True)
class Booster:
    """A fitted LightGBM."""

    booster: Any

    def predict(self, x: Float32, day: Int) -> Float:
        return self.booster.predict(x)

    @property
    def trees(self) -> int:
        best: int = self.booster.best_iteration
        return best if best > 0 else int(self.booster.num_trees())

    def pieces(self, x: Float32, most: int) -> Float:
        return np.stack(
            [self.booster.predict(x, start_iteration=a, num_iteration=b - a) for a, b in cuts(self.trees, most)], 1
        )

    def content(self) -> bytes:
        return self.booster.model_to_string().encode()

    @classmethod
    def of(cls, content: bytes) -> "Booster":
        """The model of its content. Raises InputError without lightgbm, and what LightGBM raises for no model."""
        return cls(library().Booster(model_str=content.decode()))


def library() -> Any:
    """The package. Raises InputError where it is not installed."""
    try:
        import lightgbm
    except ImportError as error:
        raise InputError("--kind lightgbm", f"not available ({error})", "pip install 'atft-engine[peers]'") from error
    return lightgbm


def check_days(samples: Int, where: str) -> None:
    """Raise InputError where a day has more samples than LambdaMART takes.

    Args:
        samples: of each day.
        where: the setting, for the message.
    """
    if (most := int(samples.max())) > MOST_OF_DAY:
        what = f"lambdarank takes {MOST_OF_DAY:,} samples a day, and a day here has {most:,}"
        raise InputError(where, what, "Use rank")


def lightgbm(problem: Problem, seeds: range, like: Sequence[InPieces] | None = None) -> list[Booster]:
    """A fit for each seed, stopped early, or with as many trees as models of the same seeds have.

    Raises InputError without the package, and for a part without samples.
    """
    package, settings = library(), settings_of(problem, "lightgbm")
    train = data_of(problem, "train", settings)
    if settings.objective == "lambdarank":
        check_days(train.groups, "lightgbm.objective")
    parameters: dict[str, Any] = {
        "objective": OBJECTIVES[settings.objective],
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.num_leaves,
        "max_bin": settings.max_bin,
        "feature_fraction": settings.feature_fraction,
        "bagging_fraction": settings.bagging_fraction,
        "bagging_freq": 1,
        "lambda_l2": settings.lambda_l2,
        "min_data_in_leaf": least_of_leaf(settings, len(train.x)),
        # Of few samples a leaf will hold fewer than those by which the library leaves features out beforehand.
        "feature_pre_filter": len(train.x) >= LEAST_FILTERED,
        "deterministic": True,
        "num_threads": torch.get_num_threads(),
        "force_col_wise": True,
        "verbosity": -1,
    }
    if settings.objective == "huber":
        parameters["alpha"] = 1.0  # deviations, beyond which an error counts linearly
    if settings.objective == "lambdarank":
        parameters["label_gain"] = list(range(GRADES))
    if settings.stop == "rank_ic":
        parameters["metric"] = "None"

    def dataset(data: Data, reference: Any = None) -> Any:
        group = data.groups if settings.objective == "lambdarank" else None
        return package.Dataset(
            data.x, data.target, weight=data.weight, group=group, reference=reference, params=parameters
        )

    of_train = dataset(train)

    def rank_ic(scores: Float, _: Any) -> tuple[str, float, bool]:
        return "rank_ic", problem.valid_rank_ic(np.asarray(scores)), True

    def told(state: Any) -> None:
        problem.options.progress(state.iteration, settings.trees, "trees")

    if like is not None:
        counts = [model.trees for model in like]
        return [
            Booster(package.train(parameters | {"seed": seed}, of_train, trees, callbacks=[told]))
            for seed, trees in zip(seeds, counts, strict=True)
        ]
    of_valid = dataset(data_of(problem, "valid", settings), of_train)
    return [
        Booster(
            package.train(
                parameters | {"seed": seed}, of_train, settings.trees, valid_sets=[of_valid],
                feval=rank_ic if settings.stop == "rank_ic" else None,
                callbacks=[package.early_stopping(settings.patience, verbose=False), told],
            )
        )
        for seed in seeds
    ]  # fmt: skip
