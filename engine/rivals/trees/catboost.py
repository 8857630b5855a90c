"""CatBoost: boosted trees grown by loss, one fit per horizon and seed, stopped early on the validation part."""

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.rivals.samples import Float, Float32, InPieces, Int, Problem
from engine.rivals.trees.data import Data, cuts, data_of, least_of_leaf, settings_of
from loaders.errors import InputError

OBJECTIVES = {"rank": "RMSE", "huber": "Huber:delta=1", "lambdarank": "YetiRank"}


@dataclass(frozen=True)
class Booster:
    """A fitted CatBoost."""

    booster: Any

    def predict(self, x: Float32, day: Int) -> Float:
        return self.booster.predict(x)

    @property
    def trees(self) -> int:
        return int(self.booster.tree_count_)

    def pieces(self, x: Float32, most: int) -> Float:
        return np.stack([self.booster.predict(x, ntree_start=a, ntree_end=b) for a, b in cuts(self.trees, most)], 1)

    def content(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.cbm"
            self.booster.save_model(str(path))
            return path.read_bytes()

    @classmethod
    def of(cls, content: bytes) -> "Booster":
        """The model of its content. Raises InputError without catboost, and what CatBoost raises for no model."""
        return cls(library().CatBoost().load_model(blob=content))


def library() -> Any:
    """The package. Raises InputError where it is not installed."""
    try:
        import catboost
    except ImportError as error:
        raise InputError("--kind catboost", f"not available ({error})", "pip install catboost") from error
    return catboost


def catboost(problem: Problem, seeds: range, like: Sequence[InPieces] | None = None) -> list[Booster]:
    """A fit for each seed, stopped early, or with as many trees as models of the same seeds have.

    Raises InputError without the package, and for a part without samples.
    """
    package, settings = library(), settings_of(problem, "catboost")
    train = data_of(problem, "train", settings)
    by_day = settings.objective == "lambdarank"
    of_train = _pool(package, train, by_day)
    parameters: dict[str, Any] = {
        "loss_function": OBJECTIVES[settings.objective],
        "learning_rate": settings.learning_rate,
        "grow_policy": "Lossguide",
        "max_leaves": settings.num_leaves,
        "min_data_in_leaf": least_of_leaf(settings, len(train.x)),
        "border_count": settings.max_bin,
        "rsm": settings.feature_fraction,
        "bootstrap_type": "Bernoulli",
        "subsample": settings.bagging_fraction,
        "l2_leaf_reg": settings.lambda_l2,
        "allow_writing_files": False,
        "thread_count": torch.get_num_threads(),
        "verbose": False,
    }
    of_valid = None
    if like is None:
        valid = data_of(problem, "valid", settings)
        of_valid = _pool(package, valid, by_day)
        parameters |= {"od_type": "Iter", "od_wait": settings.patience, "use_best_model": True}
        if settings.stop == "rank_ic":
            parameters["eval_metric"] = _RankIc(problem, len(valid.x))
    counts = [settings.trees] * len(seeds) if like is None else [model.trees for model in like]
    found = []
    for seed, trees in zip(seeds, counts, strict=True):
        problem.options.progress(seed - seeds.start, len(seeds), "trees")
        with warnings.catch_warnings():  # that the metric is not compiled, which it need not be
            warnings.filterwarnings("ignore", message="Can't optim")
            untrained = package.CatBoost(parameters | {"iterations": trees, "random_seed": seed})
            booster = untrained.fit(of_train, eval_set=of_valid)
        found.append(Booster(booster))
    return found


def _pool(package: Any, data: Data, by_day: bool) -> Any:
    if not by_day:
        return package.Pool(data.x, data.target, weight=data.weight)
    weight = None if data.weight is None else data.weight.tolist()
    return package.Pool(data.x, data.target, group_id=data.day, group_weight=weight)


class _RankIc:
    """The mean daily RankIC as CatBoost asks for a metric: of the validation part; of the training part it is 0."""

    def __init__(self, problem: Problem, samples: int) -> None:
        self.problem, self.samples = problem, samples

    def __deepcopy__(self, memo: Any) -> "_RankIc":
        return self  # the library copies it, and a mapped panel cannot be

    def is_max_optimal(self) -> bool:
        return True

    def evaluate(self, approxes: Any, target: Any, weight: Any) -> tuple[float, float]:
        scores = np.asarray(approxes[0])
        return (self.problem.valid_rank_ic(scores) if len(scores) == self.samples else 0.0), 1.0

    def get_final_error(self, error: float, weight: float) -> float:
        return error
