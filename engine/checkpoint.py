"""What a checkpoint holds: one safetensors file of weights (`Weights`) with, as JSON in its header, the `State`.

`last` is what a run resumes from, `best` the weights of the best validation, without what training alone needs, and
`refit` those after a refit. Files are written under a temporary name, flushed, and renamed: a killed save leaves the
previous checkpoint whole. A checksum is over all that a file holds (loaders/disk/tensors.py), and a file is read only
as what it was written as.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from engine.config import Part
from engine.model.ensemble import Ensemble
from engine.model.optimizer import AdamW
from loaders.cache.atomic import write_atomically
from loaders.cache.manifest.text import iso_date
from loaders.disk.content import find_file, in_words, parse_json
from loaders.disk.tensors import find_tensors, tensors_content
from loaders.errors import InputError, check_memory

BEST, LAST, REFIT = "best.safetensors", "last.safetensors", "refit.safetensors"
MODEL, AVERAGE = "model.", "average."  # before the names of weights
OPTIMIZER = "optimizer."  # before the names of its tensors
LOSS_SUMS = "loss_sums"
AGAIN = "Train the run again"
METRICS = "metrics.jsonl"
REWRITTEN = "`atft-engine train --resume --out RUN` writes it anew"
OF_RUN = "Use the release, the network and the configuration it was trained with"


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("an entry is there twice")
    return values


Day = Annotated[str, AfterValidator(iso_date)]


def _keys(*names: str) -> AfterValidator:
    """Refuses a dict of other keys."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        if set(values) != set(names):
            raise ValueError(f"its keys should be {', '.join(names)}")
        return values

    return AfterValidator(check)


Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[Finite, Field(ge=0)]
Span = Annotated[list[Day], Field(min_length=2, max_length=2)]
Names = Annotated[list[str], AfterValidator(_distinct)]
Horizons = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), AfterValidator(_distinct)]


Kind = TypeVar("Kind")


@dataclass
class State:
    """Where a run stands. Together with the tensors, the configuration and the cache it decides everything to come."""

    run_id: str
    cache_id: str
    config_hash: str
    features: Annotated[Names, Field(min_length=1)]
    horizons: Horizons
    split: Annotated[dict[str, Span], _keys("train", "valid", "test")]  # first and last day of each
    source: str  # of the cache: its absolute path, or its URL
    made: dict[str, Any]  # how the cache was made, `made_of`
    begun: Day  # first day of the cache
    online: Names = field(default_factory=list)  # features of the online regression; empty: none
    step: Count = 0
    epoch: Count = 0  # epochs completed
    position: Count = 0  # blocks of the current epoch that were trained on
    phase: Count = 0  # of the configuration's
    phase_epoch: Count = 0  # epochs of it completed
    off: list[Part] = field(default_factory=list)  # parts of the model that are bypassed
    lr: Seconds = 0.0  # last learning rate
    best: Finite | None = None  # best validation RankIC, mean over the horizons that are trained
    phase_best: Finite | None = None  # of the current phase
    stale: Count = 0  # epochs since then
    samples: Count = 0  # trained on, all epochs
    rows: Count = 0  # read, context included
    seconds: Annotated[dict[str, Seconds], _keys("train", "wait", "validation")] = field(
        default_factory=lambda: {"train": 0.0, "wait": 0.0, "validation": 0.0}
    )
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    finished: bool = False


class Line(BaseModel, strict=True, extra="allow"):
    """What is read of a line of a run's history, which is one of metrics.jsonl."""

    epoch: Count
    step: Count
    phase: str
    learning_rate: Finite
    weights: dict[str, Finite]
    horizon_weights: list[Finite]
    frozen: list[str]
    off: list[str]
    train: dict[str, Finite | None]
    valid: dict[str, dict[str, Finite | None]]
    valid_rank_ic: Finite | None
    best: bool


@dataclass(frozen=True)
class Weights:
    """What training changes."""

    model: Ensemble
    average: Ensemble | None  # average of its weights; None: off
    optimizer: AdamW  # holds the weights of all members
    loss_sums: Tensor  # [K, 1 + TERMS] float64, sums over the epoch's blocks of each member's loss and terms

    def copy_buffers(self) -> None:
        """Give the average the buffers that training has written, such as running means of a network of one's own."""
        if self.average is None:
            return
        trained = self.model.state_dict()
        of_weights = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        for name, tensor in self.average.state_dict().items():
            if name not in of_weights:
                tensor.copy_(trained[name])

    def begin_anew(self) -> None:
        """Forget all that training has gathered beside the weights; the average begins at these."""
        for tensor in (*self.optimizer.tensors().values(), self.optimizer.gradient, self.loss_sums):
            tensor.zero_()
        if self.average is not None:
            self.average.load_state_dict(self.model.state_dict())

    @property
    def scoring(self) -> Ensemble:
        """The weights that are validated and kept."""
        return self.model if self.average is None else self.average

    @property
    def ensembles(self) -> list[Ensemble]:
        """The model, and its average where there is one."""
        return [self.model] if self.average is None else [self.model, self.average]


def save_best(path: Path, state: State, weights: Weights) -> None:
    """Write the weights that score, as `best` or `refit`, with the state. Raises WriteError where that cannot be."""
    tensors = {MODEL + name: tensor for name, tensor in weights.scoring.state_dict().items()}
    write_atomically(path, tensors_content(path.stem, asdict(state), tensors))


def save_last(path: Path, state: State, weights: Weights) -> None:
    """Write all that a resumed run needs. Raises WriteError where that cannot be."""
    write_atomically(path, tensors_content(path.stem, asdict(state), _all(weights)))


def load_checkpoint(path: Path) -> tuple[State, dict[str, Tensor]]:
    """Read a checkpoint. Raises InputError for a missing, damaged or swapped file, or one of an earlier version."""
    found = find_tensors(path, AGAIN)
    if found is None:
        raise InputError(str(path), "no such checkpoint", "Name a run that has been trained")
    return _state_of(found[0], path), found[1]


def _state_of(content: Any, path: Path) -> State:
    """The state that a checkpoint's JSON stands for. Raises InputError where a field is missing, odd or unknown."""
    state = validated(State, content, path, AGAIN)
    for number, line in enumerate(state.history, 1):
        checked_line(line, f"{path}, line {number} of its history", AGAIN)
    return state


def validated(kind: type[Kind], content: Any, path: Path, cure: str) -> Kind:
    """The dataclass that a JSON object stands for. Raises InputError where a field is missing, odd or unknown."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(content, dict):
        raise InputError(str(path), "its state is no JSON object", cure)
    for name in sorted(names ^ set(content)):
        what = f"its state lacks {name}" if name in names else f"its state has an unknown entry {name!r:.100}"
        raise InputError(str(path), what, cure)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise InputError(str(path), f"its state is damaged: {in_words(error)}", cure) from error


def checked_line(line: Any, where: str, cure: str) -> dict[str, Any]:
    """A line of a run's history as it is. Raises InputError where it lacks what is read of it."""
    try:
        Line.model_validate(line)
    except ValidationError as error:
        raise InputError(where, f"is damaged: {in_words(error)}", cure) from error
    return dict(line)


def read_history(run: Path) -> list[dict[str, Any]] | None:
    """The lines of a run's metrics.jsonl; None where it has none.

    Raises InputError where one is damaged, or not what the last checkpoint holds, where there is one.
    """
    path = run / METRICS
    content = find_file(path, REWRITTEN)
    if content is None:
        return None
    lines = content.splitlines()
    history = [parse_json(line, f"{path}, line {i}", REWRITTEN) for i, line in enumerate(lines, 1)]
    history = [checked_line(line, f"{path}, line {i}", REWRITTEN) for i, line in enumerate(history, 1)]
    found = find_tensors(run / "checkpoints" / LAST, AGAIN)
    if found is not None:
        # A checkpoint is written first, so of a run that trains, or was killed, it may hold a line more.
        state = _state_of(found[0], run / "checkpoints" / LAST)
        if history != state.history[: len(history)] or (state.finished and len(history) < len(state.history)):
            raise InputError(str(path), f"holds other lines than {LAST}: it is damaged, or was edited", REWRITTEN)
    return history


def check_best(best: State, last: State, path: Path) -> None:
    """Raise InputError where a best checkpoint is another run's, or older than the best epoch of the last one."""
    if best.run_id != last.run_id:
        what = f"is of run {best.run_id}, and {LAST} beside it of another run, {last.run_id}"
        raise InputError(str(path), what, AGAIN)
    epochs = [line["epoch"] for line in last.history if line["best"]]
    if best.epoch < max(epochs, default=0):
        what = f"is of epoch {best.epoch}, and the best one was {max(epochs)}: it is an earlier copy"
        raise InputError(str(path), what, AGAIN)


def restore_model(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load the weights of a best checkpoint into a model. Raises InputError where they are not of such a one."""
    _check({MODEL + name: tensor for name, tensor in model.state_dict().items()}, tensors, path)
    _load(model, MODEL, tensors, path)


@torch.no_grad()
def restore_weights(weights: Weights, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load all of a last checkpoint. Raises InputError where it does not fit."""
    _check(_all(weights), tensors, path)
    _load(weights.model, MODEL, tensors, path)
    if weights.average is not None:
        _load(weights.average, AVERAGE, tensors, path)
    for name, tensor in weights.optimizer.tensors().items():
        tensor.copy_(tensors[OPTIMIZER + name])
    weights.loss_sums.copy_(tensors[LOSS_SUMS])


def _all(weights: Weights) -> dict[str, Tensor]:
    """What a last checkpoint holds."""
    tensors = {MODEL + name: tensor for name, tensor in weights.model.state_dict().items()}
    if weights.average is not None:
        tensors |= {AVERAGE + name: tensor for name, tensor in weights.average.state_dict().items()}
    tensors |= {OPTIMIZER + name: tensor for name, tensor in weights.optimizer.tensors().items()}
    return tensors | {LOSS_SUMS: weights.loss_sums}


def _load(model: nn.Module, prefix: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    of_model = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    try:
        model.load_state_dict(of_model)
    except RuntimeError as error:  # of what a module of the user's does to load
        check_memory(error)
        raise InputError(str(path), f"cannot be loaded ({str(error).splitlines()[-1].strip()})", OF_RUN) from error


def _check(places: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise InputError where tensors are not those of a model by name, shape or type, and where one is not finite.

    Infinite values may be where a fresh model has some, such as in a mask that a network of one's own keeps; sums of
    losses in the middle of an epoch may be NaN, of terms that were not computed.
    """
    for name in sorted(set(tensors) - set(places)):
        raise InputError(str(path), f"holds {name:.200}, which this model does not have", OF_RUN)
    for name, place in places.items():
        if name not in tensors or tensors[name].shape != place.shape:
            raise InputError(str(path), f"does not fit this model: {name} is missing or of another shape", OF_RUN)
        if tensors[name].dtype != place.dtype:
            what = f"does not fit this model: {name} is {tensors[name].dtype}, not {place.dtype}"
            raise InputError(str(path), what, OF_RUN)
        if name != LOSS_SUMS and not tensors[name].isfinite().all() and place.isfinite().all():
            raise InputError(str(path), f"{name} holds values that are not finite", AGAIN)
