"""Exported files against the ensemble itself, and against `predict`, for one code up to thousands."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.checkpoint import State
from engine.config_file import config_hash, load_config
from engine.live.check import SIZES, TOLERANCE, check_export
from engine.live.export import ABOUT, Exported, export_run, load_exported
from engine.model.ensemble import build_ensemble
from engine.score.predict import TrainedRun, load_run, predict_run
from loaders.errors import InputError
from loaders.gather import gather
from loaders.panel import open_panel
from loaders.plan import scoring_blocks
from loaders.split import Days

FEATURES, CONTEXT = 6, 8
NAMES = ["sector", *(f"f{i}" for i in range(1, FEATURES))]
EVERYTHING = [
    "model.normalisation=true", "model.spans=[3]", "model.attention=true", "model.residual=true",
    "model.market_tokens=3", "model.categories={sector=5}", "model.convolution=lags",
]  # fmt: skip
BARE = ["model.selection=false", "model.static=false", "model.bins=1", "model.neutralize=0", "model.online_weight=0"]


def run_of(*settings: str) -> TrainedRun:
    """An untrained run, every weight drawn: some begin at 0 and would hide what they do."""
    every = [f"data.context={CONTEXT}", f"data.features={NAMES}", *settings]
    config = load_config(None, every)
    model = build_ensemble(config, FEATURES, 2)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
        model.neutral.directions.copy_(torch.randn(model.neutral.directions.shape, generator=draw))
    split = {name: ["2010-01-04", "2010-02-01"] for name in ("train", "valid", "test")}
    state = State("run", "cache", config_hash(config), NAMES, [1, 5], split, "cache/", {}, "2010-01-04")
    return TrainedRun(Path("run"), config, model, state)


@pytest.mark.parametrize(
    ("to", "settings", "days"),
    [
        ("torch", ["train.seeds=2", "model.gaussian=true"], 3),
        ("torch", BARE, 40),
        ("onnx", EVERYTHING, 1),
    ],
)
def test_scores_are_the_ensembles_for_any_number_of_codes(tmp_path, to, settings, days):
    if to == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=f"{package} is not installed (extra onnx)")
    run = run_of(*settings)
    export_run(run, to, tmp_path / "file", days)
    found = check_export(run, tmp_path / "file", to, days, None)
    assert list(found) == [f"{codes:,}" for codes in SIZES]
    assert max(found.values()) <= TOLERANCE
    # And not because all scores are alike.
    call = load_exported(tmp_path / "file", to)
    x = torch.randn(50, days + CONTEXT - 1, FEATURES)
    x[..., 0] = torch.randint(5, x.shape[:2]).float()
    assert call(x, *torch.ones(2, *x.shape[:2])).std() > 0.01


def test_elimination_solves_what_solve_solves():
    module = Exported(run_of().model).model.neutral
    draw = torch.Generator().manual_seed(0)
    half = torch.randn(4, 9, 5, generator=draw, dtype=torch.float64)
    square, right = half.mT @ half, torch.randn(4, 5, 2, generator=draw, dtype=torch.float64)
    expected = np.linalg.solve(square.numpy(), right.numpy())
    np.testing.assert_allclose(module.solve(square, right).numpy(), expected, rtol=1e-9)


def test_a_trained_run_by_the_command(small_run, tmp_path, run_command):
    """The file's scores of the last day, less the online regression's, are those of `predict` without it."""
    out = tmp_path / "m.pt2"
    code, text, err = run_command("export", small_run, "--to", "torch", "--out", out, "--check")
    assert code == 0, err
    assert "last day" in text
    assert "not in the file: the online regression (add 0.3 x" in text
    said = {ABOUT: ""}
    torch.export.load(out, extra_files=said)
    said, run = json.loads(said[ABOUT]), load_run(small_run)
    assert (said["run_id"], said["features"], said["horizons"], said["context"]) == (
        run.state.run_id, run.state.features, [1, 5], run.config.data.context,
    )  # fmt: skip
    panel = open_panel(run.config.data.arrow)
    part = Days(len(panel.calendar) - 1, len(panel.calendar))
    model = run.config.model.model_copy(update={"online_weight": 0})
    network = TrainedRun(run.folder, run.config.model_copy(update={"model": model}), run.model, run.state)
    scores = predict_run(network, panel, "test").values
    batch = gather(panel, part, scoring_blocks(panel, part, 1)[0], 1, said["context"])
    found = load_exported(out, "torch")(batch.x, (batch.presence > 0).float(), (batch.presence == 2).float())
    here = batch.presence[:, -1] > 0
    for i, h in enumerate(said["horizons"]):
        np.testing.assert_allclose(found[here, 0, i], scores[h][-int(here.sum()) :], rtol=0, atol=TOLERANCE)


def test_onnx_says_what_it_is(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (extra onnx)")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra onnx)")
    export_run(run_of(*BARE), "onnx", tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (said["run_id"], json.loads(said["features"]), said["context"]) == ("run", NAMES, str(CONTEXT))
    sizes = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["codes", CONTEXT, FEATURES]


def test_refusals(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="onnx is not installed (extra onnx)")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra onnx)")
    with pytest.raises(InputError, match="cannot be traced") as refusal:
        export_run(run_of(*BARE, "model.gaussian=true"), "onnx", tmp_path / "m.onnx")
    assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match="no format 'coreml'"):
        export_run(run_of(), "coreml", tmp_path / "m")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"onnx is not installed.*pip install 'atft-engine\[onnx\]'"):
        export_run(run_of(*BARE), "onnx", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
