"""Findings as a table and as JSON."""

from collections import Counter
from collections.abc import Sequence
from textwrap import fill, indent
from typing import Any

from rich.console import Group
from rich.text import Text

from engine.audit.finding import Finding, Verdict
from engine.score.tables import WIDTH, plain_table

STYLES: dict[Verdict, str] = {"passed": "green", "warned": "yellow", "failed": "bold red", "skipped": "dim"}
INDENT = 4


def findings_table(title: str, findings: Sequence[Finding]) -> Group:
    """A line for each check; below it, for those that warned or failed, what is concerned, why and what to do."""
    table = plain_table()
    table.width = WIDTH
    for column in ("check", "", "figure"):
        table.add_column(column, overflow="fold")
    for each in findings:
        table.add_row(each.advice.check, Text(each.verdict, STYLES[each.verdict]), Text(each.figure))
    return Group(title, table, *_explained(findings), _summary(findings))


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings as JSON has them; all that is concerned is in it."""
    return [
        {
            "check": each.advice.check, "verdict": each.verdict, "figure": each.figure,
            "concerned": list(each.concerned), "why": each.advice.why, "cure": each.advice.cure,
        }
        for each in findings
    ]  # fmt: skip


def _explained(findings: Sequence[Finding]) -> list[Any]:
    lines: list[Any] = []
    for each in findings:
        if each.verdict not in ("warned", "failed"):
            continue
        lines.append(Text(f"{each.advice.check} {each.verdict}", STYLES[each.verdict]))
        parts = [part for part in (each.names(), each.advice.why, each.advice.cure) if part]
        lines += [Text(indent(fill(part, WIDTH - INDENT), " " * INDENT)) for part in parts]
    return lines


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(each.verdict for each in findings)
    return ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in STYLES if counts[verdict]) or "nothing to check"
