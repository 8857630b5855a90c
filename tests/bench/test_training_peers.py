"""The peers of a training step: those that train our model take the very step that a block takes."""

from itertools import islice

import pytest
import torch

from bench.peers import installed_peer, load_peer, missing_package, peer_names
from bench.peers.training import window
from bench.peers.training._accumulate import start, windows
from bench.workloads.ranking import CPU
from bench.workloads.training import HORIZONS, fresh_arrays, our_step, training

# Chunks of 3 and 2 days; dropout draws differently for windows.
SMALL = ("data.context=8", "model.spans=[3]", "data.block_days=5", "data.block_codes=24", "model.dropout=0")


@pytest.fixture
def work():
    return training(6, CPU, *SMALL)


@pytest.mark.parametrize(("task", "names"), [("train", ["tft", "window"]), ("fit", ["lightgbm"])])
def test_every_file_is_a_peer_of_its_task(task, names):
    assert peer_names(task) == names
    assert {missing_package(load_peer(name)) for name in names} <= {
        None,
        "pytorch_forecasting",
        "lightning",
        "lightgbm",
    }


def test_windows_are_the_rows_before_each_sample(work):
    block = next(fresh_arrays(work))
    parts = list(windows(block, work.context, 3))
    assert [part.y.shape[1] for part in parts] == [3, 2]
    for first, part in zip((0, 3), parts, strict=True):
        for code in range(work.codes):
            for day in range(part.y.shape[1]):
                rows = slice(first + day, first + day + work.context)
                assert torch.equal(part.x[code * part.y.shape[1] + day], block.x[code, rows])
        assert torch.equal(part.y, block.y[:, first : first + part.y.shape[1]])


@torch.no_grad()
def test_windows_score_like_their_block(work):
    model, block = work.model().eval(), next(fresh_arrays(work))
    expected = model(block.x, torch.ones(block.x.shape[:2]))[0]
    torch.testing.assert_close(window.scores(model, block), expected, rtol=0, atol=1e-5)


def test_training_on_windows_takes_the_steps_of_blocks(work):
    blocks, model = list(islice(fresh_arrays(work), 4)), work.model()
    state = start(work, model, window.forward(model), most=3 * work.codes)
    assert state.chunk == 3
    with our_step(work) as step:
        expected = torch.stack([step(block) for block in blocks])
    torch.testing.assert_close(torch.stack(list(window.run(state, blocks))), expected, rtol=1e-4, atol=1e-5)


def test_tft_learns_with_our_objective(work):
    peer = installed_peer("tft")
    with peer.build(work) as state:
        block = next(fresh_arrays(state.work))
        losses = torch.stack(list(peer.run(state, [block] * 20)))
        assert losses[-1] < losses[0]
        model = state.model.eval()
        part = next(windows(block, work.context, 1))
        out = model(peer.inputs(part.x)).prediction
        assert out.shape == (work.codes, 1, HORIZONS * 4)
        for row in range(work.context):  # its output depends on every row
            other = part.x.clone()
            other[:, row] += 1
            assert not torch.equal(model(peer.inputs(other)).prediction, out)
