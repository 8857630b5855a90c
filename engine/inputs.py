"""Where a configuration meets a cache: the open panel, its loader and its device, the split, and the checks of both.

One run needs it for its epochs, the trials of a study share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import abspath

import torch

from engine.config import Config
from engine.config_file import AnyConfig
from engine.model.features import check_features
from loaders.cache.remote import is_url
from loaders.errors import InputError
from loaders.panel import Panel, open_panel
from loaders.split import Split, gap_days, split_by_date, split_by_fraction, walk_forward
from loaders.tiers.choose import Source, open_source
from loaders.verify import Verification, verifying


@dataclass(frozen=True)
class Inputs:
    """An open cache, ready to deliver blocks to a device."""

    panel: Panel
    source: Source
    device: torch.device
    verification: Verification  # of the rows against their checksums, under way


@contextmanager
def open_inputs(config: Config, device: str) -> Iterator[Inputs]:
    """Open what a configuration names; its loader and the verification of its rows end with the `with`.

    Args:
        device: as train.device, or of this rank.

    Raises InputError for a cache that cannot be read or is not the one expected, ids out of range, an empty part, an
    absent device.
    """
    panel = open_panel(config.data.arrow, config.data.store)
    resolve(config, panel)
    check_features(config, panel)
    make_split(config, panel)
    on = resolve_device(device)
    with open_loader(config, panel, on) as source, verifying(panel) as verification:
        yield Inputs(panel, source, on, verification)


@contextmanager
def open_loader(config: Config, panel: Panel, device: torch.device) -> Iterator[Source]:
    """The tier that a configuration asks for; see `open_source`."""
    threads = 1 if device.type == "cpu" else None  # one beside a model that computes on the same cores, else all
    with open_source(panel, device, config.data.tier, config.data.device_share, threads=threads) as source:
        yield source


def resolve(config: Config, panel: Panel) -> Config:
    """Fill in what the cache decides, and where it lies. Raises InputError where another cache is expected."""
    manifest = panel.manifest
    if config.data.features is not None:
        check_agreement(list(config.data.features), manifest.horizons, panel, "data.features")
    if config.data.horizons is not None:
        check_agreement(manifest.features, list(config.data.horizons), panel, "data.horizons")
    known = {"features": tuple(manifest.features), "horizons": tuple(manifest.horizons)}
    return with_absolute_source(config.model_copy(update={"data": config.data.model_copy(update=known)}))


def with_absolute_source(config: AnyConfig) -> AnyConfig:
    """The same with `data.arrow` as an absolute path, which means one cache from any working directory, or a URL."""
    arrow = config.data.arrow if is_url(config.data.arrow) else abspath(config.data.arrow)
    return config.model_copy(update={"data": config.data.model_copy(update={"arrow": arrow})})


def make_split(config: Config, panel: Panel) -> Split:
    """The parts that a configuration means on a panel; a trained run has its own dates (see dates.py).

    Raises InputError where one is empty.
    """
    gap = gap_days(config.data.context, panel.manifest.horizons, panel.manifest.known_after)
    split = config.split
    if split.valid_start is not None and split.test_start is not None:
        more = {"train_start": split.train_start, "valid_end": split.valid_end}
        return split_by_date(panel.calendar, split.valid_start, split.test_start, split.test_end, gap, **more)
    if split.folds:
        folds = walk_forward(panel.calendar, split.folds, split.valid_fraction, split.test_fraction, gap, split.rolling)
        return folds[split.fold]
    return split_by_fraction(panel.calendar, split.valid_fraction, split.test_fraction, gap)


def resolve_device(name: str) -> torch.device:
    """The torch device of `train.device`; "auto" is CUDA where there is one. Raises InputError for an absent device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError("train.device", f"{name!r} is no device", "Use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise InputError("train.device", f"{name!r} is not available here", "Use auto or cpu")
    return device


def check_agreement(features: list[str], horizons: list[int], panel: Panel, where: str) -> None:
    """Raise InputError where a run and a cache differ in the names or order of features, or in horizons."""
    manifest = panel.manifest
    if list(features) != manifest.features:
        odd = next(
            (f"{a} and {b}" for a, b in zip(features, manifest.features, strict=False) if a != b), "their number"
        )
        what = f"expects {len(features)} features, {panel.folder} has {len(manifest.features)}; first difference: {odd}"
        raise InputError(where, what, "Use the cache it was made for, or build one with the same recipe")
    if list(horizons) != manifest.horizons:
        what = f"expects horizons {list(horizons)}, {panel.folder} has {manifest.horizons}"
        raise InputError(where, what, "Use the cache it was made for, or build one with --horizons")
