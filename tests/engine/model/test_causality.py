"""`check_causal` finds networks that look ahead, and names the day; honest ones pass."""

import pytest
import torch

from engine import LookAhead, check_causal
from loaders.errors import InputError
from tests import own_models
from tests.own_models import C


@pytest.mark.parametrize("name", ["Windows", "Market", "Universe", "Busy", "Quantiles", "Recurrent"])
def test_honest_networks_pass(name):
    check_causal(f"tests.own_models:{name}", features=4, horizons=2)


@pytest.mark.parametrize(
    ("name", "words", "offset"),
    [
        ("Bidirectional", "features of a later day", 1),
        ("Centred", "features of a later day", 1),
        ("MeanOfBlock", "features of a later day", 1),
        ("NormOverDays", "in training changes with the features of a later day", 1),
        ("LaterPresence", "presence of a later day", 1),
        ("LaterUniverse", "universe of a later day", 1),
        ("Gate", "features of a later day", 2),  # the last day of five looks back on the third
        ("Forwards", "features of a day beyond its context", -C),
        ("Yesterday", "does not depend on the features of its own day", 0),
        ("Position", "is another one where its block has other days", None),
        ("MeanOfAll", "changes with codes that have no row", None),
        ("FalseClaim", "claims codes_are_independent", None),
    ],
)
def test_cheating_networks_are_named_with_day_and_offset(name, words, offset):
    with pytest.raises(LookAhead, match=words) as found:
        check_causal(getattr(own_models, name), features=4)
    assert isinstance(found.value, AssertionError)
    assert found.value.offset == offset
    assert found.value.day is not None


def test_a_trained_module_is_checked_too_and_left_as_it_is():
    module = own_models.Busy(4, 1, C)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    generator = torch.get_rng_state()
    check_causal(module, features=4)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert module.training


def test_wrong_shapes_are_refused():
    class Short(own_models.Windows):
        def forward(self, x, present):
            return super().forward(x, present)[:, 1:]

    with pytest.raises(InputError, match=r"gave scores \(6, 4, 1\) .* not \(6, 5, 1\)"):
        check_causal(Short, features=4)
