"""Steps of small models on random blocks: on threads, or as slots of a batch."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from engine.config_file import load_config
from engine.distributed import SINGLE
from engine.model.optimizer import empty_adamw, layout_of
from engine.model.registry import build_model
from engine.training.objective import make_objective
from engine.training.schedule import phases_of
from engine.training.step.batched import make_batched
from engine.training.step.learner import Slots, make_learner
from engine.training.step.table import ModelSteps
from engine.training.step.threads import StepInput, train_step
from loaders.batch import Batch
from loaders.cache.format import CONTEXT
from loaders.plan import Block
from loaders.random_bits import mix, signed
from loaders.split import Days

S, D, F, H, L = 40, 6, 5, 2, 8
SETTINGS = ["data.context=8", "data.block_days=6", "data.block_codes=48", "model.spans=[3]", "train.clip=0.5"]
CPU = torch.device("cpu")
NONE = torch.empty(0, dtype=torch.int32)


def configured(*settings):
    return load_config(None, [*SETTINGS, *settings])


def block(seed=0, codes=S):
    random = torch.Generator().manual_seed(seed)
    presence = (torch.rand(codes, D + L - 1, generator=random) > 0.1).to(torch.uint8)
    x = torch.randn(codes, D + L - 1, F, generator=random) * presence[..., None]
    y = torch.randn(codes, D, H, generator=random)
    y[presence[:, L - 1 :] == 0] = torch.nan
    presence += (presence == CONTEXT) & (torch.rand(presence.shape, generator=random) > 0.2)  # of the universe
    return Batch(x, presence, y, Block(0, np.arange(codes)), int(torch.isfinite(y).any(2).sum()))


@dataclass
class Trained:
    """A model after some steps: its weights, and AdamW's mean gradients of them."""

    weights: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]


def trained(config, blocks, lr=1e-4, phase=0, batched=False):
    """Members after a step on each block, the mean over members of what each step gave, and the average's weights.

    A list in the place of a block holds one for each member, None where it has none. The members are trained on
    threads, or as slots of a batch.
    """
    seeds, train = config.train.seeds, config.train
    blocks = [given if isinstance(given, list) else [given] * seeds for given in blocks]
    phase, objective = phases_of(config)[phase], make_objective(config, H, CPU)
    models = [steps_of(config, k, blocks, lr) for k in range(seeds)]
    batched = batched or train.compile == "on"
    slots = Slots(batch_of(config, seeds), 0) if batched else None
    results = []
    with make_learner(config, F, H, CPU, slots=slots) as learner:
        learner.enter_phase(phase)
        weights = learner.weights
        if batched:
            batch = slots.batch
            batch.begin(list(weights.model.members), [objective] * seeds, models, [Days(0, D)] * seeds)
            for given in blocks:
                weights.loss_sums.zero_()
                for k, one in enumerate(given):
                    batch.blocks.put(k, one)
                batch.replay()
                results.append(weights.loss_sums.float().sum(0) / sum(one is not None for one in given))
        else:
            for i, given in enumerate(blocks):
                inputs = [
                    None if one is None else StepInput(one, NONE, model.rates[i], model.keys[i])
                    for one, model in zip(given, models, strict=True)
                ]
                values = train_step(learner, learner.threads, objective, inputs, train.accumulate)
                results.append(values.sum(0) / sum(one is not None for one in given))
        found = [of_member(weights, k) for k in range(seeds)]
        average = None if weights.average is None else copy.deepcopy(weights.average.members[0].state_dict())
    return found, torch.stack(results), average


def steps_of(config, k, blocks, lr):
    """What member k does with its blocks, of rounds that hold one for each member."""
    train = config.train
    mine = [given[k] for given in blocks if given[k] is not None]
    due = [i + 1 == len(mine) or (i + 1) % train.accumulate == 0 for i in range(len(mine))]
    rates = [[lr, train.weight_decay, train.clip, train.ema, float(now)] for now in due]
    keys = [signed(mix(train.seed + k, i, 4)) for i in range(len(mine))]
    return ModelSteps([one.block for one in mine], rates, keys, [NONE] * len(mine))


def batch_of(config, count, world=SINGLE):
    model = build_model(config.model, F, H, L, seed=0)
    optimizer = empty_adamw(model, count, average=config.train.ema > 0)
    shape = (config.data.block_codes, D + L - 1, F, D, H)
    compiled = config.train.compile == "on"
    return make_batched(
        model, optimizer, shape, None, world, bfloat16=False, compiled=compiled, accumulate=config.train.accumulate
    )


def of_member(weights, k):
    model, optimizer = weights.model.members[k], weights.optimizer
    means = layout_of(model).views(optimizer.mean[k])
    trained = {name: mean for (name, mean), on in zip(means.items(), optimizer.trained[k], strict=True) if on}
    return copy.deepcopy(Trained(model.state_dict(), trained))


def of(model, optimizer):
    gradients = {name: optimizer.state[p]["exp_avg"] for name, p in model.named_parameters() if p in optimizer.state}
    return copy.deepcopy(Trained(model.state_dict(), gradients))


def same(a, b, *, rtol=1e-4, atol=1e-7, lr=1e-4):
    """Mean gradients agree everywhere; weights do where the gradient is above rounding.

    Below it AdamW divides rounding by rounding, and may move a weight by up to the learning rate a step.
    """
    assert a.gradients.keys() == b.gradients.keys()
    for name, expected in b.gradients.items():
        torch.testing.assert_close(a.gradients[name], expected, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    assert a.weights.keys() == b.weights.keys()
    for name, expected in b.weights.items():
        moved = b.gradients[name].abs() > 100 * atol if name in b.gradients else torch.ones_like(expected, dtype=bool)
        torch.testing.assert_close(a.weights[name][moved], expected[moved], rtol=rtol, atol=0.02 * lr)
        torch.testing.assert_close(a.weights[name], expected, rtol=rtol, atol=6 * lr)
