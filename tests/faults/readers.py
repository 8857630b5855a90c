"""The commands that read files, what each says of sound ones, and the verdict on what it says of harmed ones.

right     exit code 0 and, to the last digit, what it says of sound files
refused   exit code 2, or 1 where a training fails, and one line of error
wrong     anything else: other figures, a traceback, a signal, a hang, more lines
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.faults.ground import HPO, TRAIN
from tests.faults.server import Outcome, apart, run

Verdict = Literal["right", "refused", "wrong"]


@dataclass(frozen=True)
class Tried:
    """One fault and what became of it.

    Args:
        kind: the row of the table that counts it.
        what: the fault in words, with all that is needed to make it by hand.
        why: of a wrong one.
    """

    kind: str
    what: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Reader:
    """A command that reads files.

    Args:
        needs: files and folders of the ground that it is given.
        figures: what it says, from its folder and its outcome, without times.
        seconds: about what it takes.
        trains: it may fail with exit code 1.
        finds: its exit code is 1 where it finds something, beside what it says.
        shows: it prints what a file says, and promises nothing else.
    """

    argv: tuple[str, ...]
    needs: tuple[str, ...]
    figures: Callable[[Path, Outcome], Any]
    seconds: float = 0.2
    trains: bool = False
    finds: bool = False
    shows: bool = False

    def found(self, outcome: Outcome) -> bool:
        """Whether an exit code of 1 stands for what it found: all that it has to say is printed."""
        return self.finds and outcome.code == 1 and bool(outcome.out)


def _printed(folder: Path, outcome: Outcome) -> str:
    return outcome.out.replace(str(folder), ".")


def _metrics(folder: Path, outcome: Outcome) -> Any:
    """JSON without the count of looks, which is kept beside the cache and need not be writable."""
    printed = json.loads(outcome.out)
    printed.pop("look", None)
    return printed


def _findings(folder: Path, outcome: Outcome) -> Any:
    """JSON of an audit without the finding on the count of looks, which says that one cannot be kept."""
    return [each for each in json.loads(outcome.out) if each["check"] != "looks at a test"]


def _file(name: str) -> Callable[[Path, Outcome], Any]:
    """What is printed and the bytes of a file."""

    def figures(folder: Path, outcome: Outcome) -> tuple[str, str]:
        content = (folder / name).read_bytes().replace(str(folder).encode(), b".")
        return _printed(folder, outcome), hashlib.sha256(content).hexdigest()

    return figures


def _splits(name: str) -> Callable[[Path, Outcome], Any]:
    """The figures of a finished run, or of folds."""
    return lambda folder, outcome: json.loads((folder / name / "summary.json").read_text())["splits"]


def _trained(name: str) -> Callable[[Path, Outcome], Any]:
    """Every validation and the figures of a run."""
    return lambda folder, outcome: ((folder / name / "metrics.jsonl").read_text(), _splits(name)(folder, outcome))


def _study(name: str) -> Callable[[Path, Outcome], Any]:
    """The complete trials, and the settings of the best one. A trial whose end was cut off is done again by another
    number."""

    def figures(folder: Path, outcome: Outcome) -> tuple[str, str]:
        complete = apart(lambda: _complete(folder / name / "trials.parquet"))
        best = (folder / name / "best.toml").read_text().splitlines()[1:]  # below a checksum, which is of paths too
        return complete, "\n".join(line for line in best if "arrow" not in line)

    return figures


def _complete(path: Path) -> str:
    """The complete trials of a table, without their numbers and times. Arrow starts threads to read it."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(path).to_pylist()
    told = [{key: row[key] for key in row if key not in ("number", "seconds")} for row in rows]
    return json.dumps(sorted(str(row) for row in told if row["state"] == "COMPLETE"))


def _cache(folder: Path, outcome: Outcome) -> Any:
    manifest = json.loads((folder / "cache" / "manifest.json").read_text())
    return _printed(folder, outcome), manifest["cache_id"], manifest["checksums"]


ON = ("--arrow", "cache")
BASELINE = ("baseline", "--config", "config.toml", *ON)
REVERSAL = "reversal"
READERS: dict[str, Reader] = {
    "inspect": Reader(("cache", "inspect", "cache"), ("cache",), _printed, 0.1),
    "manifest": Reader(("cache", "inspect", "cache", "--json"), ("cache",), _printed, 0.1),
    "verify": Reader(("cache", "verify", "cache"), ("cache",), _printed, 0.1),
    "evaluate": Reader(("evaluate", "run", *ON, "--json"), ("cache", "cache.looks.jsonl", "run"), _metrics),
    "evaluate valid": Reader(
        ("evaluate", "run", "twin", *ON, "--split", "valid", "--json"), ("cache", "run", "twin"), _metrics, 0.3
    ),
    "evaluate twin": Reader(("evaluate", "twin", *ON, "--json"), ("cache", "twin"), _metrics),
    "evaluate scores": Reader(
        ("evaluate", "scores.parquet", *ON, "--against", "ridge.parquet", "--json"),
        ("cache", "scores.parquet", "ridge.parquet"), _metrics, 0.15,
    ),
    "evaluate folds": Reader(("evaluate", "folds", *ON, "--json"), ("cache", "folds"), _metrics),
    "predict": Reader(("predict", "run", *ON, "--out", "new.parquet"), ("cache", "run"), _file("new.parquet"), 0.3),
    "predict span": Reader(
        ("predict", "run", *ON, "--start", "2020-07-01", "--out", "new.parquet"), ("cache", "run"),
        _file("new.parquet"),
    ),
    "predict latest": Reader(("predict", "run", *ON, "--date", "latest", "--json"), ("cache", "run"), _printed),
    "predict latest twin": Reader(("predict", "twin", *ON, "--date", "latest", "--json"), ("cache", "twin"), _printed),
    "ridge": Reader((*BASELINE, "--json"), ("cache", "config.toml"), _printed, 0.15),
    REVERSAL: Reader(
        (*BASELINE, "--kind", "reversal", "--feature", "f0", "--out", "new.parquet", "--json"),
        ("cache", "config.toml"), _file("new.parquet"), 0.12,
    ),
    "train": Reader(
        (*TRAIN, "--out", "new", "--set", "train.epochs=1", "--set", "train.blocks=1"), ("cache", "config.toml"),
        _trained("new"), 1.8, trains=True,
    ),
    "resume": Reader(
        ("train", "--resume", "--out", "stopped", *ON), ("cache", "stopped"), _trained("stopped"), 2, trains=True
    ),
    "resume finished": Reader(
        ("train", "--resume", "--out", "run", *ON), ("cache", "run"), _splits("run"), trains=True
    ),
    "resume folds": Reader(
        ("train", "--resume", "--out", "folds", *ON), ("cache", "folds"), _splits("folds"), 0.3, trains=True
    ),
    "report": Reader(("report", "run", *ON, "--out", "new.html"), ("cache", "run"), _printed, 1),
    "report scores": Reader(
        ("report", "scores.parquet", *ON, "--out", "new.html"), ("cache", "scores.parquet"), _printed, 1
    ),
    "report study": Reader(("report", "study", *ON, "--out", "new.html"), ("cache", "study"), _printed),
    "audit": Reader(("audit", "cache", "--json"), ("cache", "cache.looks.jsonl"), _findings, 0.2, finds=True),
    "audit run": Reader(("audit", "cache", "run", "--json"), ("cache", "run"), _findings, 0.8, finds=True),
    "audit folds": Reader(("audit", "cache", "folds", "--json"), ("cache", "folds"), _findings, 0.8, finds=True),
    "audit study": Reader(("audit", "cache", "study", "--json"), ("cache", "study"), _findings, 0.4, finds=True),
    "audit scores": Reader(
        ("audit", "cache", "scores.parquet", "--json"), ("cache", "scores.parquet"), _findings, 0.2, finds=True
    ),
    "export": Reader(("export", "run", "--to", "torch", "--out", "new.pt"), ("run",), _printed, 3),
    "hpo": Reader((*HPO, "--out", "study", "--trials", "3"), ("cache", "config.toml", "study"), _study("study")),
    "hpo sqlite": Reader(
        (*HPO, "--out", "sql", "--trials", "3", "--storage", "sqlite:///study.db"),
        ("cache", "config.toml", "sql", "study.db"), _study("sql"), 0.4,
    ),
    "best": Reader(("config", "show", "--config", "study/best.toml"), ("study",), _printed, 0.1, shows=True),
    "settings": Reader(("config", "show", "--config", "config.toml"), ("config.toml",), _printed, 0.1),
    "settings of run": Reader(("config", "show", "run"), ("run",), _printed, 0.1, shows=True),
    "append": Reader(("cache", "append", "cache", "more.parquet"), ("cache", "more.parquet"), _cache, 0.6),
    "build parquet": Reader(
        ("cache", "build", "panel.parquet", "--features", "f*", "--targets", "fwd_*", "--out", "cache"),
        ("panel.parquet",), _cache, 0.4,
    ),
    "build csv": Reader(
        ("cache", "build", "panel.csv", "--features", "f*", "--targets", "fwd_*", "--out", "cache"), ("panel.csv",),
        _cache, 0.4,
    ),
    "build arrow": Reader(
        ("cache", "build", "panel.arrow", "--features", "f*", "--targets", "fwd_*", "--out", "cache"),
        ("panel.arrow",), _cache, 0.4,
    ),
    "build bars": Reader(
        ("cache", "build", "bars.parquet", "--recipe", "ohlcv", "--code", "code", "--out", "cache"),
        ("bars.parquet",), _cache, 0.4,
    ),
}  # fmt: skip


def copy(ground: Path, work: Path, names: tuple[str, ...]) -> None:
    """Give a folder these files and folders of the ground."""
    for name in names:
        if (ground / name).is_dir():
            shutil.copytree(ground / name, work / name)
        else:
            shutil.copy(ground / name, work / name)


def sound(name: str, ground: Path, work: Path) -> Any:
    """What a reader says of sound files. Raises AssertionError where it does not succeed."""
    reader = READERS[name]
    copy(ground, work, reader.needs)
    outcome = run(reader.argv, work)
    assert outcome.code == 0 or reader.found(outcome), f"{name}: {outcome}"
    return reader.figures(work, outcome)


def read(name: str, work: Path, expected: Any) -> tuple[Verdict, str]:
    """`judge` of a reader on harmed files."""
    return judge(name, work, run(READERS[name].argv, work), expected)


def judge(name: str, work: Path, outcome: Outcome, expected: Any) -> tuple[Verdict, str]:
    """The verdict on a reader's outcome, and why it is wrong.

    Args:
        expected: what it says of sound files; None: other figures are right too.
    """
    reader = READERS[name]
    keep(work, outcome)
    crash = outcome.crash()
    if crash is not None:
        return "wrong", crash
    found = reader.found(outcome)
    if outcome.code == 1 and not (reader.trains or found):
        return "wrong", "exit code 1"
    if outcome.code and not found:
        return "refused", outcome.error_lines()[0]
    if expected is not None and reader.figures(work, outcome) != expected:
        return "wrong", "other figures"
    if (
        name == REVERSAL
        and expected is None
        and outcome.out
        and (odd := apart(lambda: _odd_reversal(work, outcome.out)))
    ):
        return "wrong", odd
    return "right", ""


def keep(work: Path, outcome: Outcome, name: str = "outcome.txt") -> None:
    """Leave how a command ended beside its files, for whoever looks into a wrong one."""
    text = f"exit code {outcome.code}, signal {outcome.signal}, {outcome.seconds:.1f} s\n{outcome.out}\n{outcome.err}"
    (work / name).write_text(text, errors="backslashreplace")


def _odd_reversal(work: Path, printed: str) -> str | None:
    """What reversal's scores and figures have against the plainest reading of the cache that they come from.

    Each score is the negative feature, every present row of a day has one, and the RankIC is the mean over days of
    Spearman's correlation with the targets. Nothing of the package reads the cache here.
    """
    import pyarrow.parquet
    from scipy.stats import rankdata

    manifest = json.loads((work / "cache" / "manifest.json").read_text())
    features, targets, presence = _plain(work / "cache", manifest)
    if presence.max(initial=0) > 2:
        return None  # means nothing, and so no figure is due
    feature = features[:, manifest["features"].index("f0")].astype(np.float32)
    calendar, offset = manifest["calendar"], np.cumsum([0, *manifest["days"]])
    place = {
        (calendar[manifest["first"][s] + t], code): int(offset[s]) + t
        for s, code in enumerate(manifest["codes"])
        for t in range(manifest["days"][s])
    }
    scores = pyarrow.parquet.read_table(work / "new.parquet").to_pydict()
    days: dict[str, list[int]] = {}
    for i, (date, code) in enumerate(zip(scores["date"], scores["code"], strict=True)):
        row = place[str(date), code]
        days.setdefault(str(date), []).append(row)
        for h in manifest["horizons"]:
            if not np.isclose(scores[f"score_{h}"][i], -feature[row], rtol=0, atol=0, equal_nan=True):
                return f"the score of {code} on {date} is not its feature"
    for date, rows in days.items():
        present = {row for (day, _), row in place.items() if day == date and presence[row] > 0}
        if present != set(rows):
            return f"{date} has {len(rows)} scores of {len(present)} present rows"
    found = json.loads(printed)["splits"]["test"]
    for i, h in enumerate(manifest["horizons"]):
        daily = []
        for rows in days.values():
            used = [row for row in rows if presence[row] == 2 and np.isfinite(targets[row, i])]
            if len(used) >= 20:
                ranks = rankdata(-feature[used]), rankdata(targets[used, i])
                daily.append(np.corrcoef(*ranks)[0, 1])
        mean, said = np.mean(daily) if daily else math.nan, found[str(h)]["rank_ic"]
        if not np.isnan(mean) and (said is None or abs(mean - said) > 1e-6):
            return f"RankIC {said} at horizon {h}, where {mean} is right"
    return None


def _plain(cache: Path, manifest: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets and presence of all rows, read by the offsets that the manifest gives."""
    content = (cache / "panel.arrow").read_bytes()
    width, parts = (len(manifest["features"]), len(manifest["horizons"])), []
    for batch in manifest["batches"]:
        n = batch["rows"]
        parts.append(
            (
                np.frombuffer(content, manifest["dtype"], n * width[0], batch["features"]).reshape(n, -1),
                np.frombuffer(content, np.float32, n * width[1], batch["targets"]).reshape(n, -1),
                np.frombuffer(content, np.uint8, n, batch["presence"]),
            )
        )
    features, targets, presence = map(np.concatenate, zip(*parts, strict=True))
    return features, targets, presence
