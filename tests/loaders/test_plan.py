"""An epoch visits every training sample exactly once, in an order of its own; scoring sees whole cross-sections."""

from collections import Counter

import numpy as np
import pytest

from loaders.errors import InputError
from loaders.plan import Plan, scoring_blocks
from loaders.split import Days
from tests.panels import write_panel


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("plan"), n_codes=45, n_days=90)


PART = Days(7, 71)


def rows_by_loop(panel, part, wanted):
    """{(code, day)} of the rows in a part for which wanted(row)."""
    return {
        (code, int(panel.first[code] + d))
        for code in range(len(panel.offset))
        for d in range(panel.days[code])
        if part.start <= panel.first[code] + d < part.stop and wanted(panel.offset[code] + d)
    }


def is_sample(panel):
    return lambda row: panel.presence[row] == 2 and np.isfinite(panel.targets[row]).any()


def visits(blocks, part, days):
    return Counter(
        (int(code), day)
        for block in blocks
        for code in block.codes
        for day in range(max(block.day, part.start), min(block.day + days, part.stop))
    )


@pytest.mark.parametrize(("days", "codes"), [(1, 45), (5, 7), (16, 20), (64, 1), (200, 1000)])
@pytest.mark.parametrize("epoch", [0, 1, 17])
def test_every_training_sample_once(panel, days, codes, epoch):
    counts = visits(Plan(panel, PART, days, codes, seed=3).epoch(epoch), PART, days)
    samples = rows_by_loop(panel, PART, is_sample(panel))
    assert all(counts[sample] == 1 for sample in samples)
    assert max(counts.values()) == 1
    assert len(samples) > 1500


def test_an_epoch_is_a_function_of_seed_and_number(panel):
    def shown(seed, epoch):
        return [(block.day, tuple(block.codes)) for block in Plan(panel, PART, 8, 12, seed).epoch(epoch)]

    assert shown(0, 5) == shown(0, 5)
    several = [shown(0, 0), shown(0, 1), shown(0, 2), shown(1, 0)]
    for i, a in enumerate(several):
        for b in several[:i]:
            assert a != b
            assert set(a) != set(b)  # not the same blocks in another order
    phases = {min(day for day, _ in shown(0, epoch)) % 8 for epoch in range(40)}
    assert len(phases) == 8  # borders move


def test_blocks_are_even_groups_of_codes_that_have_a_sample(panel):
    plan = Plan(panel, PART, 8, 12, seed=0)
    blocks = plan.epoch(0)
    samples = rows_by_loop(panel, PART, is_sample(panel))
    for start in {block.day for block in blocks}:
        groups = [block.codes for block in blocks if block.day == start]
        sizes = [len(g) for g in groups]
        eligible = {code for code, day in samples if start <= day < start + 8}
        assert {int(c) for g in groups for c in g} == eligible
        assert max(sizes) <= 12
        assert max(sizes) - min(sizes) <= 1
        assert all((np.diff(g) > 0).all() for g in groups)
    days = [block.day for block in blocks]
    assert days != sorted(days)


def test_scoring_sees_every_present_row_once_and_never_chunks_a_day(panel):
    present = rows_by_loop(panel, PART, lambda row: panel.presence[row] > 0)
    for days in (1, 8, 200):
        blocks = list(scoring_blocks(panel, PART, days))
        counts = visits(blocks, PART, days)
        assert all(counts[row] == 1 for row in present)
        starts = [block.day for block in blocks]
        assert starts == sorted(set(starts))


def test_a_part_without_samples_is_refused(tmp_path):
    empty = write_panel(tmp_path, n_codes=5, n_days=30)
    with pytest.raises(InputError, match="no sample"):
        Plan(empty, Days(29, 30), 8, 12, seed=0)
