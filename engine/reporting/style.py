"""Colours and axes of the figures, the same in light and dark: the page sets text and lines of the grid by theme.

Colours are of middling lightness, 3:1 or more against both backgrounds, and differ for the colour-blind (after Okabe
and Ito 2008, "Color Universal Design").
"""

from collections.abc import Sequence
from typing import Any

BLUE, ORANGE, GREEN, PINK, GREY = "#2b7fc3", "#d5682c", "#1b9a78", "#b8649b", "#868d97"
COLOURS = (BLUE, ORANGE, GREEN, PINK, "#8a7a1f", "#5c6ac4")  # of horizons, in their order


def colour(i: int) -> str:
    """The colour of the i-th of several things of one kind."""
    return COLOURS[i % len(COLOURS)]


def faint(colour: str, opacity: float) -> str:
    """The colour, translucent."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def line(x: Sequence[Any], y: Sequence[Any], name: str, colour: str, **more: Any) -> dict[str, Any]:
    """A line through points."""
    style = {"color": colour, "width": 2} | more.pop("line", {})
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": style} | more


def dots(x: Sequence[Any], y: Sequence[Any], name: str, colour: str, **more: Any) -> dict[str, Any]:
    """Points."""
    style = {"color": colour, "size": 7} | more.pop("marker", {})
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": name, "marker": style} | more


def band(x: Sequence[Any], low: Sequence[Any], high: Sequence[Any], colour: str, group: str) -> list[dict[str, Any]]:
    """The area between two lines, without an entry in the legend."""
    still = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    edge = still | {"x": x, "legendgroup": group}
    return [edge | {"y": low}, edge | {"y": high, "fill": "tonexty", "fillcolor": faint(colour, 0.2)}]


def bars(x: Sequence[Any], y: Sequence[Any], name: str, colour: str, **more: Any) -> dict[str, Any]:
    """Bars, upright unless `orientation` says otherwise."""
    return {"type": "bar", "x": x, "y": y, "name": name, "marker": {"color": colour}} | more


def layout(
    y: str, x: str = "", *, form: str = "", dated: bool = False, legend: bool = True, **more: Any
) -> dict[str, Any]:
    """A figure's layout: titles of its axes, the form of y's numbers (d3), whether x are dates."""
    along: dict[str, Any] = {"zeroline": False, "showgrid": False} | _titled(x)
    if dated:
        along |= {"type": "date", "hoverformat": "%-d %b %Y"}
    up = {"tickformat": form, "zeroline": True, "nticks": 6} | _titled(y)
    return {
        "xaxis": along | more.pop("xaxis", {}),
        "yaxis": up | more.pop("yaxis", {}),
        "showlegend": legend,
        "hovermode": "x unified" if dated else "closest",
    } | more


def sideways(x: str, form: str, **more: Any) -> dict[str, Any]:
    """The layout of bars that lie: the title and number form of the axis along them; every bar is named."""
    along = {"zeroline": True, "tickformat": form, "showgrid": True, "nticks": 6, "rangemode": "tozero", "tickangle": 0}
    up = {"type": "category", "autorange": "reversed", "dtick": 1, "zeroline": False, "showgrid": False}
    return layout("", x, xaxis=along | more.pop("xaxis", {}), yaxis=up, **more)


def _titled(text: str) -> dict[str, Any]:
    return {"title": {"text": text}} if text else {}
