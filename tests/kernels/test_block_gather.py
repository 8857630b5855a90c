"""The device's gather against a loop over rows: values, edges, runs that begin at any address.

Runs on a GPU where there is one, else in Triton's interpreter.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.block_gather import gather_block, gather_step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SCORED = 2


def by_loop(rows, first, days, offset, codes, day, days_scored, context, part):
    features, targets, presence = rows
    span = days_scored + context - 1
    x = np.zeros((len(codes), span, features.shape[1]), np.float32)
    kinds = np.zeros((len(codes), span), np.uint8)
    y = np.full((len(codes), days_scored, targets.shape[1]), np.nan, np.float32)
    for i, code in enumerate(codes):
        for t in range(span):
            d = day - context + 1 + t
            if first[code] <= d < first[code] + days[code]:
                row = offset[code] + d - first[code]
                x[i, t], kinds[i, t] = features[row], presence[row]
                if t >= context - 1 and part[0] <= d < part[1] and presence[row] == SCORED:
                    y[i, t - context + 1] = targets[row]
    return x, kinds, y


def drawn_rows(rng, n_codes, width, horizons, half):
    """Rows of some codes: their arrays, the codes' spans, the memory they lie in, and what gather takes of them."""
    days = rng.integers(1, 25, n_codes)  # one-row codes among them
    first = rng.integers(0, 20, n_codes)
    offset = np.cumsum(days) - days
    features = rng.standard_normal((days.sum(), width)).astype(np.float16 if half else np.float32)
    targets = rng.standard_normal((days.sum(), horizons)).astype(np.float32)
    presence = rng.integers(0, 3, days.sum()).astype(np.uint8)
    memory = [torch.from_numpy(a).to(DEVICE) for a in (features, targets, presence)]
    starts = np.stack([m.data_ptr() + offset * m[0].nbytes for m in memory])
    address = [torch.from_numpy(np.ascontiguousarray(a)).to(DEVICE) for a in (starts, first, days)]
    return (features, targets, presence), (first, days, offset), memory, address


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    n_codes=st.integers(1, 6),
    width=st.sampled_from([1, 3, 8, 82]),
    horizons=st.integers(1, 3),
    days_scored=st.sampled_from([1, 2, 5, 16]),
    context=st.sampled_from([1, 2, 7]),
    half=st.booleans(),
)
def test_against_a_loop(seed, n_codes, width, horizons, days_scored, context, half):
    rng = np.random.default_rng(seed)
    arrays, spans, _memory, (starts, first, days) = drawn_rows(rng, n_codes, width, horizons, half)
    codes = rng.permutation(n_codes)[: rng.integers(1, n_codes + 1)]
    day, part = int(rng.integers(-3, 40)), (int(rng.integers(0, 20)), int(rng.integers(15, 45)))

    span = days_scored + context - 1
    x = torch.full((len(codes), span, width), -7.0, device=DEVICE)
    kinds = torch.full((len(codes), span), 9, dtype=torch.uint8, device=DEVICE)
    y = torch.full((len(codes), days_scored, horizons), -7.0, device=DEVICE)
    chosen = torch.from_numpy(np.ascontiguousarray(codes)).to(DEVICE)
    gather_block(starts, first, days, half, chosen, day, context, part, SCORED, x, kinds, y)
    expected = by_loop(arrays, *spans, codes, day, days_scored, context, part)
    for found, wanted in zip((x, kinds, y), expected, strict=True):
        np.testing.assert_array_equal(found.cpu().numpy(), wanted)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    members=st.integers(1, 3),
    width=st.sampled_from([1, 3, 8]),
    horizons=st.integers(1, 3),
    days_scored=st.sampled_from([1, 5, 16]),
    half=st.booleans(),
    kind=st.sampled_from([np.int32, np.int64]),
)
def test_a_step_of_members_against_a_loop_and_against_a_block(seed, members, width, horizons, days_scored, half, kind):
    rng, context, steps, slots = np.random.default_rng(seed), 4, 3, 4
    arrays, spans, _memory, rows = drawn_rows(rng, 6, width, horizons, half)
    codes = rng.integers(-1, 6, (steps, members, slots)).astype(kind)
    codes[rng.integers(0, steps), rng.integers(0, members)] = -1  # a member that has no block at a step
    day, part = rng.integers(-3, 40, (steps, members)), (int(rng.integers(0, 20)), int(rng.integers(15, 45)))
    on_device = [torch.from_numpy(a).to(DEVICE) for a in (codes, day)]
    span = days_scored + context - 1
    shapes = ((members, slots, span, width), (members, slots, span), (members, slots, days_scored, horizons))
    step = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    for b in rng.permutation(steps):
        step.fill_(int(b))
        x, y = (torch.full(shapes[i], -7.0, device=DEVICE) for i in (0, 2))
        kinds = torch.full(shapes[1], 9, dtype=torch.uint8, device=DEVICE)
        gather_step(*rows, half, *on_device, step, context, part, SCORED, x, kinds, y)
        for k in range(members):
            there = codes[b, k] >= 0
            expected = by_loop(arrays, *spans, codes[b, k][there], int(day[b, k]), days_scored, context, part)
            alone = [torch.full_like(whole[k], 5) for whole in (x, kinds, y)]
            block = (on_device[0][b, k], int(day[b, k]), context, part, SCORED)
            gather_block(*rows, half, *block, *alone)
            for whole, wanted, same in zip((x, kinds, y), expected, alone, strict=True):
                found = whole[k].cpu().numpy()
                np.testing.assert_array_equal(found[there], wanted)
                np.testing.assert_array_equal(found[~there], np.nan if whole is y else 0)
                np.testing.assert_array_equal(found, same.cpu().numpy())


def test_shapes_of_a_step_that_disagree_are_refused():
    one, codes = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(5, 2, 3, dtype=torch.int64)
    x, kinds, y = torch.empty(2, 3, 9, 4), torch.empty(2, 3, 9, dtype=torch.uint8), torch.empty(2, 3, 5, 1)

    def call(codes=codes, day=codes[..., 0], step=one[0, :1], x=x, kinds=kinds, y=y):
        gather_step(one, one[0], one[0], False, codes, day, step, 5, (0, 9), SCORED, x, kinds, y)

    for wrong in ({"codes": codes[:, 1:]}, {"day": codes[..., 0, 0]}, {"step": one[0]}, {"x": x[:1]}, {"y": y[:, 1:]}):
        with pytest.raises(ValueError, match="do not agree"):
            call(**wrong)
    with pytest.raises(ValueError, match="context of 5"):
        call(y=y[:, :, 1:])


def test_shapes_that_disagree_are_refused():
    x, y = torch.empty(2, 9, 3, device=DEVICE), torch.empty(2, 4, 1, device=DEVICE)
    kinds, one = torch.empty(2, 9, dtype=torch.uint8, device=DEVICE), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="do not agree"):
        gather_block(one, one[0], one[0], False, one[0], 0, 5, (0, 9), SCORED, x, kinds, y)
