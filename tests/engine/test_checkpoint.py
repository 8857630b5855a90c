"""Whatever happens to a checkpoint, it is refused in one line or means what was saved: every field and every tensor."""

import json
import os
import struct
from dataclasses import asdict, fields, replace

import pytest
import torch

from engine.checkpoint import (
    BEST,
    LAST,
    LOSS_SUMS,
    State,
    check_best,
    load_checkpoint,
    restore_model,
    restore_weights,
    save_best,
    save_last,
)
from engine.config_file import load_config
from engine.training.step.learner import make_learner
from loaders.disk.tensors import find_tensors, tensors_content
from loaders.errors import InputError
from tests.conftest import SMALL

LINE = {
    "epoch": 1, "step": 24, "phase": "train", "learning_rate": 1e-3, "weights": {"ic": 1.0}, "horizon_weights": [1.0],
    "frozen": [], "off": [], "train": {"loss": 0.5}, "valid": {"1": {"rank_ic": 0.1, "sharpe": None}},
    "valid_rank_ic": 0.1, "best": True,
}  # fmt: skip
STATE = State(
    "run", "cache", "hash", [f"f{i}" for i in range(5)], [1, 5],
    {name: ["2010-01-04", "2010-05-03"] for name in ("train", "valid", "test")},
    "/cache", {"period": "day"}, "2010-01-04", ["f1"], 24, 1, 3, 0, 1, [], 1e-3, 0.1, 0.1, 0, 1000, 2000,
    {"train": 1.0, "wait": 0.1, "validation": 0.5}, [LINE], False,
)  # fmt: skip
ODD = (None, "x", "2010-13-01", -1, 1.5, True, [], {}, [[1]], ["x", "x"], [0], {"x": 1}, [{}], 10**30)


@pytest.fixture(scope="module")
def weights():
    with make_learner(load_config(None, [*SMALL, "train.ema=0.9"]), 5, 2, torch.device("cpu")) as learner:
        yield learner.weights


@pytest.fixture
def saved(weights, tmp_path):
    save_best(tmp_path / BEST, STATE, weights)
    save_last(tmp_path / LAST, STATE, weights)
    return tmp_path


def outcome(read, path, *more):
    """What is read of a file; None where it is refused, in one line that names it."""
    try:
        return read(path, *more)
    except InputError as error:
        refusal = str(error)
    assert refusal.startswith(str(path))
    assert "\n" not in refusal
    return None


def written(path, state, tensors):
    """A file whose checksum is right, whatever it holds."""
    path.write_bytes(tensors_content(path.stem, state, tensors))


def test_what_is_saved_is_read(saved, weights):
    for name in (BEST, LAST):
        assert load_checkpoint(saved / name)[0] == STATE
    _, last = load_checkpoint(saved / LAST)
    before = {name: tensor.clone() for name, tensor in last.items()}
    weights.optimizer.mean.add_(1)
    restore_weights(weights, last, saved / LAST)
    save_last(saved / LAST, STATE, weights)
    after = load_checkpoint(saved / LAST)[1]
    assert all(torch.equal(before[name], after[name]) for name in before | after)
    _, best = load_checkpoint(saved / BEST)
    assert all(torch.equal(best[f"model.{name}"], x) for name, x in weights.scoring.state_dict().items())


def test_every_byte_of_a_file_of_tensors_counts(tmp_path):
    """Set to each of three other values: refused, or the same content, such as where JSON has a blank."""
    path, state = tmp_path / "x.safetensors", {"a": [1, 2.5, "b"], "c": None}
    tensors = {
        "w": torch.arange(3.0),
        "n": torch.tensor([4], dtype=torch.int64),
        "b": torch.ones(2, dtype=torch.bfloat16),
    }
    content = tensors_content("x", state, tensors)
    same = 0
    for place in range(len(content)):
        for value in (content[place] ^ 1, content[place] ^ 0x80, 0):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            found = outcome(find_tensors, path, "Mend it")
            if found is None:
                continue
            same += 1
            assert found[0] == state
            assert all(torch.equal(found[1][name], tensors[name]) for name in tensors | found[1])
            assert all(found[1][name].dtype == tensors[name].dtype for name in tensors)
    assert same < 100
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(InputError):
            find_tensors(path, "Mend it")


@pytest.mark.parametrize("name", [each.name for each in fields(State)])
def test_every_field_of_the_state_is_needed_and_checked(saved, name):
    path = saved / BEST
    state, tensors = asdict(STATE), load_checkpoint(saved / BEST)[1]
    written(path, {key: value for key, value in state.items() if key != name}, tensors)
    with pytest.raises(InputError, match=f"lacks {name}"):
        load_checkpoint(path)
    accepted = 0
    for value in ODD:
        written(path, state | {name: value}, tensors)
        if (found := outcome(load_checkpoint, path)) is not None:
            accepted += 1
            kept = getattr(found[0], name)
            assert kept == (value if type(value) is type(kept) else float(value))
            assert found[0] == replace(STATE, **{name: kept})
    assert accepted <= 6
    written(path, state | {"more": 1}, tensors)
    with pytest.raises(InputError, match="unknown entry 'more'"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", list(LINE))
def test_every_field_of_a_line_of_history_is_needed(saved, name):
    tensors = load_checkpoint(saved / BEST)[1]
    line = {key: value for key, value in LINE.items() if key != name}
    for odd in (line, line | {name: object.__name__ * 2 if name != "phase" else 3}):
        written(saved / BEST, asdict(replace(STATE, history=[LINE, odd])), tensors)
        with pytest.raises(InputError, match=rf"line 2 of its history: is damaged: {name} "):
            load_checkpoint(saved / BEST)


def test_every_tensor_is_needed_and_checked(saved, weights):
    """Each one missing, of another shape or type, not finite in one value, and one more: nothing is restored then."""
    for name, restore in ((LAST, restore_weights), (BEST, lambda w, *rest: restore_model(w.scoring, *rest))):
        path = saved / name
        _, tensors = load_checkpoint(path)
        before = {key: tensor.clone() for key, tensor in weights.model.state_dict().items()}
        for key, tensor in tensors.items():
            broken = tensor.clone()
            broken.view(-1)[-1] = float("nan") if broken.is_floating_point() else 0
            kinds = [
                {other: each + 1 for other, each in tensors.items() if other != key},
                tensors | {key: torch.cat([tensor.reshape(-1), torch.zeros(1, dtype=tensor.dtype)])},
                tensors | {key: tensor.to(torch.float16)},
                *([tensors | {key: broken}] if broken.is_floating_point() and key != LOSS_SUMS else []),
            ]
            for found in kinds:
                with pytest.raises(InputError, match=key.replace(".", r"\.")):
                    restore(weights, found, path)
        with pytest.raises(InputError, match="holds more, which"):
            restore(weights, tensors | {"more": torch.zeros(1)}, path)
        assert all(torch.equal(before[key], tensor) for key, tensor in weights.model.state_dict().items())


def test_the_best_and_the_last_are_not_taken_for_one_another(saved):
    best, last = (saved / BEST).read_bytes(), (saved / LAST).read_bytes()
    (saved / BEST).write_bytes(last)
    (saved / LAST).write_bytes(best)
    for name, other in ((BEST, "last"), (LAST, "best")):
        with pytest.raises(InputError, match=f"kind '{other}' under another name"):
            load_checkpoint(saved / name)


def test_an_earlier_copy_of_the_best_is_refused(saved):
    newer = replace(STATE, epoch=2, history=[LINE, LINE | {"epoch": 2}])
    check_best(STATE, STATE, saved / BEST)
    check_best(newer, STATE, saved / BEST)  # a kill between the two
    check_best(STATE, replace(newer, history=[LINE, LINE | {"epoch": 2, "best": False}]), saved / BEST)
    with pytest.raises(InputError, match="epoch 1, and the best one was 2"):
        check_best(STATE, newer, saved / BEST)
    with pytest.raises(InputError, match="another run, other"):
        check_best(STATE, replace(STATE, run_id="other"), saved / BEST)


def header(content: bytes, metadata: str) -> bytes:
    """The same tensors under other metadata."""
    size = struct.unpack("<Q", content[:8])[0]
    found = json.loads(content[8 : 8 + size])
    text = json.dumps(found | {"__metadata__": {"state": metadata}}).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"kind": "best", "checksum": "", "state": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"kind": "best", "checksum": "", "state": NaN}', "NaN"),
        ('{"kind": "best", "checksum": "", "state": 1e999}', "1e999"),
        ('{"kind": "best", "checksum": "", "state": ' + "1" * 5000 + "}", "digits"),
        ("{}", "earlier version"),
        ("[]", "earlier version"),
        (json.dumps(asdict(STATE)), "earlier version"),
        ("", "not readable as JSON"),
    ],
)
def test_metadata_of_any_kind_are_one_line(saved, metadata, word):
    path = saved / BEST
    path.write_bytes(header(path.read_bytes(), metadata))
    with pytest.raises(InputError, match=word) as refusal:
        load_checkpoint(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_a_file_that_cannot_be_read_is_not_called_absent(saved, monkeypatch):
    path, real = saved / BEST, os.open
    for number, word in ((13, "Permission denied"), (5, "Input/output error"), (24, "Too many open files")):

        def failing(name, *arguments, number=number, **more):
            if str(name) == str(path):
                raise OSError(number, os.strerror(number))
            return real(name, *arguments, **more)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", failing)
            with pytest.raises(InputError, match=f"cannot be read .{word}"):
                load_checkpoint(path)
    path.unlink()
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(path)
    path.mkdir()
    with pytest.raises(InputError, match="is a folder"):
        load_checkpoint(path)
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for a writer
    with pytest.raises(InputError, match="not a plain file"):
        load_checkpoint(path)
