"""Networks of the user's own as networks of the engine.

`model.name = "package.module:factory"` names a function, or a class, that gives a torch module:

    factory(features: int, horizons: int, context: int, **options) -> nn.Module
    module.forward(x [S, T, F], present [S, T]) -> scores [S, D, H], or (scores, quantiles [S, D, H, Q])

    module.context               days that a score looks back on, its own included; default: data.context
    module.codes_are_independent whether no code's score depends on another code; default: False, so that every block
                                 that is scored holds all codes of its days, and no block is split
    module.sees_scored           whether forward takes (x, present, scored [S, T]); default: False. scored is 1 for rows
                                 of the universe, 0 for context rows and where there is no row

D = T - module.context + 1: a module gives a score for each day that it sees in full. `causality.py` checks what it
claims. torch's global generator is seeded for every step of every member where a module draws from it, so a training
with dropout repeats and resumes to the digit.

S codes, T days, D scored days, L context, F features, H horizons, Q quantile levels, K members
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from engine.config import Config, ModelConfig, ObjectiveConfig, Part
from engine.own.names import find
from loaders.errors import InputError, check_memory

Factory = Callable[..., nn.Module]
CODES, DAYS = 3, 2  # of the block that a module is tried on
_drawing = threading.Lock()  # torch has one generator for all threads


class OwnNetwork(nn.Module):
    """A module of the user's, which does what `engine.model.registry.Network` asks for.

    Args:
        name: of its factory.
        context: L, days before the first scored one and that one.
        levels: Q, quantile levels that are wanted of it.
    """

    def __init__(self, name: str, network: nn.Module, features: int, horizons: int, context: int, levels: int) -> None:
        super().__init__()
        self.name, self.features, self.horizons, self.context, self.levels = name, features, horizons, context, levels
        self.reach = getattr(network, "context", context)
        self.network = network

    @property
    def codes_are_independent(self) -> bool:
        """Whether no code's score depends on another code; the module says so."""
        return bool(getattr(self.network, "codes_are_independent", False))

    def bypass(self, parts: Sequence[Part]) -> None:
        """Accepts no part: there is none that the engine knows of."""
        self._refuse(parts)

    def freeze(self, parts: Sequence[Part]) -> None:
        """Accepts no part; what the module itself does not train stays as it is."""
        self._refuse(parts)

    def _refuse(self, parts: Sequence[Part]) -> None:
        if parts:
            raise InputError("phases", f"{parts[0]!r} is a part of ATFT; {self.name} has none", "Leave it out")

    def given(self, x: Tensor, present: Tensor, scored: Tensor | None = None) -> Any:
        """What the module gives for the days that it reads; every row is of the universe where `scored` is None."""
        inputs = (x, present, present if scored is None else scored)[: 3 if self.sees_scored else 2]
        return self.network(*(array[:, self.context - self.reach :] for array in inputs))

    def forward(self, x: Tensor, present: Tensor, scored: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See Network.forward; no quantiles, [S, D, H, 0], where the configuration wants none."""
        found = self.given(x, present, scored)
        scores, quantiles = found if isinstance(found, tuple) else (found, None)
        if quantiles is None or not self.levels:
            quantiles = scores[..., None][..., :0]
        return scores, quantiles

    @cached_property
    def traits(self) -> "Traits":
        """How a step may treat the module."""
        return _traits_of(self)

    @property
    def sees_scored(self) -> bool:
        """Whether the module is told which rows are of the universe; the module says so."""
        return bool(getattr(self.network, "sees_scored", False))

    @property
    def may_split(self) -> bool:
        """Whether replicas may share the codes of a block."""
        return self.codes_are_independent and not (self.traits.draws or self.traits.changes)


@dataclass(frozen=True)
class Traits:
    """What a module does in training beside computing scores, found by trying."""

    draws: bool  # takes random numbers from torch's global generator
    changes: bool  # changes buffers, such as running means
    maps: bool  # torch.func.vmap can run several at once


def build_own(config: ModelConfig, features: int, horizons: int, context: int) -> OwnNetwork:
    """The network that a configuration's name imports.

    Raises InputError for a name that cannot be imported, a factory that fails, and a module that cannot be trained.
    """
    factory = find(config.name, "model.name")
    if not callable(factory):
        raise InputError("model.name", f"{config.name} is no function or class", "Name a factory, see own_models.md")
    with _one_line("model.options", f"{config.name}(features={features}, horizons={horizons}, context={context}, ...)"):
        network = factory(features=features, horizons=horizons, context=context, **config.options)
    _check_module(network, config.name, context)
    return OwnNetwork(config.name, network, features, horizons, context, len(config.quantiles))


def own_resolved(config: Config, features: int, horizons: int) -> Config:
    """The same without the quantile term where a network of the user's own gives no quantiles.

    The network is built and tried on a small block. Raises InputError where it gives anything else than it has to.
    """
    model, name = config.model, config.model.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = build_own(model, features, horizons, config.data.context)
        x, present = _block(own)
        with _one_line(name, f"forward(x {list(x.shape)}, present {list(present.shape)})"), torch.no_grad():
            found = own.eval().given(x, present)
    scores, quantiles = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    wanted = (CODES, DAYS, horizons)
    _check_output(name, "scores", scores, wanted, "[S, D, H], D = T - context + 1")
    if quantiles is not None:
        if model.quantiles:
            _check_output(name, "quantiles", quantiles, (*wanted, len(model.quantiles)), "[S, D, H, model.quantiles]")
        return config
    if not model.quantiles:
        return config
    term = config.objective.quantile
    in_phases = any((phase.weights or {}).get("quantile") for phase in config.phases)
    if in_phases or term not in (0.0, ObjectiveConfig.model_fields["quantile"].default):
        what = f"{name} gives no quantiles to train on"
        raise InputError("objective.quantile", what, "Leave it out, or let forward return (scores, quantiles)")
    objective = config.objective.model_copy(update={"quantile": 0.0})
    if not objective.weights():
        what = f"{name} gives no quantiles, and no other term has a weight"
        raise InputError("objective", what, "Give another term a weight")
    without = {"model": model.model_copy(update={"quantiles": ()}), "objective": objective}
    return config.model_copy(update=without)


@contextmanager
def seeded(network: nn.Module, key: int) -> Iterator[None]:
    """Draw what a network draws from torch's global generator from this key, and leave the generator as it was.

    Only one thread does so at a time. For networks that draw nothing, and the engine's, it does nothing.
    """
    if not (isinstance(network, OwnNetwork) and network.traits.draws):
        yield
        return
    device = next(network.parameters()).device
    with _drawing, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key)
        yield


def summary_of(own: OwnNetwork, members: int, batched: bool) -> str:
    """A line of the log that says how a network of the user's own is treated."""
    facts = [f"looks back on {own.reach} of {own.context} days"]
    facts.append("codes are independent" if own.codes_are_independent else "codes may see one another")
    if not own.levels:
        facts.append("no quantiles")
    if own.traits.draws:
        facts.append("draws random numbers, so one member after the other computes its scores")
    elif batched and members > 1 and (own.traits.changes or not own.traits.maps):
        facts.append("cannot be mapped over members, so a step computes one after the other")
    return f"network {own.name}: {', '.join(facts)}; ATFT's settings do not apply"


def _check_module(network: nn.Module, name: str, context: int) -> None:
    """Raise InputError where a factory gave no module that the optimizer and the blocks can take."""

    def refuse(what: str, cure: str) -> None:
        raise InputError("model.name", f"{name} {what}", cure)

    if not isinstance(network, nn.Module):
        refuse(f"gave {type(network).__name__}, not a torch.nn.Module", "Return the module from the factory")
    reach = getattr(network, "context", context)
    if not isinstance(reach, int) or not 1 <= reach <= context:
        refuse(f"looks back on context={reach} days, not 1 to data.context={context}", "Raise data.context")
    parameters = dict(network.named_parameters())
    odd = next((k for k, p in parameters.items() if isinstance(p, nn.UninitializedParameter)), None)
    if odd is not None:
        refuse(f"has a parameter without a shape, {odd}", "Give lazy modules their sizes")
    odd = next((k for k, p in parameters.items() if p.dtype != torch.float32), None)
    if odd is not None:
        refuse(f"has a parameter of {parameters[odd].dtype}, {odd}", "Keep parameters in float32")
    if not any(p.requires_grad for p in parameters.values()):
        refuse("has no parameter to train", "Register parameters, and leave requires_grad on for some")


def _check_output(name: str, what: str, value: object, wanted: tuple[int, ...], meaning: str) -> None:
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape != wanted:
        where = "model.name"
        raise InputError(where, f"{name} gave {what} {shape}, not {wanted}: {meaning}", "Mend the module's forward")
    assert isinstance(value, Tensor)
    if not value.is_floating_point() or not torch.isfinite(value).all():
        raise InputError("model.name", f"{name} gave {what} that are not finite floats", "Mend the module's forward")


@contextmanager
def _one_line(where: str, doing: str) -> Iterator[None]:
    """Make of any exception of the user's code an InputError, in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of the user's code, which may raise anything
        check_memory(error)
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise InputError(where, f"{doing} raised {type(error).__name__}: {reason}", "Mend the module") from error


def _block(own: OwnNetwork) -> tuple[Tensor, Tensor]:
    """A small block on a network's device, with some rows absent: x [S, T, F] and present [S, T]."""
    device = next(own.parameters()).device
    random = torch.Generator().manual_seed(0)
    present = (torch.rand(CODES, own.context + DAYS - 1, generator=random) > 0.1).float()
    x = torch.randn(*present.shape, own.features, generator=random) * present[..., None]
    return x.to(device), present.to(device)


def _traits_of(own: OwnNetwork) -> Traits:
    network = copy.deepcopy(own).train()
    x, present = _block(own)
    device = x.device
    # Members are asked on threads of their own, at their first step, when another may draw already.
    with _drawing, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        state = torch.cuda.get_rng_state if device.type == "cuda" else torch.get_rng_state
        before, versions = state(), _versions(network)
        network(x, present)
        draws, changes = not torch.equal(before, state()), _versions(network) != versions
        return Traits(draws, changes, not (draws or changes) and _maps(network, x, present))


def _versions(network: nn.Module) -> list[tuple[int, int]]:
    """What tells whether a forward has written to a buffer or put another in its place."""
    return [(id(buffer), buffer._version) for buffer in network.buffers()]


def _maps(network: nn.Module, x: Tensor, present: Tensor) -> bool:
    """Whether vmap over two members gives what each of them gives."""
    parameters = {name: torch.stack([p, 0.5 * p]) for name, p in network.named_parameters()}
    buffers = {name: torch.stack([b, b]) for name, b in network.named_buffers()}

    def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, present: Tensor) -> Tensor:
        scores: Tensor = functional_call(network, (parameters, buffers), (x, present))[0]
        return scores

    twice, shown = torch.stack([x, x.flip(0)]), torch.stack([present, present.flip(0)])
    try:
        together = vmap(forward)(parameters, buffers, twice, shown)
    except Exception:  # vmap lacks an operator of the module, or cannot follow what depends on values
        return False
    each = [
        forward({n: p[k] for n, p in parameters.items()}, {n: b[k] for n, b in buffers.items()}, twice[k], shown[k])
        for k in range(2)
    ]
    return torch.allclose(together, torch.stack(each), rtol=1e-4, atol=1e-5)
