"""Panels without a fault, on which every warning is a false alarm: sixty markets of different kinds.

Seeds below 500 are for choosing limits, those from 500 on for judging them.
"""

from dataclasses import replace
from itertools import islice, product

from tests.audit.market import PLAIN, Style

STYLES: dict[str, Style] = {
    "plain": PLAIN,
    "narrow": replace(PLAIN, codes=60, days=1200),
    "broad": replace(PLAIN, codes=500, days=300),
    "long": replace(PLAIN, codes=100, days=2500),
    "short": replace(PLAIN, days=260),
    "every day": replace(PLAIN, week=7),
    "raw features": replace(PLAIN, transform="none"),
    "heavy tails": replace(PLAIN, tails=2.5),
    "strong signal": replace(PLAIN, alpha=0.12),
    "strong and quick": replace(PLAIN, alpha=0.1, persistence=0.0),
    "strong and slow": replace(PLAIN, alpha=0.08, persistence=0.99),
    "reversal": replace(PLAIN, reversal=0.15),
    "momentum": replace(PLAIN, reversal=-0.1),
    "many exits": replace(PLAIN, exits=0.15),
    "horizons": replace(PLAIN, horizons=(1, 2, 5, 10, 20)),
}
PANELS = 60


def clean_panels(first_seed: int) -> list[tuple[str, Style, int]]:
    """Name, style and seed of PANELS markets."""
    rounds = product(range(PANELS // len(STYLES) + 1), STYLES.items())
    return list(islice(((name, style, first_seed + 100 + i) for i, (name, style) in rounds), PANELS))
