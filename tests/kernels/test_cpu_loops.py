"""The loops that the CPU's operators are made of: order and ranks, exponentials, stretches of rows, stored code."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.stats import rankdata

from kernels.cpu.bits import LOWEST, exp
from kernels.cpu.loops import drop_stale, for_rows
from kernels.cpu.sorting import average_ranks, sort, sort_scratch

TIMEOUT = 30  # seconds after which a thread that should have come has not


def in_order(values):
    """Places and values of float32 numbers once they are sorted, and their words."""
    words, spare, counts = sort_scratch(len(values))
    sort(values, words, spare, counts)
    places = (words & 0xFFFFFFFF).astype(np.int64)
    assert sorted(places) == list(range(len(values)))
    return places, values[places], words


def ranks_of(values):
    ranks = np.empty(len(values), np.float32)
    average_ranks(in_order(values)[2], ranks)
    return ranks


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=80))
@example([0.0, -0.0, 0.0, -0.0])
@example([np.inf, 3.0, -np.inf, np.inf])
@example([1e-45, -1e-45, 0.0, 1.1754944e-38, -1.1754944e-38])
def test_any_numbers_are_sorted_and_ranked(values):
    values = np.array(values, np.float32)
    places, ordered, _ = in_order(values)
    # numpy's stable sort takes -0 and 0 for equal, as it should be here.
    np.testing.assert_array_equal(places, np.argsort(values, kind="stable"))
    np.testing.assert_array_equal(ordered, np.sort(values))
    np.testing.assert_array_equal(ranks_of(values), rankdata(values))


@pytest.mark.parametrize("n", [1, 2, 3, 2047, 2048, 2049, 20_000])
@pytest.mark.parametrize("kind", ["normal", "tied", "ascending", "descending", "equal", "small differences"])
def test_any_number_of_them(n, kind):
    rng = np.random.default_rng(n)
    values = {
        "normal": lambda: rng.normal(size=n),
        "tied": lambda: rng.integers(-20, 20, n) / 4,
        "ascending": lambda: np.arange(n) - n / 2,
        "descending": lambda: n / 2 - np.arange(n),
        "equal": lambda: np.full(n, -1.5),
        "small differences": lambda: 1 + rng.integers(0, 50, n) * 2.0**-23,  # the lowest digit alone differs
    }[kind]().astype(np.float32)
    np.testing.assert_array_equal(in_order(values)[0], np.argsort(values, kind="stable"))
    np.testing.assert_array_equal(ranks_of(values), rankdata(values))


def test_nans_go_to_the_ends_and_leave_no_ranks():
    nan, negative = np.float32(np.nan), -np.float32(np.nan)
    assert np.signbit(negative)
    values = np.array([1, nan, np.inf, negative, -np.inf, 0], np.float32)
    assert in_order(values)[0].tolist() == [3, 4, 5, 0, 2, 1]
    for spoiled in ([1, 2, nan], [negative, 1, 2], [nan]):
        assert np.isnan(ranks_of(np.array(spoiled, np.float32))).all()


def test_scratch_beyond_the_values_is_left_alone():
    values = np.array([3, 1, 2], np.float32)
    words, spare, counts = sort_scratch(10)
    words[3:] = 77
    sort(values, words, spare, counts)
    assert (words[:3] & 0xFFFFFFFF).tolist() == [1, 2, 0]
    assert (words[3:] == 77).all()
    sort(values[::-1].copy(), words, spare, counts)  # what was counted before is forgotten
    assert (words[:3] & 0xFFFFFFFF).tolist() == [1, 0, 2]


# Not kept on disk: it would be used again after `exp` had changed.
@njit(**{name: value for name, value in exp.targetoptions.items() if name in ("fastmath", "error_model", "nogil")})
def exp_of_all(x, result):
    for i in range(len(x)):
        result[i] = exp(x[i])


def exps(values):
    values = np.asarray(values, np.float32)
    result = np.empty_like(values)
    exp_of_all(values, result)
    return values, result


def test_exp_is_within_an_ulp():
    lowest, highest = np.float32(LOWEST), np.float32(88)
    values, found = exps(
        np.concatenate(
            [
                np.linspace(lowest, highest, 400_001),
                -np.geomspace(1e-30, 87, 200_001),
                np.arange(-125, 127) * np.log(2) / 2,  # where the nearest power of two changes
                [0.0, -0.0, lowest, highest],
            ]
        )
    )
    exact = np.exp(values.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32))
    np.testing.assert_array_less(np.abs(found - exact) / ulp, 1.0)
    assert found[-4] == found[-3] == 1


def test_exp_of_what_is_below_is_zero_and_of_nan_is_nan():
    _, found = exps([np.nextafter(np.float32(LOWEST), np.float32(-100)), -88, -104, -1e4, -3e38, -np.inf])
    assert not found.any()
    assert exps([LOWEST])[1][0] > 0
    assert np.isnan(exps([np.nan, -np.nan])[1]).all()


def test_exp_of_one_value_is_that_of_many():
    values, found = exps(np.linspace(-90, 80, 1001))
    assert [exp(np.float32(x)) for x in values] == found.tolist()


@pytest.fixture
def threads():
    """Sets the number of torch's threads, for the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 5, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_row_is_walked_once(threads, rows, count):
    threads(count)
    walked, stretches = np.zeros(rows, int), []

    def walk(begin, end, factor, to_add):
        walked[begin:end] += factor * to_add
        stretches.append((begin, end))

    for_rows(walk, rows, 2, 3)
    assert (walked == 6).all()
    assert len(stretches) == max(1, min(rows, count))
    lengths = [end - begin for begin, end in stretches]
    assert max(lengths) - min(lengths) <= 1


def test_stretches_run_side_by_side_and_one_of_them_here(threads):
    threads(3)
    together, names = threading.Barrier(3, timeout=TIMEOUT), []

    def walk(begin, end):
        together.wait()
        names.append(threading.current_thread().name)

    for_rows(walk, 9)
    assert threading.current_thread().name in names
    assert sum(name.startswith("kernels") for name in names) == 2


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_a_stretch_raises_is_raised_here(threads, bad):
    threads(3)

    def walk(begin, end, bad):
        if begin == bad:
            raise KeyError(f"row {begin}")

    with pytest.raises(KeyError, match=f"row {bad}"):
        for_rows(walk, 3, bad)
    for_rows(walk, 3, 7)  # its threads live on


def test_several_callers_at_once(threads):
    threads(2)
    results = np.zeros((4, 1000), int)
    start = threading.Barrier(4, timeout=TIMEOUT)

    def walk(begin, end, into):
        into[begin:end] += 1

    def call(i):
        start.wait()
        for _ in range(50):
            for_rows(walk, 1000, results[i])

    callers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(TIMEOUT)
    assert (results == 50).all()


def test_stored_code_older_than_a_source_is_dropped(tmp_path):
    stored = tmp_path / "__pycache__"
    stored.mkdir()
    times = {"a.py": 100, "b.py": 200, "notes.txt": 900}
    kept = {"new.nbi": 300, "same.nbi": 200, "old.nbc": 50, "a.pyc": 50}
    for name, time in times.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    for name, time in {**kept, "old.nbi": 150}.items():
        (stored / name).touch()
        os.utime(stored / name, (time, time))
    drop_stale(tmp_path)
    assert {path.name for path in stored.iterdir()} == set(kept)


def test_nothing_stored_is_nothing_to_drop(tmp_path):
    (tmp_path / "a.py").touch()
    drop_stale(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.py"]


INNER = """
from kernels.cpu.loops import compiled
@compiled
def inner(x):
    return x + {}
"""
OUTER = """
from pathlib import Path
from kernels.cpu.loops import compiled, drop_stale
drop_stale(Path(__file__).parent)
from inner import inner
@compiled
def outer(x):
    return inner(x)
print(outer(1), sum(outer.stats.cache_hits.values()))
"""


def test_a_function_is_compiled_anew_when_one_that_it_calls_has_changed(tmp_path):
    (tmp_path / "outer.py").write_text(OUTER)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": "."}
    found = []
    for i, added in enumerate((1, 1, 2)):
        if i != 1:
            (tmp_path / "inner.py").write_text(INNER.format(added))
        done = subprocess.run(
            [sys.executable, str(tmp_path / "outer.py")], capture_output=True, text=True, check=True, env=environment
        )
        found.append(done.stdout.strip())
    assert found == ["2 0", "2 1", "3 0"]
