"""A user's script: features of daily closes up to a date, one of which knows what came later.

`python features_of.py BARS DATE OUT FEATURE DOSE`
"""

import sys
from pathlib import Path

import polars as pl


def make(bars: Path, until: str, out: Path, feature: str, dose: float) -> None:
    """Write ret_5, the next day's return, and ret_5 with a share of something else: as `feature` says.

    whole_life: the rank among all days of the code. scaled: 0 mean over all days of the code. ahead: the mean of the
    days around, the next two included.
    """
    rows = pl.read_parquet(bars).filter(pl.col("date") <= pl.lit(until).str.to_date()).sort("code", "date")
    close = pl.col("close")
    rows = rows.with_columns((close / close.shift(5).over("code") - 1).fill_null(0).alias("ret_5"))
    other = {
        "whole_life": pl.col("ret_5").rank().over("code") / pl.len().over("code"),
        "scaled": -pl.col("ret_5").mean().over("code"),
        "ahead": pl.col("ret_5").rolling_mean(5, center=True, min_samples=1).over("code"),
    }[feature]
    label = (close.shift(-1).over("code") / close - 1).alias("target_1")
    own = (pl.col("ret_5") + dose * other).alias(feature)
    rows.with_columns(own).select("date", "code", "ret_5", feature, label).write_parquet(out)


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
