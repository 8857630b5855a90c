"""A planted fault: what is wrong, in three doses, and the checks that should say so."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np

from engine.audit.checks import COPIES, FEATURES, LABELS, POPULATION, CacheCheck
from engine.audit.finding import Finding
from engine.audit.sample import sample_of
from tests.audit.market import PLAIN, Market, Style, clean_market, write_market

Dose = Literal["strong", "weak", "borderline"]
DOSES: tuple[Dose, ...] = ("strong", "weak", "borderline")

Audit = Callable[[Path, float, int], list[Finding]]  # an empty folder, dose, seed
Plant = Callable[[Market, float, np.random.Generator], Market]  # dose


@dataclass(frozen=True)
class Fault:
    """Args:
    by: the checks, by name, one of which has to warn or fail.
    doses: what `audit` is given, by name.
    audit: plant it with a seed and audit what results.
    """

    name: str
    by: tuple[str, ...]
    doses: Mapping[Dose, float]
    audit: Audit

    def is_caught(self, found: list[Finding]) -> bool:
        """Whether a check that should say so does."""
        return any(each.advice.check in self.by and each.verdict in ("warned", "failed") for each in found)


def asked(by: tuple[str, ...]) -> list[CacheCheck]:
    """The checks of caches of these names."""
    every = (*FEATURES, *LABELS, *POPULATION, *COPIES)
    return [check for check in every if import_module(check.__module__).ADVICE.check in by]


def in_cache(name: str, by: tuple[str, ...], doses: Mapping[Dose, float], plant: Plant, style: Style = PLAIN) -> Fault:
    """A fault of a cache: planted in a clean market, and looked for by the checks that should say so."""

    def audit(folder: Path, dose: float, seed: int) -> list[Finding]:
        market = plant(clean_market(seed, style), dose, np.random.default_rng([seed, 1]))
        sample = sample_of(write_market(market, folder / "cache"))
        return [check(sample) for check in asked(by)]

    return Fault(name, by, doses, audit)
