"""A trained network as one file for other programs, by torch.export or as ONNX, for any number of codes.

    x        [S, T, F] float32   features, T = days + L - 1 days ending with the scored ones; 0 where absent
    present  [S, T]    float32   1: the code has a row on that day
    scored   [S, T]    float32   1: the row is of the universe
 -> scores   [S, days, H]        float32, the network's part of what `predict` gives

The file holds all members, their averaging within the day and the neutralisation; x must hold all of a day's scored
codes. The online regression and a refitted last layer change from day to day and stay outside, and trees beside the
network do: see `about`, which the file holds as JSON.

S codes, T days read, F features, L context, H horizons
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.model.ensemble import Ensemble
from engine.model.neutral import Neutral
from engine.rivals.beside import TREES
from engine.score.predict import TrainedRun
from loaders.cache.atomic import write_atomically
from loaders.errors import InputError

INPUTS, OUTPUT, CODES = ("x", "present", "scored"), "scores", "codes"
ABOUT = "atft_engine"  # under which a file holds what it is
TRACED = 7  # codes of the example; any number can be scored


def about(run: TrainedRun, days: int) -> dict[str, Any]:
    """What a file says of itself; all dates are ISO."""
    config, state = run.config, run.state
    weight = config.model.online_weight
    outside = f"add {weight:g} x the neutralised scores of the online regression" if weight else "none"
    share, refit = config.trees.weight, config.model.last_layer_weight
    beside = (
        "none" if run.trees is None else f"{1 - share:g} x these scores + {share:g} x those of {TREES}, neutralised"
    )
    return {
        "run_id": state.run_id,
        "features": state.features,
        "horizons": state.horizons,
        "context": config.data.context,
        "days": days,
        "members": len(run.model.members),
        "online_regression": outside,
        "online_weight": weight,
        "trees": beside,
        "last_layer": f"add {refit:g} x the neutralised scores of the refitted last layer" if refit else "none",
        "cache": state.made,
        "trained_until": run.trained_until,
        "chosen_until": state.split["valid"][1],
    }


def export_run(run: TrainedRun, to: str, out: Path, days: int = 1) -> dict[str, Any]:
    """Write the network of a run to a file, whole or not at all; gives what it says of itself.

    Args:
        to: a key of WRITERS.
        days: that are scored at a time.

    Raises InputError for an unknown format, an absent package, and a network that cannot be traced.
    """
    if to not in WRITERS:
        raise InputError("--to", f"no format {to!r}", f"Use {' or '.join(WRITERS)}")
    said = about(run, days)
    module = Exported(run.model).eval()
    span = days + run.config.data.context - 1
    codes = torch.export.Dim(CODES, min=1)
    example = (torch.zeros(TRACED, span, len(run.state.features)), *torch.ones(2, TRACED, span))
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(module, example, dynamic_shapes=({0: codes},) * len(INPUTS))
            content = WRITERS[to](program, said)
    except RuntimeError as error:
        what = f"{run.config.model.name} cannot be traced ({str(error).strip().splitlines()[0]})"
        raise InputError(
            "export", what, "Use another --to, or a network whose shapes do not decide what it does"
        ) from error
    write_atomically(out, content)
    return said


class Exported(nn.Module):
    """An ensemble whose every operator other programs have."""

    def __init__(self, model: Ensemble) -> None:
        super().__init__()
        features, risks = model.neutral.directions.shape
        neutral = _Eliminated(features, risks, model.neutral.share)
        neutral.load_state_dict(model.neutral.state_dict())
        self.model = Ensemble(model.members, neutral, model.deviations)

    def forward(self, x: Tensor, present: Tensor, scored: Tensor) -> Tensor:
        scores, _ = self.model(x, present, scored)
        return scores.float()


class _Eliminated(Neutral):
    """The same, its few equations solved by elimination in elementary operators: ONNX has none that solves."""

    def solve(self, square: Tensor, right: Tensor) -> Tensor:
        count = square.shape[-1]
        rows = list(torch.cat([square, right], -1).unbind(-2))  # [D, R + H] each
        for i in range(count):  # without pivots, which positive definite matrices do not need
            for j in range(i + 1, count):
                rows[j] = rows[j] - rows[j][:, i : i + 1] / rows[i][:, i : i + 1] * rows[i]
        slopes: list[Tensor] = []  # of the last directions
        for i in reversed(range(count)):
            of_row = rows[i][:, count:]
            for j, later in enumerate(slopes, i + 1):
                of_row = of_row - rows[i][:, j : j + 1] * later
            slopes.insert(0, of_row / rows[i][:, i : i + 1])
        return torch.stack(slopes, -2)


def _to_torch(program: torch.export.ExportedProgram, said: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(said)})
    return buffer.getvalue()


def _to_onnx(program: torch.export.ExportedProgram, said: dict[str, Any]) -> bytes:
    _import("onnx")
    _import("onnxscript")
    # Not optimised: the optimiser takes the 1e-12 of a z-score for 0, and a runtime does its own optimisation.
    found = torch.onnx.export(
        program, dynamo=True, input_names=INPUTS, output_names=[OUTPUT], optimize=False, verbose=False
    )
    if found is None:
        raise RuntimeError("torch.onnx gave no program")
    model = found.model_proto
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = CODES
    properties = {key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())


WRITERS: dict[str, Callable[[torch.export.ExportedProgram, dict[str, Any]], bytes]] = {
    "torch": _to_torch,
    "onnx": _to_onnx,
}


def load_exported(path: Path, to: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The function that a file holds, of CPU tensors. Raises InputError where onnxruntime is absent."""
    if to == "torch":
        return torch.inference_mode()(torch.export.load(path).module())
    session = _import("onnxruntime").InferenceSession(str(path))

    def call(*inputs: Tensor) -> Tensor:
        arrays = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
        return torch.from_numpy(session.run([OUTPUT], arrays)[0])

    return call


def _import(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise InputError("export", f"{name} is not installed", "pip install 'atft-engine[onnx]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.onnx warns of: packages that no operator here needs, and names of its own."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
