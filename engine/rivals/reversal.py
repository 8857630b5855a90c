"""Reversal: minus one feature of the day, for every horizon."""

import numpy as np

from engine.rivals.options import Options
from engine.rivals.samples import Float32
from engine.score.rows import present_rows
from loaders.errors import InputError
from loaders.panel import Panel
from loaders.split import Days


def reversal(panel: Panel, part: Days, options: Options) -> Float32:
    """Scores [N, H] of the present rows of a part. Raises InputError for a feature that the cache lacks."""
    names = panel.manifest.features
    if options.feature not in names:
        shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise InputError("--feature", f"no feature {options.feature!r} in {panel.folder}", f"Choose one of {shown}")
    rows, _, _ = present_rows(panel, part)
    values = -panel.features[rows, names.index(options.feature)].astype(np.float32)
    return np.repeat(values[:, None], len(panel.manifest.horizons), 1)
