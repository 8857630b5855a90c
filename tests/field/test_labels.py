"""Labels of bars: from every entry, over days off, bad ticks and the end of a code, each against a loop."""

import datetime
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from loaders.cache import build as recipes
from loaders.cache.format import SCORED
from loaders.errors import InputError
from loaders.panel import open_panel

DAYS, H = 60, (1, 5)
CALENDAR = [str(day) for day in np.busday_offset("2015-01-01", np.arange(DAYS), "forward")]


def market(seed=0, codes=30):
    """{code: {date: (open, close)}}: some codes end early, some have days off, two have bad ticks."""
    rng = np.random.default_rng(seed)
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for i in range(codes):
        stop = DAYS if i < 12 else int(rng.integers(25, DAYS))
        close = 20 * np.exp(np.cumsum(0.02 * rng.standard_normal(stop)))
        if i in (3, 4):
            close[20] *= 100 if i == 3 else 0.001
        if i in (13, 14):  # a crash on the last day
            close[-1] = close[-2] * 0.04
        close = close.astype(np.float32).astype(float)
        open_ = (close * np.exp(0.01 * rng.standard_normal(stop))).astype(np.float32).astype(float)
        off = (rng.random(stop) < 0.08) & (i % 3 == 0)
        off[[0, -1]] = False
        table[f"s{i:02d}"] = {CALENDAR[d]: (open_[d], close[d]) for d in range(stop) if not off[d]}
    return table


def label(code, day, h, entry, delisting):
    """(value, reason) of one label by the definition."""
    dates = sorted(code)
    last = CALENDAR.index(dates[-1])
    t = CALENDAR.index(day)
    begin = t if entry == "close" else t + 1
    end = t + h + (entry == "next_close")
    completed = delisting is not None and end > last
    if end >= DAYS and not completed:
        return None, "calendar_end"
    if end > last and (not completed or begin > last):
        return None, "code_end" if not completed else "days_off"
    end = min(end, last)
    if CALENDAR[begin] not in code or CALENDAR[end] not in code:
        return None, "days_off"
    known = [(CALENDAR.index(d), c) for d, (_, c) in sorted(code.items()) if d != dates[-1]]
    for (_, a), (d, b) in pairwise(known):
        if begin < d <= end and not 0.1 < b / a < 10:
            return None, "bad_ticks"
    price = code[CALENDAR[begin]][0 if entry == "next_open" else 1]
    return code[CALENDAR[end]][1] * (1 + delisting if completed else 1) / price - 1, None


def build(tmp_path, table, delistings=None, **changes):
    rows = [
        (datetime.date.fromisoformat(d), code, o, max(o, c), min(o, c), c, 1e6)
        for code, bars in table.items()
        for d, (o, c) in bars.items()
    ]
    frame = pl.DataFrame(rows, ["date", "ticker", "open", "high", "low", "close", "volume"], orient="row")
    frame.sample(fraction=1, shuffle=True, seed=1).write_parquet(tmp_path / "bars.parquet")
    settings = {"horizons": list(H), **changes}
    if delistings is not None:
        lines = [f"{code},{date},{value}" for code, date, value in delistings]
        (tmp_path / "delistings.csv").write_text("\n".join(["code,date,return", *lines]) + "\n")
        settings["delisting_returns"] = tmp_path / "delistings.csv"
    recipes.build("ohlcv", [tmp_path / "bars.parquet"], tmp_path / "cache", settings)
    return open_panel(tmp_path / "cache")


def check(panel, table, entry, delistings):
    """Every label of every present row, and every count, against the loop."""
    counts = dict.fromkeys(("days_off", "code_end", "bad_ticks", "calendar_end"), 0)
    completed = known = 0
    for s, code in enumerate(panel.manifest.codes):
        for d in range(panel.days[s]):
            row, day = panel.offset[s] + d, CALENDAR[panel.first[s] + d]
            if panel.presence[row] != SCORED:
                assert day not in table[code]
                continue
            for i, h in enumerate(H):
                value, reason = label(table[code], day, h, entry, delistings.get(code))
                if reason is None:
                    assert panel.targets[row, i] == pytest.approx(value, rel=2e-6, abs=1e-7), (code, day, h)
                    known += 1
                    completed += label(table[code], day, h, entry, None)[1] is not None
                else:
                    assert np.isnan(panel.targets[row, i]), (code, day, h, reason)
                    counts[reason] += 1
    assert known > 2000
    found = panel.manifest.counts
    assert {name: found[f"targets_lost_to_{name}"] for name in counts} == counts
    assert found["targets_completed"] == completed
    assert min(counts.values()) > 0 or delistings


@pytest.mark.parametrize("entry", ["close", "next_open", "next_close"])
def test_labels_of_every_entry(tmp_path, entry):
    table = market()
    panel = build(tmp_path, table, entry=entry)
    check(panel, table, entry, {})
    assert panel.manifest.known_after == (1 if entry == "next_close" else 0)
    assert panel.manifest.recipe["entry"] == entry
    assert entry.replace("_", " ") in panel.manifest.targets[0]


@pytest.mark.parametrize("entry", ["close", "next_open", "next_close"])
def test_delisting_returns_complete_labels(tmp_path, entry):
    table = market()
    ended = [code for code in table if max(table[code]) < CALENDAR[-1]]
    returns = dict(zip(ended, np.linspace(-1, 0.5, len(ended)).tolist(), strict=True))
    rows = [(code, max(table[code]), value) for code, value in returns.items()]
    panel = build(tmp_path, table, [*rows, ("other", "2015-01-05", -0.3), ("s01", "2031-01-05", 0.1)], entry=entry)
    check(panel, table, entry, returns)
    assert panel.manifest.counts["targets_lost_to_code_end"] == 0


def test_a_crash_on_the_last_day_is_in_every_label_that_should_hold_it(tmp_path):
    """20 codes fall by 95% on their last day: 100 five-day labels hold it once the end is known."""
    table = market(codes=32)
    rng = np.random.default_rng(3)
    ended = [f"s{i:02d}" for i in range(12, 32)]
    for code in ended:
        dates = CALENDAR[: int(rng.integers(30, 50))]
        close = 20 * np.exp(np.cumsum(0.01 * rng.standard_normal(len(dates))))
        close[-1] = close[-2] * 0.05
        table[code] = {d: (float(np.float32(c)), float(np.float32(c))) for d, c in zip(dates, close, strict=True)}

    def crashes(panel):
        held = 0
        for s, code in enumerate(panel.manifest.codes):
            if code in ended:
                rows = panel.offset[s] + np.arange(panel.days[s])
                held += int((panel.targets[rows, 1] < -0.9).sum())
        return held

    without = build(tmp_path, table)
    assert crashes(without) == 20  # one label a code: the others end after the last bar
    assert without.manifest.counts["last_moves_beyond_tenfold"] == 20
    assert without.manifest.counts["targets_lost_to_code_end"] == 20 * (1 + 5)
    completed = build(tmp_path, table, [(code, max(table[code]), 0.0) for code in ended])
    assert crashes(completed) == 100
    assert completed.manifest.counts["targets_lost_to_code_end"] == 0
    assert completed.manifest.counts["targets_completed"] == 20 * (1 + 5)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("s12", "2015-01-02", -0.5)], "s12 is delisted on 2015-01-02 and has bars until"),
        ([("s12", "2015-03-25", -1.5)], "return of s12 on 2015-03-25 is -1.5"),
        ([("s12", "2015-03-25", "")], "return of s12 on 2015-03-25 is None"),
        ([("s12", "2015-03-25", -0.5), ("s12", "2015-03-25", -0.2)], "two rows for s12"),
    ],
)
def test_delisting_returns_that_cannot_be(tmp_path, rows, words):
    with pytest.raises(InputError, match=words):
        build(tmp_path, market(), rows)
    assert not (tmp_path / "cache").exists()


def test_saturdays_of_one_code_are_counted(tmp_path):
    """A code that trades on Saturdays makes them days of the calendar, and takes every other code's labels."""
    table = {code: bars for code, bars in market().items() if int(code[1:]) % 3 and int(code[1:]) < 12}
    alone = build(tmp_path, table)
    assert alone.manifest.counts["targets_lost_to_days_off"] == 0
    saturdays = [str(np.datetime64(d) + 1) for d in CALENDAR if np.datetime64(d).item().weekday() == 4][:-1]
    odd = dict(table["s01"]) | {d: (20.0, 20.0) for d in saturdays}
    panel = build(tmp_path, table | {"s01": odd})
    others = len(table) - 1
    calendar = sorted({*CALENDAR, *saturdays})
    ending = [calendar.index(d) for d in saturdays]  # a label of h days ends there if h days come before
    wanted = others * sum(sum(d >= h for d in ending) for h in H)
    assert panel.manifest.counts["targets_lost_to_days_off"] == wanted > 100


def test_entry_is_a_word_of_the_list(tmp_path):
    with pytest.raises(InputError, match="next_open, next_close"):
        build(tmp_path, market(), entry="tomorrow")


def test_features_do_not_depend_on_the_entry(tmp_path):
    close = build(tmp_path, market(), entry="close").features[:].copy()
    np.testing.assert_array_equal(close, build(tmp_path, market(), entry="next_open").features[:])


def test_small_features_need_float32_without_a_transform(tmp_path):
    with pytest.raises(InputError, match="--dtype float32"):
        build(tmp_path, market(), transform="none")
    panel = build(tmp_path, market(), transform="none", dtype="float32", exclude=["log_close"])
    assert "log_close" not in panel.manifest.features
