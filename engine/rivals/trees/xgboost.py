"""XGBoost: boosted trees grown by loss, one fit per horizon and seed, stopped early on the validation part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.rivals.samples import Float, Float32, InPieces, Int, Problem
from engine.rivals.trees.data import Data, cuts, data_of, settings_of
from loaders.errors import InputError

OBJECTIVES = {"rank": "reg:squarederror", "huber": "reg:pseudohubererror", "lambdarank": "rank:ndcg"}


@dataclass(frozen=True)
class Booster:
    """A fitted XGBoost."""

    booster: Any

    def predict(self, x: Float32, day: Int) -> Float32:
        return self.booster.inplace_predict(x)

    @property
    def trees(self) -> int:
        return int(self.booster.num_boosted_rounds())

    def pieces(self, x: Float32, most: int) -> Float32:
        return np.stack([self.booster.inplace_predict(x, iteration_range=of) for of in cuts(self.trees, most)], 1)

    def content(self) -> bytes:
        return bytes(self.booster.save_raw("json"))

    @classmethod
    def of(cls, content: bytes) -> "Booster":
        """The model of its content. Raises InputError without xgboost, and what XGBoost raises for no model."""
        return cls(library().Booster(model_file=bytearray(content)))


def library() -> Any:
    """The package. Raises InputError where it is not installed."""
    try:
        import xgboost
    except ImportError as error:
        raise InputError("--kind xgboost", f"not available ({error})", "pip install xgboost") from error
    return xgboost


def xgboost(problem: Problem, seeds: range, like: Sequence[InPieces] | None = None) -> list[Booster]:
    """A fit for each seed, stopped early, or with as many trees as models of the same seeds have.

    Raises InputError without the package, and for a part without samples.
    """
    package, settings = library(), settings_of(problem, "xgboost")
    train = data_of(problem, "train", settings)
    by_day = settings.objective == "lambdarank"
    of_train = _matrix(package, train, settings.max_bin, by_day)
    # A leaf's samples are the sum of second derivatives, 1 a sample for squared errors. Weights make them fewer.
    mean = 1.0 if train.weight is None else float(train.weight.mean())
    parameters = {
        "objective": OBJECTIVES[settings.objective],
        "eta": settings.learning_rate,
        "nthread": torch.get_num_threads(),
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "max_depth": 0,
        "max_leaves": settings.num_leaves,
        "max_bin": settings.max_bin,
        "colsample_bytree": settings.feature_fraction,
        "subsample": settings.bagging_fraction,
        "reg_lambda": settings.lambda_l2,
        "min_child_weight": min(settings.min_data_in_leaf, len(train.x) // 20) * mean if not by_day else 1.0,
        "disable_default_eval_metric": settings.stop == "rank_ic",
        "verbosity": 0,
    }
    if by_day:
        parameters["ndcg_exp_gain"] = False

    def rank_ic(scores: Float, _: Any) -> tuple[str, float]:
        return "rank_ic", problem.valid_rank_ic(np.asarray(scores))

    if like is not None:
        counts = [model.trees for model in like]
        return [
            Booster(
                package.train(
                    parameters | {"seed": seed}, of_train, num_boost_round=trees,
                    callbacks=[_progress(package, problem, trees)],
                )
            )
            for seed, trees in zip(seeds, counts, strict=True)
        ]  # fmt: skip
    of_valid = _matrix(package, data_of(problem, "valid", settings), settings.max_bin, by_day, of_train)
    found = []
    for seed in seeds:
        booster = package.train(
            parameters | {"seed": seed}, of_train, num_boost_round=settings.trees, evals=[(of_valid, "valid")],
            verbose_eval=False,
            custom_metric=rank_ic if settings.stop == "rank_ic" else None,
            callbacks=[
                package.callback.EarlyStopping(
                    rounds=settings.patience, save_best=True, maximize=settings.stop == "rank_ic" or by_day
                ),
                _progress(package, problem, settings.trees),
            ],
        )  # fmt: skip
        found.append(Booster(booster))
    return found


def _matrix(package: Any, data: Data, bins: int, by_day: bool, reference: Any = None) -> Any:
    weight = data.group_weight if by_day else data.weight
    group = data.groups if by_day else None
    return package.QuantileDMatrix(data.x, data.target, weight=weight, group=group, max_bin=bins, ref=reference)


def _progress(package: Any, problem: Problem, trees: int) -> Any:
    class Told(package.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            problem.options.progress(epoch, trees, "trees")
            return False

    return Told()
