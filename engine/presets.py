"""Named sets of settings, for `train --preset`: those of a --set, which win over a file and yield to --set."""

from loaders.errors import InputError

PRESETS = {
    "fast": ["train.refit=0"],  # half of the time: no refit with the validation days
}


def preset_settings(name: str | None) -> list[str]:
    """The settings that a preset stands for; none for None. Raises InputError for a name that there is not."""
    if name is None:
        return []
    if name not in PRESETS:
        raise InputError("--preset", f"no preset {name!r}", f"Use {', '.join(PRESETS)}, or leave it out")
    return PRESETS[name]
