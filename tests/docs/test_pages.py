"""Pages that are made from code are current, and the examples of pages run."""

import re
import runpy
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest

from engine.model import registry
from engine.model.atft import temporal
from engine.rivals import fit
from engine.score import metrics
from hpo import algorithms
from kernels import rank_terms
from loaders.cache import build

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md")]
# Where files of the project are on the web; the image of the README has to be the file itself.
HOME = r"https://(?:github|raw\.githubusercontent)\.com/atft-engine/atft-engine/(?:blob/)?main/(.+)"
REGISTRIES = (
    fit.FITTED, fit.UNFITTED, registry.MODELS, temporal.LAYERS, metrics.METRICS, build.RECIPES, rank_terms.TERMS,
    algorithms.SAMPLERS, algorithms.PRUNERS,
)  # fmt: skip


def test_the_settings_page_is_current():
    assert runpy.run_path(str(DOCS / "settings.py"))["page"]() == (DOCS / "settings.md").read_text()


def test_the_api_page_is_current():
    assert runpy.run_path(str(DOCS / "api.py"))["page"]() == (DOCS / "api.md").read_text()


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, each behind the empty lines that make a traceback name the page's line."""
    text = (DOCS / page).read_text()
    return [
        "\n" * text[: found.start(1)].count("\n") + found[1]
        for found in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize("page", ["cache.md", "extending.md", "own_models.md", "python.md"])
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    """One after the other, in one namespace and an empty folder; what they register ends with the test."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "example"}
    with ExitStack() as stack:
        for table in REGISTRIES:
            stack.enter_context(patch.dict(table))
        for block in blocks(page):
            exec(compile(block, str(DOCS / page), "exec"), namespace)


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in PAGES))
def test_links_of_a_page_lead_somewhere(page):
    """Those to files and headings of the project. The README's are absolute, for it is also the page of the package."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        inside = re.fullmatch(HOME, target)
        if inside is None and target.startswith("http"):
            continue
        assert (inside is None) == (page != "README.md" or target.startswith("#")), target
        file, _, heading = (inside[1] if inside else target).partition("#")
        path = ROOT / file if inside else (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        assert not heading or heading in headings(path), target


def headings(path: Path) -> set[str]:
    """What links to a page's headings are called: words in lower case, joined by dashes, without other signs."""
    lines = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
