"""Planted faults of a choice: figures that are the best of many models without skill. And honest choices beside them.

The dose is a number of models.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.audit.finding import Finding
from engine.audit.selection.selection import audit_looks, audit_sources, audit_study, audit_variants
from engine.audit.selection.variants import Variants
from engine.evaluation.sources import Source, dates_of_rows
from engine.reporting.looks import Look, record
from engine.reporting.sections.study import TRIALS
from engine.score.rows import present_rows
from loaders.panel import Panel
from loaders.split import Days
from tests.audit.faults.fault import Audit, Dose, Fault
from tests.audit.market import PLAIN, Array, Style, clean_market, write_market

STYLE = replace(PLAIN, codes=100, days=600)
TEST = Days(100, 500)
HONEST_STYLE = replace(PLAIN, codes=100, days=900)
HONEST_TEST = Days(100, 850)  # as many days as the test on NASDAQ has
PERSISTENCE = 0.9  # of scores from day to day

CHOICE = ("deflated RankIC", "deflated Sharpe ratio", "reality check", "overfitting")


def noise(rng: np.random.Generator, days: int, codes: int) -> Array:
    """Scores [days, codes] without skill that persist from day to day."""
    found = rng.normal(size=(days, codes))
    for t in range(1, days):
        found[t] = PERSISTENCE * found[t - 1] + np.sqrt(1 - PERSISTENCE**2) * found[t]
    return found


def scored(panel: Panel, name: str, values: Array) -> Source:
    """Scores [days, codes] as a source, from the first day of TEST on."""
    rows, day, code = present_rows(panel, Days(TEST.start, TEST.start + len(values)))
    order = np.argsort(rows)
    rows, of_row = rows[order], values[day - TEST.start, code][order].astype(np.float32)
    return Source(name, name, "test", None, None, dates_of_rows(panel, rows), [], rows, dict.fromkeys((1, 5), of_row))


def _market(folder: Path, seed: int, style: Style = STYLE, test: Days = TEST) -> tuple[Panel, Array]:
    """A clean panel, and the honest signal [days, codes] on some days."""
    market = clean_market(seed, style)
    panel = write_market(market, folder / "cache")
    place = [market.codes.index(code) for code in panel.manifest.codes]
    return panel, np.nan_to_num(market.features["alpha"][test.start : test.stop, place])


def _best_of_noise(alike: float) -> Audit:
    """Score files without skill; `alike` is the share of their variance that all have in common."""

    def audit(folder: Path, dose: float, seed: int) -> list[Finding]:
        panel, signal = _market(folder, seed)
        rng = np.random.default_rng([seed, 2])
        common = noise(rng, *signal.shape)
        own = (noise(rng, *signal.shape) for _ in range(int(dose)))
        mixed = (np.sqrt(alike) * common + np.sqrt(1 - alike) * each for each in own)
        return list(audit_sources(panel, [scored(panel, f"noise {i}", each) for i, each in enumerate(mixed)]))

    return audit


def _looks_at_noise(folder: Path, dose: float, seed: int) -> list[Finding]:
    """The ledger of a cache after the test was looked at so many times; the figure published is the largest."""
    panel, _ = _market(folder, seed)
    rng = np.random.default_rng([seed, 3])
    first, last = (str(panel.calendar[t]) for t in (TEST.start, TEST.stop - 1))
    for i in range(int(dose)):
        look = Look("evaluate", f"m{i}", first, last, TEST.stop - TEST.start, {"1": float(rng.normal(0, 0.005))}, "c")
        record(panel.folder, look)
    return list(audit_looks(panel))


def _published_after_looks(folder: Path, dose: float, seed: int) -> list[Finding]:
    """The best of so many noise models, audited as one run: the ledger alone knows of the others."""
    panel, signal = _market(folder, seed)
    rng = np.random.default_rng([seed, 4])
    best, highest = None, -np.inf
    target = panel.targets[:, 0]
    for i in range(int(dose)):
        source = scored(panel, f"m{i}", noise(rng, *signal.shape))
        known = np.isfinite(target[source.rows])
        value = float(np.corrcoef(source.values[1][known], target[source.rows][known])[0, 1])
        first, last = str(source.dates[0]), str(source.dates[-1])
        record(panel.folder, Look("evaluate", f"m{i}", first, last, len(source.dates), {"1": value}, "c", run=f"m{i}"))
        if value > highest:
            best, highest = source, value
    return list(audit_looks(panel, best))


def _lucky_study(folder: Path, dose: float, seed: int) -> list[Finding]:
    """A study whose trials have no skill: its table of trials, and the daily values of the complete ones."""
    rng = np.random.default_rng([seed, 5])
    daily = 0.1 * (np.sqrt(0.5) * rng.normal(size=(500, 1)) + np.sqrt(0.5) * rng.normal(size=(500, int(dose))))
    panel, _ = _market(folder, seed)
    found = list(audit_study(panel, write_study(folder / "study", daily.mean(0))))
    names = [f"trial {i}" for i in range(daily.shape[1])]
    return found + list(audit_variants([Variants(names, daily, None, 1, 2 * len(names))]))  # half of them were pruned


def write_study(folder: Path, values: Array) -> Path:
    """A folder with a table of complete trials of these values [N], and no run."""
    n = len(values)
    folder.mkdir(parents=True)
    table = {
        "number": list(range(n)), "state": ["COMPLETE"] * n, "value": values.tolist(), "train.x": [0.1] * n,
        "epochs": [1] * n, "seconds": [1.0] * n, "reason": [None] * n,
    }  # fmt: skip
    pq.write_table(pa.table(table), folder / TRIALS)
    return folder


def doses(strong: int, weak: int, borderline: int) -> Mapping[Dose, float]:
    return {"strong": strong, "weak": weak, "borderline": borderline}


FAULTS_OF_SELECTION: list[Fault] = [
    Fault("best of independent noise models", CHOICE, doses(50, 20, 5), _best_of_noise(0.0)),
    Fault("best of correlated noise models", CHOICE, doses(20, 10, 3), _best_of_noise(0.6)),
    Fault("best of a lucky study", (*CHOICE, "best of a study"), doses(50, 20, 5), _lucky_study),
    Fault("many looks at a test", ("looks at a test",), doses(30, 15, 8), _looks_at_noise),
    Fault("best of many looks published", ("looks at a test", *CHOICE), doses(30, 15, 5), _published_after_looks),
]


def _real_among_noise(folder: Path, dose: float, seed: int) -> list[Finding]:
    """One model with skill among so many without."""
    panel, signal = _market(folder, seed, HONEST_STYLE, HONEST_TEST)
    rng = np.random.default_rng([seed, 6])
    models = [scored(panel, f"noise {i}", noise(rng, *signal.shape)) for i in range(int(dose))]
    return list(audit_sources(panel, [scored(panel, "real", signal + 0.3 * noise(rng, *signal.shape)), *models]))


def _equally_good(folder: Path, dose: float, seed: int) -> list[Finding]:
    """So many models that have all the same skill: which is the best is luck, that it has skill is not."""
    panel, signal = _market(folder, seed, HONEST_STYLE, HONEST_TEST)
    rng = np.random.default_rng([seed, 7])
    models = (signal + 0.5 * noise(rng, *signal.shape) for _ in range(int(dose)))
    return list(audit_sources(panel, [scored(panel, f"real {i}", each) for i, each in enumerate(models)]))


def _real_after_looks(folder: Path, dose: float, seed: int) -> list[Finding]:
    """A model with skill that is audited after so many others were looked at."""
    panel, signal = _market(folder, seed, HONEST_STYLE, HONEST_TEST)
    source = scored(panel, "real", signal)
    first, last = str(source.dates[0]), str(source.dates[-1])
    for i in range(int(dose)):
        record(panel.folder, Look("evaluate", f"m{i}", first, last, len(source.dates), {"1": 0.01}, "c"))
    return list(audit_looks(panel, source))


# What no check may blame; the dose is the number of models.
HONEST: list[tuple[str, Audit, int]] = [
    ("one real model among noise", _real_among_noise, 30),
    ("equally good models", _equally_good, 20),
    ("a real model after looks", _real_after_looks, 30),
]
