"""Whole trainings: a simulated market, in which a forecast has something to find."""

from dataclasses import dataclass
from pathlib import Path

from engine.config import Config
from engine.config_file import load_config
from engine.inputs import make_split
from loaders.cache.simulation.simulate import simulate
from loaders.panel import Panel, open_panel
from loaders.split import Split

HORIZONS = [1, 5]
IC = 0.08  # RankIC of the best possible forecast of the first horizon


@dataclass(frozen=True)
class Market:
    """`codes` x `days` rows of `features`."""

    codes: int
    days: int
    features: int


@dataclass(frozen=True)
class Fitting:
    """The task: fit the training part of a market, then score its validation and test parts."""

    panel: Panel
    config: Config

    @property
    def split(self) -> Split:
        """Train, valid and test."""
        return make_split(self.config, self.panel)


def write_market(folder: Path, market: Market) -> None:
    """Simulate the market into the folder, in float32."""
    simulate(folder, market.codes, market.days, market.features, IC, 0, HORIZONS, "float32")


def fitting(folder: Path, *settings: str) -> Fitting:
    """The default configuration with these settings, `section.key=value`, on the market of the folder."""
    return Fitting(open_panel(folder), load_config(None, list(settings), str(folder)))
