"""Test RankIC of a run, of ridge and of the market's oracle on the same days: compare_with_oracle.py RUN CACHE."""

import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.checkpoint import BEST, load_checkpoint
from engine.dates import span_of, span_text
from engine.rivals.fit import run_baseline
from engine.score.part_metrics import part_metrics, part_samples
from loaders.cache.simulation.simulate import mean_of_days
from loaders.panel import open_panel
from loaders.split import Split, find_days

run, cache = Path(sys.argv[1]), Path(sys.argv[2])
panel = open_panel(cache)
dates = load_checkpoint(run / "checkpoints" / BEST)[0].split
split = Split(*(find_days(panel.calendar, *dates[part]) for part in ("train", "valid", "test")))
model = json.loads((run / "summary.json").read_text())["splits"]["test"]
ridge = part_metrics(part_samples(panel, split.test), run_baseline(panel, split, "ridge")["test"])
simulation = panel.manifest.simulation
assert simulation is not None, f"{cache} was not simulated"

days = span_text(span_of(panel.calendar[split.test.start : split.test.stop]))
table = Table(title=f"Test RankIC, mean over {days}", caption=f"run: {run}")
for column in ("horizon", "ridge", "model", "oracle", "model / oracle"):
    table.add_column(column, justify="right")
for horizon, daily in simulation["oracle_daily_rank_ic"].items():
    best = mean_of_days(np.array(daily[split.test.start : split.test.stop], float))
    assert best is not None, f"no test day of {cache} has 20 samples, and so no oracle"
    score = model[horizon]["rank_ic"]
    row = [f"{horizon} d", f"{ridge[horizon]['rank_ic']:.4f}", f"{score:.4f}", f"{best:.4f}", f"{score / best:.0%}"]
    table.add_row(*row)
Console(markup=False).print(table)
