"""Pages that are made from code are current, and the examples of pages run."""

import re
import runpy
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest

from engine import baseline
from engine.model import registry
from engine.model.atft import temporal
from engine.score import metrics
from hpo import algorithms
from kernels import rank_terms
from loaders.cache import build

DOCS = Path(__file__).parents[2] / "docs"
REGISTRIES = (
    baseline.RIVALS, registry.MODELS, temporal.LAYERS, metrics.METRICS, build.RECIPES, rank_terms.TERMS,
    algorithms.SAMPLERS, algorithms.PRUNERS,
)  # fmt: skip


def test_the_settings_page_is_current():
    assert runpy.run_path(str(DOCS / "settings.py"))["page"]() == (DOCS / "settings.md").read_text()


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, each behind the empty lines that make a traceback name the page's line."""
    text = (DOCS / page).read_text()
    return [
        "\n" * text[: found.start(1)].count("\n") + found[1]
        for found in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize("page", ["extending.md"])
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    """One after the other, in one namespace and an empty folder; what they register ends with the test."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "example"}
    with ExitStack() as stack:
        for table in REGISTRIES:
            stack.enter_context(patch.dict(table))
        for block in blocks(page):
            exec(compile(block, str(DOCS / page), "exec"), namespace)
