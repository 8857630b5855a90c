"""A small run without a fault, which tests copy and change."""

import shutil

import pytest

from loaders.panel import open_panel
from tests.audit.faults.run import Looking, small_run


@pytest.fixture(scope="session")
def sound(once):
    """Folder of `small_run`. Never change it."""
    return once("audited", lambda folder: small_run(folder, 0))


@pytest.fixture
def run(sound, tmp_path):
    """A copy of the run, to be changed."""
    yield shutil.copytree(sound / "run", tmp_path / "run")
    Looking.ahead, Looking.least = 0.0, 0


@pytest.fixture
def cache(sound):
    return open_panel(sound / "cache")
