"""A step is what plain torch would do: members, averages, accumulation, frozen parts, padding, compilation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.config_file import load_config
from engine.model.registry import build_model
from engine.training.objective import make_objective
from engine.training.schedule import ema_decay, learning_rate, phases_of
from engine.training.step.learner import make_learner
from loaders.random_bits import mix
from tests.engine.training.steps import CPU, NONE, SETTINGS, D, F, H, L, block, configured, of, same, trained


def test_a_step_is_plain_torch():
    config = configured("model.dropout=0")
    (found,), results, _ = trained(config, [block(0), block(1)])
    model = build_model(config.model, F, H, L, seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=config.train.weight_decay)
    objective = make_objective(config, H, CPU)
    for i in (0, 1):
        one = block(i)
        scores, quantiles = model(one.x, (one.presence > 0).float())
        loss, terms = objective(scores, quantiles, one.y, NONE)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        torch.testing.assert_close(results[i], torch.cat([loss.detach()[None], terms]), equal_nan=True)
    same(found, of(model, optimizer))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("threads", [1, 2])
def test_members_trained_together_are_those_trained_alone(threads, accumulate):
    """Dropout and average included, each on blocks of its own, whatever the others do and when they end."""
    settings = ["train.ema=0.5", f"train.accumulate={accumulate}"]
    of_members = [
        [block(0), block(1), block(2, codes=31)],
        [block(3), block(4, codes=33)],
        [block(5), block(6), block(7)],
    ]
    rounds = [[blocks[i] if i < len(blocks) else None for blocks in of_members] for i in range(3)]
    cores = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together, results, average = trained(configured("train.seeds=3", "train.seed=4", *settings), rounds)
        alone = [
            trained(configured(f"train.seed={seed}", *settings), blocks)
            for seed, blocks in zip((4, 5, 6), of_members, strict=True)
        ]
    finally:
        torch.set_num_threads(cores)
    for found, (expected, _, _) in zip(together, alone, strict=True):
        same(found, expected[0])  # products are summed in another order by two threads
    for name, expected in alone[0][2].items():
        torch.testing.assert_close(average[name], expected, rtol=0, atol=6e-4)
    for i, found in enumerate(results):
        expected = torch.stack([each[1][i] for each in alone if i < len(each[1])]).mean(0)
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("threads", "seeds"), [(2, 1), (3, 1), (4, 2)])
def test_parts_of_a_block_on_threads_of_their_own_make_the_step_of_the_whole(threads, seeds):
    """Dropout, noise, clipping and accumulation included; a block whose codes do not divide evenly as well."""
    settings = [f"train.seeds={seeds}", "model.feature_noise=0.1", "train.accumulate=2"]
    blocks, cores = [block(0), block(1, codes=31), block(2)], torch.get_num_threads()
    found = []
    for count in (1, threads):
        torch.set_num_threads(count)
        try:
            with make_learner(configured(*settings), F, H, CPU) as learner:
                assert learner.threads.parts == (1 if count == 1 else threads // seeds)
            found.append(trained(configured(*settings), blocks))
        finally:
            torch.set_num_threads(cores)
    (whole, results, _), (parts, results_by_parts, _) = found
    torch.testing.assert_close(results_by_parts, results, equal_nan=True, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(parts, whole, strict=True):
        same(ours, theirs)


def test_replicas_are_frozen_and_bypassed_like_their_members():
    config = configured("model.normalisation=true")
    cores = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with make_learner(config, F, H, CPU) as learner:
            phase = replace(phases_of(config)[0], frozen=("static",), off=("normalisation",))
            learner.enter_phase(phase)
            for replica in learner.threads.replicas[0]:
                assert replica.off == {"normalisation"}
                assert {p.requires_grad for p in replica.static.parameters()} == {False}
                assert {p.requires_grad for p in replica.heads.parameters()} == {True}
    finally:
        torch.set_num_threads(cores)


def test_accumulated_blocks_make_one_step_of_their_mean_gradient():
    settings = ["model.dropout=0", "train.clip=1e9"]
    (found,), _, _ = trained(configured(*settings, "train.accumulate=2"), [block(0), block(1), block(2)])
    config = configured(*settings)
    model = build_model(config.model, F, H, L, seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=config.train.weight_decay)
    objective = make_objective(config, H, CPU)
    for group in ((0, 1), (2,)):
        optimizer.zero_grad()
        for one in map(block, group):
            (objective(*model(one.x, (one.presence > 0).float()), one.y, NONE)[0] / 2).backward()
        optimizer.step()
    same(found, of(model, optimizer), atol=3e-7)


def test_the_average_follows_the_weights():
    decay, blocks = 0.75, [block(i) for i in range(3)]
    _, _, average = trained(configured(f"train.ema={decay}"), blocks)
    expected = build_model(configured().model, F, H, L, seed=0).state_dict()
    for steps in (1, 2, 3):
        # Not the last one's `last`, which changes nothing without accumulation.
        (weights,), _, _ = trained(configured(), blocks[:steps])
        expected = {name: decay * value + (1 - decay) * weights.weights[name] for name, value in expected.items()}
    for name, value in expected.items():
        torch.testing.assert_close(average[name], value, rtol=1e-5, atol=1e-6)


def test_the_plain_average_is_of_the_last_part_of_a_phase():
    weights, average, steps = torch.randn(40, dtype=torch.float64), 7.0, 40
    for step, weight in enumerate(weights.tolist()):
        decay = ema_decay(0.0, 0.25, step / steps, steps)
        average = decay * average + (1 - decay) * weight
        assert average == pytest.approx(weights[min(step, 30) : step + 1].mean().item())
    assert ema_decay(0.9, 0.0, 0.1, steps) == 0.9


@pytest.mark.parametrize(
    ("part", "prefixes"),
    [
        ("embedding", ("embed.", "residual.")),
        ("normalisation", ("norm.",)),
        ("temporal", ("layers.", "widen.")),
        ("static", ("static.",)),
        ("market", ("market.",)),
        ("heads", ("finish.", "heads.")),
    ],
)
def test_frozen_parts_stay_and_all_others_move(tmp_path, part, prefixes):
    path = tmp_path / "c.toml"
    path.write_text(
        "[model]\nresidual = true\nnormalisation = true\nmarket_tokens = 2\n"
        f'[[phases]]\nname = "a"\nepochs = 1\nfrozen = ["{part}"]\n'
    )
    config = load_config(path, SETTINGS)
    before = build_model(config.model, F, H, L, seed=0).state_dict()
    (after,), _, _ = trained(config, [block(0), block(1)])
    parameters = dict(build_model(config.model, F, H, L, seed=0).named_parameters())
    for name in parameters:
        assert torch.equal(before[name], after.weights[name]) == name.startswith(prefixes), name


def test_padding_to_the_static_shape_changes_nothing():
    config = configured("model.dropout=0", "model.market_tokens=2")
    one, more = block(0), block(1, codes=8)
    padded = replace(
        one,
        x=torch.cat([one.x, torch.zeros_like(more.x)]),
        presence=torch.cat([one.presence, torch.zeros_like(more.presence)]),
        y=torch.cat([one.y, torch.full_like(more.y, torch.nan)]),
    )
    _, results, _ = trained(config, [padded] * 3)
    _, expected, _ = trained(config, [one] * 3)
    torch.testing.assert_close(results, expected, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(results[0, 0], results[2, 0], rtol=1e-3)


def test_trainings_of_other_settings_share_a_compiled_step_that_is_the_eager_one():
    """What a study searches by default: each trial is a model of its own, and only the first one compiles.

    Blocks of other sizes are padded to the same static shape: one graph serves all.
    """
    blocks = [block(0), block(1, codes=30)]
    terms = [f"objective.{term}=0.1" for term in ("rank_ic", "ic", "sharpe", "spearman", "huber")]
    trials = [
        ["model.dropout=0.3"],
        ["model.dropout=0.1", "train.seed=5", *terms, "objective.tau=0.3", "objective.horizon_weights=[0.7, 0.3]"],
        ["model.dropout=1e-9", "train.weight_decay=0.5", "objective.sharpe=0.2"],  # so that eager drops nothing too
    ]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for number, settings in enumerate(trials):
        found, results, _ = trained(configured(*settings, "train.compile=on"), blocks, lr=1e-4 / (1 + number))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    expected, expected_results, _ = trained(configured(*settings), blocks, lr=1e-4 / (1 + number))
    torch.testing.assert_close(results, expected_results, equal_nan=True, rtol=1e-4, atol=1e-5)
    same(found[0], expected[0], rtol=1e-3, atol=1e-6)


def test_dropout_is_a_function_of_seed_and_step():
    one, _, _ = trained(configured(), [block(0)])
    torch.manual_seed(1234)
    two, _, _ = trained(configured(), [block(0)])
    assert all(torch.equal(value, two[0].weights[name]) for name, value in one[0].weights.items())
    assert mix(0, 0, 4) != mix(0, 1, 4) != mix(1, 0, 4)


def test_phases_fill_in_what_they_do_not_say(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(
        "[train]\nlearning_rate = 0.5\n[objective]\nic = 0.3\ntau = 0.7\n"
        '[[phases]]\nname = "first"\nepochs = 2\nhorizon_weights = [1, 0]\noff = ["normalisation", "market"]\n'
        '[[phases]]\nname = "fine"\nepochs = 1\nlearning_rate = 0.1\nblocks = 7\n'
        "weights = { rank_ic = 1, sharpe = 0.2 }\n"
    )
    first, fine = phases_of(load_config(path, []))
    assert (first.name, first.epochs, first.learning_rate, first.blocks) == ("first", 2, 0.5, 0)
    assert first.off == ("normalisation", "market")
    assert first.objective.horizon_weights == (1, 0)
    assert first.objective.ic == 0.3
    assert (fine.learning_rate, fine.blocks, fine.off, fine.objective.tau) == (0.1, 7, (), 0.7)
    assert fine.objective.weights() == {"rank_ic": 1, "sharpe": 0.2}
    (only,) = phases_of(configured("train.epochs=3"))
    assert (only.epochs, only.learning_rate) == (3, configured().train.learning_rate)
    assert learning_rate(fine.learning_rate, 0.0, 0.0) == 0.1


@torch.no_grad()
def test_an_ensemble_scores_the_mean_of_its_members_in_deviations():
    config = configured("train.seeds=3")
    x, presence = block(0).x, block(0).presence
    present = (presence > 0).float()
    with make_learner(config, F, H, CPU) as learner:
        ensemble = learner.weights.model.eval()
        scored = present.clone()
        scored[:7] = 0
        scores, quantiles = ensemble(x, present, scored)
        each = [member(x, present)[0].double().numpy() for member in ensemble.members]
        torch.testing.assert_close(quantiles, torch.stack([m(x, present)[1] for m in ensemble.members]).mean(0))
    for day in range(D):
        among = scored[:, L - 1 + day].numpy() > 0
        for h in range(H):
            z = [(s[:, day, h] - s[among, day, h].mean()) / s[among, day, h].std() for s in each]
            np.testing.assert_allclose(scores[:, day, h], np.mean(z, 0), atol=1e-4)
