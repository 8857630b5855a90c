"""An epoch visits every training sample exactly once, in an order of its own; scoring sees whole cross-sections."""

import hashlib
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from loaders.errors import InputError
from loaders.gather import gather
from loaders.plan import Plan, count_samples, scoring_blocks
from loaders.random_bits import below, mix, permutation
from loaders.split import Days
from tests.panels import write_panel


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return write_panel(tmp_path_factory.mktemp("plan"), n_codes=45, n_days=90)


PART = Days(7, 71)
GOLDEN_DAY, GOLDEN_CODES, GOLDEN_HASH = 5, [2, 4, 6, 16, 17, 21, 24, 25, 32, 33, 44], "a5f4923793cd5b2b"


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
        blocks = scoring_blocks(panel, PART, days)
        counts = visits(blocks, PART, days)
        assert all(counts[row] == 1 for row in present)
        starts = [block.day for block in blocks]
        assert starts == sorted(set(starts))


def test_a_part_without_samples_is_refused(tmp_path):
    empty = write_panel(tmp_path, n_codes=5, n_days=30)
    with pytest.raises(InputError, match="no sample"):
        Plan(empty, Days(29, 30), 8, 12, seed=0)


def test_blocks_are_those_of_the_definition(panel):
    """The whole epoch by the definition: every stretch dealt, split by NumPy, all blocks shuffled."""
    for days, codes, seed, epoch in ((8, 12, 0, 0), (5, 45, 3, 2), (64, 7, 1, 9)):
        phase = below(mix(seed, epoch, 0), days)
        expected = []
        for day in range(PART.start - phase, PART.stop, days):
            start, stop = max(day, PART.start), min(day + days, PART.stop)
            eligible = np.array(
                sorted({c for c, d in rows_by_loop(panel, PART, is_sample(panel)) if start <= d < stop}), np.int64
            )
            dealt = eligible[permutation(mix(seed, epoch, 1, start), len(eligible))]
            expected += [(day, np.sort(g).tolist()) for g in np.array_split(dealt, -(-len(dealt) // codes))]
        order = permutation(mix(seed, epoch, 2), len(expected))
        found = [(block.day, block.codes.tolist()) for block in Plan(panel, PART, days, codes, seed).epoch(epoch)]
        assert found == [expected[i] for i in order]


def test_of_older_blocks_fewer_are_in_an_epoch(panel):
    whole, halved = Plan(panel, PART, 4, 3, seed=3), Plan(panel, PART, 4, 3, seed=3, half_life=20)
    seen = Counter()
    for epoch in range(400):
        blocks = halved.epoch(epoch)
        names = [(block.day, tuple(block.codes)) for block in whole.epoch(epoch)]
        kept = [(block.day, tuple(block.codes)) for block in blocks]
        assert [name for name in names if name in set(kept)] == kept  # the same blocks in the same order, but for some
        seen += visits(blocks, PART, 4)
    for days in (0, 20, 40):
        last = PART.stop - 1 - days
        of_day = [seen[code, day] / 400 for code, day in rows_by_loop(panel, Days(last, last + 1), is_sample(panel))]
        # A block's age is that of its last day, at most 3 days later: weights lie up to 2^(3/20) higher.
        assert 0.5 ** (days / 20) - 0.02 < np.mean(of_day) < 0.5 ** (max(days - 3, 0) / 20) + 0.02


def test_golden_order():
    """Frozen: an epoch must never change with a version of anything, or a resumed run trains on other blocks."""
    whole = SimpleNamespace(samples=None, codes_with=lambda rows, start, stop: np.arange(45))
    epoch = Plan(whole, PART, 8, 12, seed=42).epoch(3)
    text = json.dumps([[block.day, block.codes.tolist()] for block in epoch])
    assert len(epoch) == 36
    assert epoch[0].day == GOLDEN_DAY
    assert epoch[0].codes.tolist() == GOLDEN_CODES
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == GOLDEN_HASH


def test_samples_are_counted_without_reading(panel):
    for days in (1, 8, 64):
        for block in Plan(panel, PART, days, 12, seed=0).epoch(0)[:20]:
            assert count_samples(panel, PART, block, days) == gather(panel, PART, block, days, 3).samples
