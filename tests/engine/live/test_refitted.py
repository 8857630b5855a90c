"""A run whose last layer is refitted, day by day from caches of 40 days: the scores of its whole history."""

import shutil

import numpy as np
import pytest

from engine.live.latest import predict_latest
from engine.live.state import LIVE, ONLINE, kept_states
from engine.score.predict import load_run, predict_days
from loaders.disk.tensors import find_tensors, tensors_content
from loaders.errors import InputError
from loaders.split import Days
from tests.engine.live.test_latest import CONTEXT, DAYS, KNOWN, SPAN, WAIT, trained_on, whole_in
from tests.panels import cut, untargeted


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return whole_in(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="module")
def trained(whole):
    return trained_on(whole, "model.last_layer_weight=1")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def scores_at_once(run, whole, days):
    found = predict_days(load_run(run), whole, days, "span")
    day = whole.manifest.calendar
    code = whole.code_of(found.rows)
    of = found.rows - whole.offset[code] + whole.first[code]
    return {day[t]: {h: v[of == t] for h, v in found.values.items()} for t in range(days.start, days.stop)}


def check(found, expected):
    for h, values in expected[found.date].items():
        np.testing.assert_allclose(found.scores[h], values, atol=1e-4 * max(values.std(), 1))


def test_days_from_the_last_days_alone_are_those_of_the_history(whole, run, tmp_path):
    expected = scores_at_once(run, whole, Days(KNOWN - 2, DAYS))
    for stop in (KNOWN, KNOWN + 1, KNOWN + 2, *range(KNOWN + 20, DAYS, 20), DAYS):
        cache = cut(whole, tmp_path / f"{stop}", stop - SPAN, stop)
        first, again = (predict_latest(run, cache.folder) for _ in range(2))
        check(first.today, expected)
        check(first.before, expected)
        for h in first.horizons:
            np.testing.assert_array_equal(first.today.scores[h], again.today.scores[h])
    (kept, _) = kept_states(run, load_run(run).state)
    assert kept.date == whole.manifest.calendar[DAYS - 2]
    assert kept.last_layer is not None


def test_days_that_the_network_cannot_see_in_full_are_not_learned_from(whole, run, tmp_path):
    """The state of day KNOWN - 2 waits for returns of the WAIT days up to it, each of which has CONTEXT days."""
    first = KNOWN - 1 - WAIT - (CONTEXT - 1)
    predict_latest(run, cut(whole, tmp_path / "enough", first, KNOWN + 5).folder)
    shutil.rmtree(run / LIVE)
    short = cut(whole, tmp_path / "short", first + 1, KNOWN + 5)
    with pytest.raises(InputError, match=f"last layer is refitted to .* needs {CONTEXT} days.*has {CONTEXT - 1}"):
        predict_latest(run, short.folder)


def test_a_cache_without_returns_is_scored_by_the_state(whole, run, tmp_path):
    day = KNOWN - 2  # of the state that training left
    expected = scores_at_once(run, whole, Days(day, day + 1))
    panel = cut(whole, tmp_path / "cut", KNOWN - SPAN, KNOWN - 1)
    bare = untargeted(panel, tmp_path / "bare")
    check(predict_latest(run, bare.folder).today, expected)


@pytest.mark.parametrize("wrong", ["absent", "shape", "nan"])
def test_a_state_that_is_not_of_it_is_refused(whole, run, tmp_path, wrong):
    path = run / ONLINE
    about, tensors = find_tensors(path, "")
    tensors = {name: value.clone() for name, value in tensors.items()}
    if wrong == "absent":
        tensors = {name: value for name, value in tensors.items() if not name.startswith("last_layer.")}
    elif wrong == "shape":
        tensors["last_layer.products"] = tensors["last_layer.products"][:, 1:].contiguous()
    else:
        tensors["last_layer.squares"][0, 0, 0] = np.nan
    path.write_bytes(tensors_content(path.stem, about, tensors))
    with pytest.raises(InputError, match=r"online\.safetensors|kept state"):
        predict_latest(run, cut(whole, tmp_path / "cache", KNOWN - SPAN, KNOWN).folder)
