"""Whether a model can use the features of a cache: their scales, ids among them, and those that say nothing.

The embedding's pieces cover -1.75..1.75 (model/atft/embedding.py): a feature of deviation 0.02 lies in a single piece,
and one of mean 19 in the last. What was ranked or z-scored within the date has a sensible scale by construction; what
is stored as it came is checked here, by the statistics in the manifest.
"""

import numpy as np

from engine.config import Config
from loaders.cache.format import Manifest
from loaders.errors import InputError
from loaders.panel import Panel

LEAST_DEVIATION, LARGEST_DEVIATION, LARGEST_MEAN = 0.2, 5.0, 2.0
SHOWN = 5  # names in a message


def categorical_features(config: Config, panel: Panel) -> list[int]:
    """Places of the features that are ids: as numbers they mean nothing."""
    return [panel.manifest.features.index(name) for name in config.model.categories]


def check_features(config: Config, panel: Panel) -> None:
    """Raise InputError for ids that are none or are not declared, and for features of an unusable scale."""
    check_categories(config, panel)
    undeclared = [name for name in panel.manifest.categories if name not in config.model.categories]
    if undeclared:
        what = f"{panel.folder} holds ids in {_some(undeclared)}, which the model would take for numbers"
        cure = f"Pass --set 'model.categories={{{undeclared[0]}=<number of ids>}}', or build with --exclude"
        raise InputError("model.categories", what, cure)
    if config.data.any_scale:
        return
    odd = unscaled(panel.manifest, set(config.model.categories))
    if odd:
        what = (
            f"{len(odd)} of {len(panel.manifest.features)} features of {panel.folder} have no sensible scale: "
            f"{_some(odd)}; wanted: a deviation of {LEAST_DEVIATION}..{LARGEST_DEVIATION:g} and a mean within "
            f"{LARGEST_MEAN:g} of 0"
        )
        raise InputError("data.any_scale", what, "Build with --transform rank, or pass --set data.any_scale=true")


def unscaled(manifest: Manifest, categories: set[str]) -> list[str]:
    """Features, with their mean and deviation, of a scale that the model does not see well. Constants are not meant."""
    if manifest.transform != "none":
        return []
    return [
        f"{name} ({s.mean:.3g} ± {s.deviation:.3g})"
        for name, s in zip(manifest.features, manifest.stored, strict=True)
        if name not in categories
        and not s.constant
        and not (LEAST_DEVIATION <= s.deviation <= LARGEST_DEVIATION and abs(s.mean) <= LARGEST_MEAN)
    ]


def useless(manifest: Manifest) -> str | None:
    """A line that names features that are constant or wholly missing; None where there is none."""
    missing = [name for name, s in zip(manifest.features, manifest.source, strict=False) if s.missing == 1]
    constant = [
        name for name, s in zip(manifest.features, manifest.stored, strict=True) if s.constant and name not in missing
    ]
    named = [
        f"{len(names)} {what} ({_some(names)})"
        for names, what in ((constant, "constant"), (missing, "wholly missing"))
        if names
    ]
    return f"features that say nothing: {', '.join(named)}" if named else None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


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
