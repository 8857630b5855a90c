"""What the scores of a day say: who is on top, what changed since the day before, how old the data are.

As a dictionary for JSON, and as tables for a terminal.
"""

from datetime import date as Date
from typing import Any

import numpy as np
from rich.table import Table

from engine.live.latest import Latest
from loaders.errors import InputError

COMPLETE = 0.8  # of the universe of the day before: fewer names look like a day that is not all there


def compare(latest: Latest, top: int, horizon: int | None = None, today: Date | None = None) -> dict[str, Any]:
    """All that `predict --date` says of a day.

    Args:
        top: names at either end.
        horizon: that ranks the names; None: the mean over horizons of z-scores.
        today: that the age of the data is counted to; None: by the system's clock.

    Returns {"run", "run_id", "cache", "cache_id", "date", "horizons", "ranked_by", "age", "counts", "compared_with",
    "notes"} and what `changes` returns. "age": {"today", "days" (calendar days from the scored day to today),
    "last_day" (of the cache), "trained_until", "chosen_until" (last days of the training and the validation part),
    "cache_days_since" (days of the cache after the latter)}. "counts": {"scored", "universe", "universe_before" (on
    the day before), "codes"}.

    Raises InputError for a horizon that the run does not have.
    """
    if horizon is not None and horizon not in latest.horizons:
        known = ", ".join(map(str, latest.horizons))
        raise InputError("--horizon", f"the run has no horizon {horizon}", f"It has {known}")
    day, today = latest.today, today or Date.today()
    return {
        "run": str(latest.run),
        "run_id": latest.run_id,
        "cache": str(latest.cache),
        "cache_id": latest.cache_id,
        "date": day.date,
        "horizons": latest.horizons,
        "ranked_by": "mean of z-scores" if horizon is None else f"horizon {horizon}",
        "age": {
            "today": today.isoformat(),
            "days": (today - Date.fromisoformat(day.date)).days,
            "last_day": latest.last,
            "trained_until": latest.trained_until,
            "chosen_until": latest.chosen_until,
            "cache_days_since": latest.days_since,
        },
        "counts": {
            "scored": len(day.codes),
            "universe": int(day.universe.sum()),
            "universe_before": None if latest.before is None else int(latest.before.universe.sum()),
            "codes": len(latest.panel.manifest.codes),
        },
        "compared_with": None if latest.before is None else latest.before.date,
        **changes(latest, top, horizon),
        "notes": latest.notes,
    }


def changes(latest: Latest, top: int, horizon: int | None = None) -> dict[str, Any]:
    """The names on top and at the bottom, and what changed since the day before.

    Returns {"top": [{code, rank, z, scores, rank_before}], "bottom": the same, worst first, "top_entered",
    "top_left", "bottom_entered", "bottom_left": codes}; what needs the day before is None without it.
    """
    today, before = latest.today, latest.before
    ranks, z, count = today.ranks(horizon), today.combined(horizon), int(today.universe.sum())
    ranks_before, count_before = {}, 0
    if before is not None:
        ranks_before = {str(code): int(rank) for code, rank in zip(before.codes, before.ranks(horizon), strict=True)}
        count_before = int(before.universe.sum())
    place = np.argsort(ranks, kind="stable")[len(ranks) - count :]  # best first

    def line(i: int) -> dict[str, Any]:
        scores = {str(h): float(values[i]) for h, values in today.scores.items()}
        rank_before = ranks_before.get(str(today.codes[i])) or None
        return {
            "code": str(today.codes[i]), "rank": int(ranks[i]), "z": float(z[i]), "scores": scores,
            "rank_before": rank_before,
        }  # fmt: skip

    result: dict[str, Any] = {
        "top": [line(i) for i in place[:top]],
        "bottom": [line(i) for i in place[::-1][:top]],
    }
    of_before = {
        "top": {code for code, rank in ranks_before.items() if 0 < rank <= top},
        "bottom": {code for code, rank in ranks_before.items() if rank > max(count_before - top, 0)},
    }
    for end, earlier in of_before.items():
        now = {entry["code"] for entry in result[end]}
        result[f"{end}_entered"] = None if before is None else sorted(now - earlier)
        result[f"{end}_left"] = None if before is None else sorted(earlier - now)
    return result


def tables(result: dict[str, Any]) -> list[Table]:
    """The names on top and at the bottom of what `compare` returns."""
    return [_table(end, result) for end in ("top", "bottom")]


def _table(end: str, result: dict[str, Any]) -> Table:
    table = Table(title=f"{end} {len(result[end])} of {result['date']}, by {result['ranked_by']}", title_justify="left")
    for column in ("rank", "code", "z", *(f"h={h}" for h in result["horizons"]), "before", "moved"):
        table.add_column(column, justify="left" if column == "code" else "right")
    for line in result[end]:
        before = line["rank_before"]
        moved = "new" if before is None else f"{before - line['rank']:+,}"
        table.add_row(
            f"{line['rank']:,}", line["code"], f"{line['z']:.2f}", *(f"{v:.4f}" for v in line["scores"].values()),
            *(("–", "–") if result["compared_with"] is None else ("–" if before is None else f"{before:,}", moved)),
        )  # fmt: skip
    return table


def lines(result: dict[str, Any]) -> list[str]:
    """The rest of what `compare` returns, a line each."""
    age, counts, date = result["age"], result["counts"], result["date"]
    before = counts["universe_before"]
    refitted = age["trained_until"] == age["chosen_until"]
    chosen = "" if refitted else f" and chosen until {age['chosen_until']}"
    found = [
        f"{date}: {counts['scored']:,} names scored, {counts['universe']:,} of them in the universe and ranked"
        f"{'' if before is None else f' ({before:,} the day before)'}; "
        f"{counts['codes']:,} codes in {result['cache']}",
        f"age: {date} is {age['days']:,} days before today, {age['today']}; the cache ends on {age['last_day']}; the "
        f"network was trained until {age['trained_until']}{chosen}, {age['cache_days_since']:,} days of the cache ago",
    ]
    for end in ("top", "bottom"):
        entered, left = result[f"{end}_entered"], result[f"{end}_left"]
        if entered is not None:
            said = f"entered {', '.join(entered) or 'none'}; left {', '.join(left) or 'none'}"
            found.append(f"{end} {len(result[end])} since {result['compared_with']}: {said}")
    if before is not None and counts["universe"] < COMPLETE * before:
        found.append(f"universe: far fewer names than the day before: is {date} complete in {result['cache']}?")
    return [*found, *result["notes"]]
