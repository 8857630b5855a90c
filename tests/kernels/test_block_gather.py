"""The device's gather against a loop over rows: values, edges, runs that begin at any address.

Runs on a GPU where there is one, else in Triton's interpreter.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.block_gather import gather_block

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
    days = rng.integers(1, 25, n_codes)  # one-row codes among them
    first = rng.integers(0, 20, n_codes)
    offset = np.cumsum(days) - days
    features = rng.standard_normal((days.sum(), width)).astype(np.float16 if half else np.float32)
    targets = rng.standard_normal((days.sum(), horizons)).astype(np.float32)
    presence = rng.integers(0, 3, days.sum()).astype(np.uint8)
    memory = [torch.from_numpy(a).to(DEVICE) for a in (features, targets, presence)]
    starts = np.stack([m.data_ptr() + offset * m[0].nbytes for m in memory])
    codes = rng.permutation(n_codes)[: rng.integers(1, n_codes + 1)]
    day, part = int(rng.integers(-3, 40)), (int(rng.integers(0, 20)), int(rng.integers(15, 45)))

    span = days_scored + context - 1
    x = torch.full((len(codes), span, width), -7.0, device=DEVICE)
    kinds = torch.full((len(codes), span), 9, dtype=torch.uint8, device=DEVICE)
    y = torch.full((len(codes), days_scored, horizons), -7.0, device=DEVICE)
    tensors = [torch.from_numpy(np.ascontiguousarray(a)).to(DEVICE) for a in (starts, first, days, codes)]
    gather_block(tensors[0], tensors[1], tensors[2], half, tensors[3], day, context, part, SCORED, x, kinds, y)
    expected = by_loop((features, targets, presence), first, days, offset, codes, day, days_scored, context, part)
    for found, wanted in zip((x, kinds, y), expected, strict=True):
        np.testing.assert_array_equal(found.cpu().numpy(), wanted)


def test_shapes_that_disagree_are_refused():
    x, y = torch.empty(2, 9, 3, device=DEVICE), torch.empty(2, 4, 1, device=DEVICE)
    kinds, one = torch.empty(2, 9, dtype=torch.uint8, device=DEVICE), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="do not agree"):
        gather_block(one, one[0], one[0], False, one[0], 0, 5, (0, 9), SCORED, x, kinds, y)
