"""The campaign, in two minutes: the same faults each time. `python -m tests.faults --hours 1` makes more of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.faults import inputs
from tests.faults.harms.documents import harm_json, harm_json_lines, harm_toml
from tests.faults.harms.raw import harm_bytes
from tests.faults.mutations import forge

ROOT = Path(__file__).resolve().parents[2]


COUNTS = {"mutations": 90, "inputs": 70, "limits": 12}


def test_every_command_is_right_or_refuses(tmp_path):
    """A process of its own: one that forks has a single thread, and this one may have more."""
    call = [sys.executable, "-m", "tests.faults", "--out", str(tmp_path)]
    for layer, count in COUNTS.items():
        call += ["--only", layer, "--count", f"{layer}={count}"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    for layer, count in COUNTS.items():
        assert f"{layer}: {count} tried, 0 wrong" in done.stdout


SELF_TEST = """
import os, signal, time
from pathlib import Path
from tests.faults.server import run

def ended(before, timeout_s=30):
    outcome = run(["config", "schema"], Path("/"), before=before, timeout_s=timeout_s)
    return [outcome.code, outcome.signal, outcome.hung, outcome.crash() is None]

print([
    ended(lambda: None),
    ended(lambda: time.sleep(60), timeout_s=0.5),
    ended(lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    ended(lambda: 1 / 0),
    ended(lambda: os._exit(2)),
])
"""


def test_the_end_of_a_child_is_told():
    """Done, hung, killed by a signal, a traceback, exit code 2 without a line."""
    done = subprocess.run([sys.executable, "-c", SELF_TEST], cwd=ROOT, capture_output=True, text=True, check=True)
    fine, hung, killed, traceback, silent = json.loads(
        done.stdout.replace("True", "true").replace("False", "false").replace("None", "null")
    )
    assert fine == [0, None, False, True]
    assert hung == [None, 9, True, False]
    assert killed == [None, 11, False, False]
    assert traceback == [1, None, False, False]
    assert silent == [2, None, False, False]


def test_a_forged_cache_that_was_not_changed_keeps_its_id(small_cache, tmp_path):
    """So a forged one is refused for what it says and never for how the test computes an id."""
    folder = tmp_path / "cache"
    shutil.copytree(small_cache, folder)
    before = json.loads((folder / "manifest.json").read_text())
    forge(folder)
    assert json.loads((folder / "manifest.json").read_text()) == before


@pytest.mark.parametrize(
    ("harm", "content"),
    [
        (harm_bytes, bytes(range(256)) * 20),
        (harm_json, b'{"a": [1, {"b": "text"}], "c": 1.5}'),
        (harm_json_lines, b'{"a": 1}\n{"a": 2}\n'),
        (harm_toml, b"[train]\nepochs = 1\n"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_harm_is_the_same_for_the_same_seed(harm, content):
    first, second = ([harm(Random(seed), content) for seed in range(100)] for _ in range(2))
    assert first == second
    assert sum(found != content for found, _ in first) > 80
    assert len({found for found, _ in first}) > 20


def test_there_are_a_thousand_bad_inputs_of_every_command():
    every = inputs.every_input()
    assert len(every) > 1000
    assert {bad.kind.partition(":")[0] for bad in every} - {"documents"} == set(inputs.BASE)
