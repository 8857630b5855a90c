"""Differences of two caches against a comparison by dictionaries of rows."""

from pathlib import Path

import numpy as np
import pytest

from engine.audit.truncation.compare import differences
from engine.audit.truncation.vintage import compare_vintages
from loaders.cache.format import ABSENT
from loaders.panel import Panel
from tests.panels import cut, rewritten, write_panel


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    return write_panel(tmp_path / "now", n_codes=12, n_days=60)


def rows_of(panel: Panel) -> dict[tuple[str, str], int]:
    return {
        (code, str(panel.calendar[panel.first[s] + i])): int(panel.offset[s] + i)
        for s, code in enumerate(panel.manifest.codes)
        for i in range(panel.days[s])
        if panel.presence[panel.offset[s] + i] != ABSENT
    }


def test_an_earlier_end_changes_nothing(panel: Panel, tmp_path: Path) -> None:
    then = cut(panel, tmp_path / "then", 0, 40)
    found = differences(panel, then)
    assert not found.any
    assert found.compared == len(rows_of(then))
    assert compare_vintages(panel, then).verdict == "passed"
    assert compare_vintages(then, panel).verdict == "passed"


def test_what_differs_is_counted(panel: Panel, tmp_path: Path) -> None:
    then = cut(panel, tmp_path / "then", 0, 40)
    rng = np.random.default_rng(0)
    features, targets, presence = then.features.copy(), then.targets.copy(), then.presence.copy()
    rows = list(rows_of(then).items())
    chosen = [rows[i] for i in rng.choice(len(rows), 30, replace=False)]
    for _, row in chosen[:10]:
        features[row, 1] += 1
    for _, row in chosen[10:20]:
        targets[row, 0] += 0.01
    for _, row in chosen[20:23]:
        presence[row] = 3 - presence[row]  # in the universe, or out of it
    for _, row in chosen[23:]:
        presence[row] = ABSENT
    other = rewritten(then, tmp_path / "other", features=features, targets=targets, presence=presence)
    found = differences(panel, other)
    day = {str(date): t for t, date in enumerate(panel.calendar)}
    known = [row for (_, date), row in chosen[10:20] if day[date] + 1 < 39 and np.isfinite(then.targets[row, 0])]
    assert found.features == {panel.manifest.features[1]: 10}
    assert found.labels == ({panel.manifest.horizons[0]: len(known)} if known else {})
    assert found.universe == 3
    assert found.added == 7
    assert found.removed == 0
    assert differences(other, panel).removed == 7
    first = min((date for (_, date), row in chosen if row in known or (_, row) not in chosen[10:20]), default="")
    assert found.first.startswith(first[:7])
    said = compare_vintages(panel, other)
    assert said.verdict == "failed"
    assert said.concerned[0] == panel.manifest.features[1]


def test_labels_that_are_completed_later_are_told_and_not_blamed(panel: Panel, tmp_path: Path) -> None:
    targets = panel.targets.copy()
    row = next(row for (_, date), row in rows_of(panel).items() if np.isfinite(targets[row, 0]) and date < "2010-02")
    targets[row, 0] = np.nan
    found = differences(panel, rewritten(panel, tmp_path / "then", targets=targets))
    assert (found.any, found.completed) == (False, 1)


def test_caches_without_a_row_in_common_are_skipped(panel: Panel, tmp_path: Path) -> None:
    other = write_panel(tmp_path / "other", n_codes=12, n_days=30, start="1990-01-01")
    assert compare_vintages(panel, other).verdict == "skipped"
