"""Members in one call against each member in a call of its own: the same bits, whatever is valid, NaN or infinite."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.rank_objective import rank_objective
from kernels.rank_terms import TERMS
from tests.kernels.faces import FACES, FAST, PLAIN, block, evaluated, only, operands, public_objective, stacked

every_face = pytest.mark.parametrize("face", [face for face in FACES if face is not PLAIN], ids=str)
fast_faces = pytest.mark.parametrize("face", [face for face in FAST if face is not PLAIN], ids=str)
NUMBERS = (torch.nan, torch.inf, -torch.inf)


def member(seed, number, shape=(2, 2, 14), shifts=3, **changes):
    """A member whose data and settings are like no other's."""
    horizons, days, names = shape
    random = torch.Generator().manual_seed(100 * seed + number)
    weights = torch.rand(len(TERMS), generator=random) * (torch.rand(len(TERMS), generator=random) < 0.7)
    rotations = torch.randperm(names - 1, generator=random)[:shifts] + 1
    return block(
        100 * seed + number, horizons, days, names, 0.1 + 0.2 * number % 0.6, weights=weights,
        rotations=rotations.tolist(), horizon_weights=torch.rand(horizons, generator=random) + 0.1,
        tau=torch.rand((), generator=random) + 0.05, temperature=torch.rand((), generator=random) + 0.2,
    ).but(**changes)  # fmt: skip


def assert_each_is_as_alone(face, members):
    together = evaluated(face, stacked(*members))
    for k, asked in enumerate(members):
        for name, value in vars(evaluated(face, asked)).items():
            np.testing.assert_array_equal(getattr(together, name)[k], value, err_msg=f"{name} of member {k}")


@every_face
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_each_is_as_alone(face, count):
    assert_each_is_as_alone(face, [member(count, k) for k in range(count)])


@every_face
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, where the interpreter meets NaN on purpose
def test_one_that_is_empty_or_not_finite_is_nothing_to_the_others(face):
    members = [member(7, k, weights=torch.linspace(0.6, 1.3, len(TERMS))) for k in range(5)]
    members[1] = members[1].but(mask=torch.zeros_like(members[1].mask))
    for k, name in ((2, "scores"), (3, "returns")):
        array = getattr(members[k], name).clone()
        array[1, 0, members[k].mask[1, 0].nonzero()[0]] = torch.nan
        members[k] = members[k].but(**{name: array})
    assert_each_is_as_alone(face, members)
    found = evaluated(face, stacked(*members))
    assert np.isfinite(found.loss).tolist() == [True, True, False, False, True]
    assert found.loss[1] == 0
    assert np.isfinite(found.by_scores[[0, 1, 4]]).all()


@fast_faces
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    count=st.sampled_from([1, 2, 3, 5]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 90)),
    spoilt=st.lists(
        st.tuples(st.sampled_from(["scores", "targets", "returns", "quantiles"]), st.sampled_from(NUMBERS)), max_size=3
    ),
    masked=st.integers(0, 6),
    ranked=st.booleans(),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_members(face, seed, count, shape, spoilt, masked, ranked):
    members = [member(seed, k, shape, min(4, shape[2] - 1), ranked=ranked) for k in range(count)]
    if masked < count:
        members[masked] = members[masked].but(mask=torch.zeros_like(members[masked].mask))
    for i, (name, value) in enumerate(spoilt):
        k = (seed + i) % count
        array = getattr(members[k], name).clone()
        array[-1, 0, i % shape[2]] = value
        members[k] = members[k].but(**{name: array})
    assert_each_is_as_alone(face, members)


def test_settings_without_the_axis_hold_for_all():
    asked = block(3, horizons=2)
    both = stacked(asked, asked)
    shared = ("weights", "horizon_weights", "tau", "temperature", "rotations")
    loss, terms = public_objective(both.but(**{name: getattr(asked, name) for name in shared}))
    expected_loss, expected_terms = public_objective(both)
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=0)
    torch.testing.assert_close(terms, expected_terms, rtol=0, atol=0)
    assert loss.shape == (2,)
    assert terms.shape == (2, len(TERMS))
    by_number, _ = public_objective(both.but(tau=float(asked.tau), temperature=float(asked.temperature)))
    torch.testing.assert_close(by_number, loss, rtol=0, atol=0)


def test_each_has_an_upstream_gradient_of_its_own():
    asked = stacked(member(4, 0), member(4, 1))
    asked = asked.but(scores=asked.scores.requires_grad_(), quantiles=asked.quantiles.requires_grad_())
    loss, _ = public_objective(asked)
    learned = (asked.scores, asked.quantiles)
    once = torch.autograd.grad(loss.sum(), learned, retain_graph=True)
    scaled = torch.autograd.grad(loss @ torch.tensor([2.0, -4.0]), learned)
    for plain, found in zip(once, scaled, strict=True):
        torch.testing.assert_close(found[0], 2 * plain[0], rtol=0, atol=0)
        torch.testing.assert_close(found[1], -4 * plain[1], rtol=0, atol=0)


def test_terms_that_are_not_fused_are_each_members_own(monkeypatch):
    monkeypatch.setitem(TERMS, "cubic", lambda x: x.mean((x.z - x.z_targets).abs() ** 3))
    members = [
        member(5, k).but(weights=only("ic") + weight * only("cubic")) for k, weight in enumerate((0.7, 0.0, 1.9))
    ]
    loss, terms = public_objective(stacked(*members))
    for k, asked in enumerate(members):
        alone, alone_terms = public_objective(asked)
        torch.testing.assert_close(loss[k], alone, rtol=0, atol=0)
        torch.testing.assert_close(terms[k], alone_terms, rtol=0, atol=0, equal_nan=True)


def test_shapes_that_are_not_one_for_each_member_are_refused():
    asked = stacked(*(member(6, k) for k in range(3)))
    for name, given_shape in (("weights", (2, 8)), ("horizon_weights", (2, 2)), ("tau", (2,)), ("rotations", (1, 3))):
        spoilt = getattr(asked, name)[:1].expand(given_shape)
        with pytest.raises(ValueError, match=rf"{name} .*each of 3 members"):
            public_objective(asked.but(**{name: spoilt}))
    with pytest.raises(ValueError, match=r"give \[H, G, N\] or \[K, H, G, N\]"):
        rank_objective(asked.scores[None], asked.targets[None], asked.mask[None], asked.weights)


def test_the_operator_is_registered_as_torch_asks():
    weights = torch.linspace(0.6, 1.3, len(TERMS))  # none is 0: its term would be NaN, which is equal to nothing
    members = stacked(*(member(8, k, weights=weights) for k in range(2)))
    torch.library.opcheck(torch.ops.atft.rank_objective.default, operands(members))
