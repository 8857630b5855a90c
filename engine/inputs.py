"""Where a configuration meets a cache: the open panel, its loader and its device, the split, and the checks of both.

One run needs it for its epochs, the trials of a study share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from engine.config import Config
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
    check_categories(config, panel)
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
    """Fill in what the cache decides. Raises InputError where the configuration expects another cache."""
    manifest = panel.manifest
    if config.data.features is not None:
        check_agreement(list(config.data.features), manifest.horizons, panel, "data.features")
    if config.data.horizons is not None:
        check_agreement(manifest.features, list(config.data.horizons), panel, "data.horizons")
    known = {"features": tuple(manifest.features), "horizons": tuple(manifest.horizons)}
    return config.model_copy(update={"data": config.data.model_copy(update=known)})


def make_split(config: Config, panel: Panel) -> Split:
    """The dates of training, validation and test that a configuration means on a panel. Raises InputError if empty."""
    gap = gap_days(config.data.context, panel.manifest.horizons, panel.manifest.known_after)
    split = config.split
    if split.valid_start is not None and split.test_start is not None:
        return split_by_date(panel.calendar, split.valid_start, split.test_start, split.test_end, gap)
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


def categorical_features(config: Config, panel: Panel) -> list[int]:
    """Places of the features that are ids: as numbers they mean nothing."""
    return [panel.manifest.features.index(name) for name in config.model.categories]


def check_categories(config: Config, panel: Panel) -> None:
    """Raise InputError for a feature of model.categories that the cache lacks, or whose values are not such ids."""
    names, where = panel.manifest.features, "model.categories"
    for name, count in config.model.categories.items():
        if name not in names:
            raise InputError(where, f"no feature {name!r} in {panel.folder}", "`cache inspect` lists the features")
        for code in range(len(panel.offset)):
            rows = panel.rows_of(code, 0, len(panel.calendar))
            values = panel.features[rows, names.index(name)].astype(np.float32)
            wrong = ~((values >= 0) & (values < count) & (values == np.floor(values)))
            if wrong.any():
                day = int(np.argmax(wrong))
                of = f"{panel.manifest.codes[code]} on {panel.calendar[panel.first[code] + day]}"
                what = f"{name} of {of} is {values[day]:g}, not one of 0..{count - 1}, in {panel.folder}"
                raise InputError(where, what, "Number the ids from 0 on, or say that there are more")
