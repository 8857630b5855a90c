"""Where a configuration meets a cache: the open panel, its loader and its device, the split, and the checks of both.

One run needs it for its epochs, the trials of a study share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import abspath
from typing import Any

import torch

from engine.config import Config
from engine.config_file import AnyConfig
from engine.model.causality import check_own
from engine.model.features import check_features
from engine.model.own import own_resolved
from loaders.cache.format import Manifest
from loaders.cache.remote import is_url
from loaders.errors import InputError
from loaders.panel import Panel, open_panel
from loaders.progress import Progress, quiet
from loaders.split import Split, gap_days, split_by_date, split_by_fraction, walk_forward, walk_forward_by_year
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
def open_inputs(config: Config, device: str, progress: Progress = quiet) -> Iterator[Inputs]:
    """Open what a configuration names; its loader and the verification of its rows end with the `with`.

    Args:
        device: as train.device, or of this rank.
        progress: of copying a remote cache.

    Raises InputError for a cache that cannot be read or is not the one expected, ids out of range, an empty part, an
    absent device, and a network of the user's own that looks ahead.
    """
    panel = open_panel(config.data.arrow, config.data.store, progress)
    resolved = resolve(config, panel)
    if config.model.is_own:
        check_own(resolved)
    check_features(config, panel)
    if len(panel.manifest.codes) < 2:
        raise InputError(str(panel.folder), "has a single code, and nothing to rank it with", "Build more codes")
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
    """Fill in what the cache and a network of the user's own decide, and where the cache lies.

    Raises InputError where another cache is expected, for one without targets, and for a network that does not do what
    it has to.
    """
    check_targets(panel)
    manifest = panel.manifest
    if config.data.features is not None:
        check_agreement(list(config.data.features), manifest.horizons, panel, "data.features")
    if config.data.horizons is not None:
        check_agreement(manifest.features, list(config.data.horizons), panel, "data.horizons")
    known = {"features": tuple(manifest.features), "horizons": tuple(manifest.horizons)}
    config = with_absolute_source(config.model_copy(update={"data": config.data.model_copy(update=known)}))
    if config.model.is_own:
        config = own_resolved(config, len(manifest.features), len(manifest.horizons))
    return config


def with_absolute_source(config: AnyConfig) -> AnyConfig:
    """The same with `data.arrow` as an absolute path, which means one cache from any working directory, or a URL."""
    arrow = config.data.arrow if is_url(config.data.arrow) else abspath(config.data.arrow)
    return config.model_copy(update={"data": config.data.model_copy(update={"arrow": arrow})})


def make_split(config: Config, panel: Panel) -> Split:
    """The parts that a configuration means on a panel; a trained run has its own dates (see dates.py).

    Raises InputError where one is empty, and for a panel without targets.
    """
    check_targets(panel)
    gap = gap_days(config.data.context, panel.manifest.horizons, panel.manifest.known_after)
    split = config.split
    if split.valid_start is not None and split.test_start is not None:
        more = {"train_start": split.train_start, "valid_end": split.valid_end}
        return split_by_date(panel.calendar, split.valid_start, split.test_start, split.test_end, gap, **more)
    if split.folds and split.by_year:
        return walk_forward_by_year(panel.calendar, split.folds, gap, split.rolling)[split.fold]
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
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < count)
    if not here or (device.type == "cpu" and device.index):
        known = "auto, cpu" + (f" or cuda:0 to cuda:{count - 1}" if count else "; there is no CUDA device")
        raise InputError("train.device", f"{name!r} is not available here", f"Use {known}")
    return device


def check_targets(panel: Panel) -> None:
    """Raise InputError for a panel without targets, which is there to be scored alone."""
    if not panel.manifest.horizons:
        what = "has no targets (--targets none): it can be scored, not trained on or evaluated"
        raise InputError(str(panel.folder), what, "Build a cache with targets")


def check_agreement(features: list[str], horizons: list[int], panel: Panel, where: str) -> None:
    """Raise InputError where a run and a cache differ in the names or order of features, or in horizons.

    A cache without targets has no horizons, and fits a run of any.
    """
    manifest = panel.manifest
    if list(features) != manifest.features:
        odd = next(
            (f"{a} and {b}" for a, b in zip(features, manifest.features, strict=False) if a != b), "their number"
        )
        what = f"expects {len(features)} features, {panel.folder} has {len(manifest.features)}; first difference: {odd}"
        raise InputError(where, what, "Use the cache it was made for, or build one with the same recipe")
    if manifest.horizons and list(horizons) != manifest.horizons:
        what = f"expects horizons {list(horizons)}, {panel.folder} has {manifest.horizons}"
        raise InputError(where, what, "Use the cache it was made for, or build one with --horizons")


COMPARED = ("name", "min_price", "min_dollar_volume")  # of a recipe: what features and the universe are made by


def made_of(manifest: Manifest) -> dict[str, Any]:
    """How the features, the universe and the labels of a cache were made, as JSON: what caches that go together share.

    A folder of shards does not say by which recipe, and a cache without horizons has no labels.
    """
    made: dict[str, Any] = {
        "transform": manifest.transform,
        "normalisation": manifest.normalisation,
        "categories": list(manifest.categories),
        "dtype": manifest.dtype,
        "period": manifest.period,
    }
    if manifest.recipe.get("name") != "shards":
        made |= {f"recipe.{key}": value for key, value in manifest.recipe.items() if key in COMPARED}
    if manifest.horizons:
        made |= {"known_after": manifest.known_after, "recipe.entry": manifest.recipe.get("entry")}
    return made


def check_made_alike(made: dict[str, Any], panel: Panel, where: str) -> None:
    """Raise InputError where a cache was not made like that of a run.

    Args:
        made: `made_of` the run's.
    """
    for key, value in made_of(panel.manifest).items():
        if key in made and made[key] != value:
            what = f"trained on a cache whose {key} is {made[key]!r}, that of {panel.folder} is {value!r}"
            raise InputError(where, what, "Build the cache with the same recipe and options")
