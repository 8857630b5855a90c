"""What a checkpoint holds: one safetensors file of weights (`Weights`) with, as JSON in its header, the `State`.

`last` is what a run resumes from, `best` the weights of the best validation. Files are written under a temporary name,
flushed, and renamed: a killed save leaves the previous checkpoint whole.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from engine.config import Part
from engine.model.ensemble import Ensemble
from engine.model.optimizer import AdamW
from loaders.cache.atomic import write_atomically
from loaders.errors import InputError

BEST, LAST = "best.safetensors", "last.safetensors"
MODEL, AVERAGE = "model.", "average."  # before the names of weights
OPTIMIZER = "optimizer."  # before the names of its tensors
LOSS_SUMS = "loss_sums"


@dataclass
class State:
    """Where a run stands. Together with the tensors, the configuration and the cache it decides everything to come."""

    run_id: str
    cache_id: str
    config_hash: str
    features: list[str]
    horizons: list[int]
    split: dict[str, list[str]]  # first and last day of train, valid and test, ISO
    source: str  # of the cache: its absolute path, or its URL
    made: dict[str, Any] = field(default_factory=dict)  # how the cache was made, `made_of`; empty: an earlier release
    begun: str = ""  # first day of the cache; "": an earlier release
    online: list[str] = field(default_factory=list)  # features of the online regression; empty: none, or not kept
    step: int = 0
    epoch: int = 0  # epochs completed
    position: int = 0  # blocks of the current epoch that were trained on
    phase: int = 0  # of the configuration's
    phase_epoch: int = 0  # epochs of it completed
    off: list[Part] = field(default_factory=list)  # parts of the model that are bypassed
    lr: float = 0.0  # last learning rate
    best: float | None = None  # best validation RankIC, mean over the horizons that are trained
    phase_best: float | None = None  # of the current phase
    stale: int = 0  # epochs since then
    samples: int = 0  # trained on, all epochs
    rows: int = 0  # read, context included
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "wait": 0.0, "validation": 0.0})
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    finished: bool = False


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

    @property
    def scoring(self) -> Ensemble:
        """The weights that are validated and kept."""
        return self.model if self.average is None else self.average

    @property
    def ensembles(self) -> list[Ensemble]:
        """The model, and its average where there is one."""
        return [self.model] if self.average is None else [self.model, self.average]


def save_best(path: Path, state: State, weights: Weights) -> None:
    """Write the weights that score, with the state."""
    _save(path, state, weights.scoring, None, weights)


def save_last(path: Path, state: State, weights: Weights) -> None:
    """Write all that a resumed run needs."""
    _save(path, state, weights.model, weights.average, weights)


def _save(path: Path, state: State, model: Ensemble, average: Ensemble | None, weights: Weights) -> None:
    tensors = {MODEL + name: tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {AVERAGE + name: tensor for name, tensor in average.state_dict().items()}
    tensors |= {OPTIMIZER + name: tensor for name, tensor in weights.optimizer.tensors().items()}
    tensors[LOSS_SUMS] = weights.loss_sums
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, {"state": json.dumps(asdict(state))}))


def load_checkpoint(path: Path) -> tuple[State, dict[str, Tensor]]:
    """Read a checkpoint. Raises InputError for a missing or damaged file, or one written by another release."""
    try:
        with safe_open(path, "pt") as file:
            state = State(**json.loads(file.metadata()["state"]))
            return state, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except FileNotFoundError as error:
        raise InputError(str(path), "no such checkpoint", "Name a run that has been trained") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        what = f"not a readable checkpoint of this release ({type(error).__name__}: {error})"
        raise InputError(str(path), what, "Train the run again") from error


def restore_model(model: nn.Module, tensors: dict[str, Tensor], path: Path, prefix: str = MODEL) -> None:
    """Load the weights of a checkpoint into a model. Raises InputError where they do not fit each other."""
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        what = f"its weights do not fit this model ({str(error).splitlines()[-1].strip()})"
        raise InputError(str(path), what, "Use the release and the configuration it was trained with") from error


def restore_weights(weights: Weights, tensors: dict[str, Tensor], path: Path) -> None:
    """Load all of a last checkpoint. Raises InputError where it does not fit."""
    restore_model(weights.model, tensors, path)
    if weights.average is not None:
        restore_model(weights.average, tensors, path, AVERAGE)
    places = {OPTIMIZER + name: tensor for name, tensor in weights.optimizer.tensors().items()}
    for name, tensor in (places | {LOSS_SUMS: weights.loss_sums}).items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            what = f"{name} is missing or of another shape, so training cannot go on from it"
            raise InputError(str(path), what, "Use the release and the configuration it was trained with")
        tensor.copy_(tensors[name])
