"""HTML of a report: one file with its styles, its figures as JSON, and plotly.js inlined once; nothing is loaded.

Text goes through Jinja2's escaping. Figures stand in a block of JSON, in which no character can end the block.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from engine.reporting.content import Cell, Figure, Missing, Section, Table
from engine.reporting.glance import Glance
from loaders.errors import InputError

INSTALL = "pip install 'atft-engine[report]'"


def absent() -> str | None:
    """The name of a package of the extra `report` that is not installed; None where all are."""
    return next((name for name in ("jinja2", "plotly") if find_spec(name) is None), None)


def render(glance: Glance, sections: Sequence[Section]) -> str:
    """The page. Raises InputError where the extra `report` is not installed."""
    if (package := absent()) is not None:
        raise InputError("report", f"{package} is not installed", INSTALL)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = files("engine.reporting") / "templates"
    environment = Environment(
        loader=FileSystemLoader(str(folder)), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["prose"] = _prose
    figures = [item for section in sections for item in section.items if isinstance(item, Figure)]
    pairs = _pairs(sections)
    places = {id(figure): i for i, figure in enumerate(figures)}
    return environment.get_template("page.html").render(
        glance=glance,
        sections=sections,
        css=Markup((folder / "page.css").read_text()),
        script=Markup((folder / "page.js").read_text()),
        plotly=Markup(_plotly()) if figures else "",
        figures=Markup(_json([{"data": figure.data, "layout": figure.layout} for figure in figures])),
        paired=lambda item: id(item) in pairs,
        place=lambda figure: places[id(figure)],
        cell=lambda value: value if isinstance(value, Cell) else Cell(value),
        kind=lambda item: "figure" if isinstance(item, Figure) else "table" if isinstance(item, Table) else "missing",
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def _pairs(sections: Sequence[Section]) -> set[int]:
    """The ids of items of half a width that stand beside another; one that would stand alone takes all of it."""
    found: set[int] = set()
    for section in sections:
        waiting: int | None = None
        for item in section.items:
            half = not isinstance(item, Missing) and item.half
            if half and waiting is not None:
                found |= {waiting, id(item)}
            waiting = id(item) if half and waiting is None else None
    return found


def _prose(text: str) -> Any:
    """Escaped text in which what stands between backticks is set as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _json(value: Any) -> str:
    """JSON that may stand in a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _plotly() -> str:
    """The source of plotly.js, as the Python package has it."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text()
