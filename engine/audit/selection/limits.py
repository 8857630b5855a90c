"""When luck is a sufficient explanation of a figure that was chosen among many."""

from collections.abc import Sequence

from engine.audit.finding import Advice, Finding, failed, passed, warned

LEVEL = 0.01  # a figure passes where as many models without skill reach it in one of a hundred cases
LUCK = 0.5  # and fails where they reach it in every second


def by_luck(advice: Advice, p: float, figure: str, concerned: Sequence[str]) -> Finding:
    """The verdict on a figure that luck alone reaches with probability p."""
    if p <= LEVEL:
        return passed(advice, figure)
    return (failed if p >= LUCK else warned)(advice, figure, concerned)


def shown(p: float) -> str:
    """A probability in words."""
    return "p < 0.0001" if p < 1e-4 else f"p {p:.2g}"
