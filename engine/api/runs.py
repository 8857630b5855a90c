"""A finished run, opened to score, evaluate and report."""

from dataclasses import dataclass
from pathlib import Path

from engine.config import Config
from engine.config_file import load_config
from loaders.errors import InputError


@dataclass(frozen=True)
class Run:
    """A run folder. `Run.load` opens one, `engine.train` gives one."""

    folder: Path
    config: Config

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Open a run folder. Raises InputError where it is none."""
        path = Path(folder)
        if not (path / "config.toml").exists():
            raise InputError(str(path), "no run: it has no config.toml", "Name a folder that `atft-engine train` wrote")
        return cls(path, load_config(path / "config.toml", []))
