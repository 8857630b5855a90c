"""The published networks of `examples/`: equal to their formulas window by window, causal, and trained as any other."""

import json

import numpy as np
import pytest
import torch

from engine import check_causal
from examples.master import MASTER, master
from examples.rival_gru import GRU, gru
from tests.conftest import SMALL

S, F, H = 5, 3, 2
SETTINGS = [setting for setting in SMALL if "spans" not in setting]
NETWORKS = [("examples.rival_gru:gru", ["width=16"]), ("examples.master:master", ["width=16", "days=4", "dropout=0.1"])]


def rows(days, seed=0):
    """x [S, T, F], present and scored [S, T] in float64, with days without a row and rows outside the universe."""
    random = torch.Generator().manual_seed(seed)
    present = (torch.rand(S, days, generator=random) > 0.2).double()
    scored = present * (torch.rand(S, days, generator=random) > 0.3)
    x = torch.randn(S, days, F, generator=random, dtype=torch.float64) * present[..., None]
    return x, present, scored


def test_the_gru_is_torchs_on_each_window_alone():
    torch.manual_seed(0)
    days, network = 4, GRU(F, H, days=4, width=6, layers=2).double()
    x, present, _ = rows(days + 2)
    peer = torch.nn.GRU(F, 6, 2, batch_first=True).double()
    for k in range(2):
        for name, linear in (("ih", network.inputs[k]), ("hh", network.states[k])):
            getattr(peer, f"weight_{name}_l{k}").data.copy_(linear.weight)
            getattr(peer, f"bias_{name}_l{k}").data.copy_(linear.bias)
    found = network(x, present)
    assert found.shape == (S, 3, H)
    for day in range(3):
        outputs, _ = peer(x[:, day : day + days])
        torch.testing.assert_close(found[:, day], network.head(outputs[:, -1]), rtol=0, atol=1e-12)


def softmax(values):
    return np.exp(values) / np.exp(values).sum()


def attention(part, v, keys):
    """FFN(MHA(v) + v) of v [N, W], whose rows attend to those that are keys, one row and one head at a time."""
    weights = {name: value.numpy() for name, value in part.state_dict().items()}
    query, key, value = (v @ weights[f"{name}.weight"].T for name in ("query", "key", "value"))
    width = v.shape[1] // part.heads
    mixed = np.zeros_like(v)
    for head in range(part.heads):
        of_head = slice(head * width, (head + 1) * width)
        for i in range(len(v)) if keys.any() else ():
            weight = softmax(key[keys][:, of_head] @ query[i, of_head] / np.sqrt(width))
            mixed[i, of_head] = weight @ value[keys][:, of_head]
    v = v + mixed
    hidden = np.maximum(v @ weights["widen.weight"].T + weights["widen.bias"], 0)
    return v + hidden @ weights["narrow.weight"].T + weights["narrow.bias"]


def by_the_paper(network, x, present, scored):
    """Scores [S, H] of the last day of x [S, T, F], in NumPy from the formulas; T is what the network looks back on."""
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    width, days = len(weights["norm.weight"]), network.days
    daily = np.array(
        [
            np.mean([x[u, t] * x[u, t, network.against] for u in range(S) if scored[u, t]], 0)
            if scored[:, t].any() else np.zeros(F)
            for t in range(x.shape[1])
        ]
    )  # fmt: skip
    status = [daily[-1]]
    for interval in network.intervals:
        status += [daily[-interval:].mean(0), daily[-interval:].std(0)]
    gate = F * softmax((weights["gate.weight"] @ np.concatenate(status) + weights["gate.bias"]) / network.beta)
    x, present = x[:, -days:], present[:, -days:] > 0
    member = scored[:, -1] > 0
    local = np.zeros((S, days, width))
    for u in range(S):
        embedded = (gate * x[u]) @ weights["embed.weight"].T + weights["embed.bias"]
        for t in range(days):
            for i in range(width // 2):
                angle = t / 10_000 ** (2 * i / width)
                embedded[t, 2 * i : 2 * i + 2] += np.sin(angle), np.cos(angle)
        deviation = np.sqrt(embedded.var(-1, keepdims=True) + network.norm.eps)
        embedded = (embedded - embedded.mean(-1, keepdims=True)) / deviation
        local[u] = attention(network.intra, embedded * weights["norm.weight"] + weights["norm.bias"], present[u])
    joint = np.stack([attention(network.inter, local[:, t], present[:, t] & member) for t in range(days)], 1)
    scores = np.zeros((S, H))
    for u in range(S):
        seen = [t for t in range(days) if present[u, t] or t == days - 1]
        weight = softmax(np.array([joint[u, t] @ weights["by_last.weight"] @ joint[u, -1] for t in seen]))
        scores[u] = weights["head.weight"] @ (weight @ joint[u, seen]) + weights["head.bias"]
    return scores


@pytest.mark.parametrize("training", [False, True])
def test_master_is_its_formulas_on_each_window_alone(training):
    torch.manual_seed(0)
    network = MASTER(F, H, days=3, intervals=(2, 5), against=1, width=8, heads=(4, 2), beta=0.5, dropout=0.0)
    network = network.double().train(training)
    x, present, scored = rows(7)
    scored[:, 5] = 0  # a scored day without any code in the universe
    with torch.no_grad():
        found = network(x, present, scored)
    assert found.shape == (S, 3, H)
    for day in range(3):
        window = [array[:, day : day + 5].numpy() for array in (x, present, scored)]
        np.testing.assert_allclose(
            found[:, day], by_the_paper(network, *window), rtol=0, atol=1e-6
        )  # positions are float32


@pytest.mark.parametrize("context", [3, 12])
@pytest.mark.parametrize(
    ("factory", "options"), [(gru, {}), (master, {"width": 16}), (master, {"width": 16, "dropout": 0.0})]
)
def test_they_are_causal(factory, options, context):
    check_causal(factory, features=4, horizons=2, context=context, **options)


def test_every_weight_gets_a_gradient():
    for network in (gru(F, H, 6), master(F, H, 6, width=16)):
        inputs = [array.float() for array in rows(8)]
        scores = network(*inputs[: 3 if getattr(network, "sees_scored", False) else 2])
        scores.square().sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.abs().sum() > 0, name


def test_sizes_are_those_that_were_published():
    assert [p.shape[0] for p in gru(20, 1, 20).states.parameters()] == [192] * 4
    network = master(158, 1, 60, intervals=(5, 10, 20, 30, 60))
    assert (network.days, network.embed.out_features, network.intra.heads, network.inter.heads) == (8, 256, 4, 2)


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_they_train_with_seeds_are_evaluated_predict_and_are_exported(
    name, options, small_cache, tmp_path, run_command
):
    settings = [*SETTINGS, *(f"model.options.{option}" for option in options)]
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    code, out, err = run_command(
        "train", "--arrow", small_cache, "--model", name, "--seeds", "2", "--out", tmp_path / "run", *arguments
    )
    assert (code, err) == (0, "")
    assert f"network {name}: looks back on 8 of 8 days" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["splits"]["test"]["1"]["rank_ic"] > 0.3
    code, out, _ = run_command("evaluate", tmp_path / "run", "--json")
    assert code == 0
    assert json.loads(out)["splits"]["test"]["1"]["rank_ic"] == pytest.approx(
        summary["splits"]["test"]["1"]["rank_ic"], abs=1e-6
    )
    code, _, _ = run_command("predict", tmp_path / "run", "--arrow", small_cache, "--out", tmp_path / "scores.parquet")
    assert code == 0
    export = ["export", tmp_path / "run", "--to", "torch", "--out", tmp_path / "run.pt2", "--check"]
    assert run_command(*export)[::2] == (0, "")
