"""What a check says: passed, warned, failed or skipped, the figure, what is concerned, why it matters, what to do."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

Seen = TypeVar("Seen")

Verdict = Literal["passed", "warned", "failed", "skipped"]
WORST_FIRST: tuple[Verdict, ...] = ("failed", "warned", "passed", "skipped")
MOST_NAMED = 5  # features, codes or dates that a line names


@dataclass(frozen=True)
class Advice:
    """What a check says beside its figure, the same whatever it finds.

    Args:
        check: its name, as the table and docs/audit.md have it.
        why: why it matters, in one sentence.
        cure: what to do, in one sentence.
    """

    check: str
    why: str
    cure: str


@dataclass(frozen=True)
class Finding:
    """The end of one check.

    Args:
        figure: the statistic in words, with its limit; of a skipped check, the reason.
        concerned: features, codes, dates or rows, the worst first; empty where all are well.
    """

    advice: Advice
    verdict: Verdict
    figure: str
    concerned: Sequence[str] = field(default=())

    def __str__(self) -> str:
        """In one line."""
        named = f" ({self.names()})" if self.concerned else ""
        return f"{self.advice.check} {self.verdict}: {self.figure}{named}"

    def names(self) -> str:
        """The first of what is concerned, and how many more there are."""
        more = len(self.concerned) - MOST_NAMED
        return ", ".join(self.concerned[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def finding_of(check: Callable[[Seen], Finding], seen: Seen) -> Finding:
    """What a check says. Values that are not finite are for it to judge: numpy does not warn beside its figure."""
    with np.errstate(all="ignore"):
        return check(seen)


def worst(found: Iterable[Finding], advice: Advice, without: str) -> Finding:
    """The worst of some findings, the first among equals; skipped, for the reason `without`, where there is none."""
    return min(found, key=lambda each: WORST_FIRST.index(each.verdict), default=skipped(advice, without))


def passed(advice: Advice, figure: str) -> Finding:
    """Nothing was found."""
    return Finding(advice, "passed", figure)


def warned(advice: Advice, figure: str, concerned: Sequence[str] = ()) -> Finding:
    """Something is odd, and can be right."""
    return Finding(advice, "warned", figure, tuple(concerned))


def failed(advice: Advice, figure: str, concerned: Sequence[str] = ()) -> Finding:
    """A figure that is computed from this is wrong."""
    return Finding(advice, "failed", figure, tuple(concerned))


def skipped(advice: Advice, reason: str) -> Finding:
    """What the check needs is not there."""
    return Finding(advice, "skipped", reason)
