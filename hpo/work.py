"""What the workers of a study share."""

from dataclasses import dataclass
from pathlib import Path

from hpo.config import StudyConfig


@dataclass(frozen=True)
class Work:
    """A study to run."""

    config: StudyConfig
    trials: int  # finished ones that are wanted
    folder: Path
    name: str
    storage: str | None  # URL, None: a journal in the folder
    batch: int = 1  # trials that a process trains at a time
