"""Nested tables as one table with a name per value, as trackers want them."""

import math
from typing import Any

from engine.config import Config


def settings_of(config: Config) -> dict[str, Any]:
    """All settings of a run by `section.key`."""
    return {
        f"{section}.{key}": value
        for section, values in config.model_dump(mode="json").items()
        if isinstance(values, dict)
        for key, value in values.items()
    } | {"phases": [phase.model_dump(mode="json") for phase in config.phases]}


def finite_numbers(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a tree by `outer/inner`; what is missing or not finite is left out."""
    found: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= finite_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found
