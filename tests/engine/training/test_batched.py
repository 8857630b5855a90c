"""K models in one batched step are K models trained alone, and the step's body is one that a CUDA graph can hold."""

from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import engine.model.atft.embedding
from engine.training.objective import make_objective
from engine.training.schedule import phases_of
from engine.training.step.learner import Slots, make_learner
from kernels.pieces import pieces
from loaders.split import Days
from tests.engine.training.steps import CPU, D, F, H, batch_of, block, configured, same, steps_of, trained

OTHERS = {  # settings beyond the default's
    "default": [],
    "terms": ["objective.sharpe=0.3", "objective.quantile=0.1", "objective.huber=0.1", "objective.target=winsorised"],
    "accumulated": ["train.accumulate=3"],
    "averaged": ["train.ema=0.8"],
    "noise": ["model.feature_noise=0.1", "model.feature_dropout=0.2"],
    "attention": ["model.attention=true", "model.normalisation=true", "model.market_tokens=2", "model.residual=true"],
}


def rounds_of(count, members=3):
    """Blocks of each member for so many steps; the second ends early, and sizes differ."""
    codes = [40, 33, 48, 31]
    blocks = [[block(100 * k + i, codes=codes[(k + i) % 4]) for k in range(members)] for i in range(count)]
    for given in blocks[2 * count // 3 :]:
        given[1] = None
    return blocks


@pytest.mark.parametrize("name", OTHERS)
def test_members_of_a_batch_are_models_trained_alone(name):
    """50 steps, dropout included, which draws the same numbers: losses agree to 1e-5, and so do the weights."""
    settings, rounds = OTHERS[name], rounds_of(50)
    config = configured("train.seeds=3", "train.seed=4", *settings)
    together, results, average = trained(config, rounds, lr=1e-5, batched=True)
    alone = []
    for k in range(3):
        mine = [given[k] for given in rounds if given[k] is not None]
        alone.append(trained(configured(f"train.seed={4 + k}", *settings), mine, lr=1e-5))
    for k, (found, (expected, _, expected_average)) in enumerate(zip(together, alone, strict=True)):
        same(found, expected[0], rtol=1e-3, atol=1e-6, lr=1e-5)
        if average is not None and k == 0:
            for weight, values in expected_average.items():
                torch.testing.assert_close(average[weight], values, rtol=0, atol=6e-5)  # as `same`
    for i, found in enumerate(results):
        expected = torch.stack([each[1][i] for each in alone if i < len(each[1])]).mean(0)
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-5, atol=2e-6)


def test_slots_freeze_bypass_and_refill_as_a_run_alone_does():
    """Two phases, the second with parts frozen and off; then one slot goes to another model, the other goes on."""
    config = configured("train.seeds=1", "model.normalisation=true", "train.ema=0.5")
    phases = [phases_of(config)[0]]
    phases.append(replace(phases[0], frozen=("heads",), off=("normalisation",)))
    objective = make_objective(config, H, CPU)
    blocks = {seed: [block(10 * seed + i) for i in range(6)] for seed in (0, 1, 2)}

    def train(plans, batch_size):
        """Weights of every run (seed, first epoch, epochs), one slot each; an epoch has three steps."""
        batch = batch_of(config, batch_size)
        learners, done = {}, {}
        for epoch in range(3):
            here = [plan for plan in plans if plan[1] <= epoch < plan[1] + plan[2]]
            models, steps = [None] * batch_size, [None] * batch_size
            for seed, first, _, slot in here:
                if seed not in learners:
                    of_seed = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
                    learners[seed] = make_learner(of_seed, F, H, CPU, slots=Slots(batch, slot)).__enter__()
                learners[seed].enter_phase(phases[epoch - first])
                models[slot] = learners[seed].weights.model.members[0]
                given = [[one] for one in blocks[seed][3 * (epoch - first) : 3 * (epoch - first) + 3]]
                of_seed = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
                steps[slot] = steps_of(of_seed, 0, given, 1e-3)
            # A batch's slots share what is frozen and off, so runs of one phase are trained at a time.
            for turn in sorted({epoch - first for _, first, _, _ in here}):
                mine = [slot for _, first, _, slot in here if epoch - first == turn]
                of_turn = [steps[k] if k in mine else None for k in range(batch_size)]
                batch.begin(
                    [models[k] if k in mine else None for k in range(batch_size)], [objective] * batch_size, of_turn,
                    [Days(0, D)] * batch_size,
                )  # fmt: skip
                for i in range(3):
                    for seed, first, _, slot in here:
                        batch.blocks.put(slot, blocks[seed][3 * (epoch - first) + i] if slot in mine else None)
                    batch.replay()
            for seed, first, count, slot in here:
                if epoch + 1 == first + count:
                    done[seed] = batch.optimizer.weights[slot].clone(), batch.optimizer.average[slot].clone()
        return done

    together = train([(0, 0, 2, 0), (1, 0, 1, 1), (2, 1, 2, 1)], 2)  # seed 2 takes the slot of seed 1
    for seed, epochs in ((0, 2), (1, 1), (2, 2)):
        alone = train([(seed, 0, epochs, 0)], 1)
        for found, expected in zip(together[seed], alone[seed], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=6e-4, msg=lambda m, s=seed: f"{s}: {m}")


class _NoWord(TorchDispatchMode):
    """Raises where an operator would wait for the device: a value read, a shape that depends on one, a copy to it."""

    WAITS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "unique", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in self.WAITS:
            raise AssertionError(f"{func.name()} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def torch_operators(monkeypatch):
    """The embedding in torch's operators, as on CUDA: a tracer does not see numba's loops."""

    def weighted(x, weight, matrix, *bounds):
        return functional.linear((weight[..., None] * pieces(x, *bounds)).flatten(-2), matrix)

    monkeypatch.setattr(engine.model.atft.embedding, "weighted_pieces", weighted)


def prepared(seeds=3, *settings):
    """A batch that has begun an epoch of 100 steps, with its blocks."""
    config = configured(f"train.seeds={seeds}", "train.ema=0.9", *settings)
    slots = Slots(batch_of(config, seeds), 0)
    learner = make_learner(config, F, H, CPU, slots=slots).__enter__()
    learner.enter_phase(phases_of(config)[0])
    steps = [steps_of(config, k, [[block(k)] * seeds] * 100, 1e-3) for k in range(seeds)]
    objectives = [make_objective(config, H, CPU)] * seeds
    slots.batch.begin(list(learner.weights.model.members), objectives, steps, [Days(0, D)] * seeds)
    for k in range(seeds):
        slots.batch.blocks.put(k, block(k))
    return slots.batch


@pytest.mark.usefixtures("torch_operators")
@pytest.mark.parametrize("seeds", [1, 3])
def test_no_operator_of_a_step_waits_for_the_device(seeds):
    batch = prepared(seeds)
    with _NoWord():
        for _ in range(100):
            batch.replay()
    assert int(batch.table.position) == 100
    assert torch.isfinite(batch.optimizer.weights).all()


@pytest.mark.usefixtures("torch_operators")
@pytest.mark.parametrize("seeds", [1, 3])
def test_what_was_traced_once_is_replayed_for_every_step(seeds):
    """A graph of operators, recorded at the first step and blind to everything else, does what the body does."""
    batch, other = prepared(seeds), prepared(seeds)

    def body():
        other.body(other._losses())
        return other.sums

    graph = make_fx(body)()
    targets = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert not [name for name in targets if any(f".{word}." in name for word in _NoWord.WAITS)]
    # Tracing ran the body once; 20 replays of what it found make 21 steps.
    for _ in range(20):
        graph()
    for _ in range(21):
        batch.replay()
    assert int(other.table.position) == 21
    torch.testing.assert_close(other.sums, batch.sums, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(other.optimizer.weights, batch.optimizer.weights, rtol=0, atol=0)
