"""`engine.report`: a page on a run, folds, score files or a study; and the brief page that a training leaves behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engine.evaluation.evaluate import look_at
from engine.evaluation.opened import Opened, open_sources
from engine.evaluation.sources import source_of
from engine.reporting.content import Section
from engine.reporting.glance import of_scores, of_study
from engine.reporting.looks import Count, told_once
from engine.reporting.page import INSTALL, absent, render
from engine.reporting.sections import (
    decay,
    deciles,
    exposure,
    folds,
    learning,
    network,
    parts,
    rank_ic,
    rival,
    study,
    trading,
)
from engine.reporting.subject import Subject
from engine.score.rows import RowScores
from loaders.cache.atomic import write_atomically
from loaders.disk.durable import make_folder
from loaders.errors import InputError
from loaders.panel import Panel

if TYPE_CHECKING:
    from engine.api.runs import Run

REPORT = "report.html"  # in the folder of a run, of folds or of a study
SECTIONS = (rank_ic, deciles, decay, exposure, trading, parts, rival, network, learning)

_told: list[str] = []  # that the extra is not installed


def report(
    source: "str | Path | Run | Sequence[str | Path | Run]",
    out: str | Path | None = None,
    against: "str | Path | Run | None" = None,
    cache: str | Path | None = None,
    *,
    split: str = "test",
    start: str | None = None,
    end: str | None = None,
    in_sample: bool = False,
    cost_bps: float = 10.0,
    periods_per_year: float | None = None,
) -> Path:
    """Write a page on a run, a folder of folds, score files or a study, and return its path.

    It counts as a look at the test (engine/reporting/looks.py), but for a study, which sees validation alone.

    Args:
        source: what `evaluate` takes, or one study's folder; several are averaged.
        out: the file (default: report.html in the folder of a run, of folds or of a study; beside a score file; in the
            working directory for several).
        against: a rival, as for `evaluate`.
        cache: see `arrow` of `evaluate`, as the other arguments.

    Raises InputError for what `evaluate` refuses, where the extra `report` is not installed, and where the file cannot
    be written.
    """
    if (package := absent()) is not None:
        raise InputError("report", f"{package} is not installed", INSTALL)
    several = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    paths = [_path(each) for each in several]
    if not paths:
        raise InputError("report", "nothing to report", "Name a run, folds, score files or a study")
    for each in [*paths, *([] if against is None else [_path(against)])]:
        if not each.exists():
            raise InputError(str(each), "no such file or folder", "Name a run, folds, score files or a study")
    path = _default(paths) if out is None else Path(out)
    if any(study.holds_study(each) for each in paths):
        if len(paths) > 1 or against is not None:
            raise InputError(str(paths[0]), "a study is reported by itself", "Name its folder alone")
        return _write_study(paths[0], path)
    rival_path = None if against is None else _path(against)
    opened = open_sources(
        paths, split, rival_path, cache, cost_bps, periods_per_year, start=start, end=end, in_sample=in_sample
    )
    result = opened.figures()
    count = look_at(opened, "report", result)
    return _write(Subject(paths, rival_path, opened, result, count, brief=False), path)


def report_training(
    folder: Path, panel: Panel, test: RowScores, notes: list[str], count: Count | None, console: Console
) -> None:
    """Write the brief page of a training that has ended, from the scores of its test; say where, or why there is none.

    Never raises: a training has ended well whatever its report does.
    """
    if (unwritten := told_once(count)) is not None:
        console.print(unwritten)
    if not _installed(console):
        return
    try:
        source = source_of(str(folder), test, notes, panel)
        opened = Opened(panel, [source], None, periods_per_year=panel.manifest.periods_per_year)
        subject = Subject([folder], None, opened, opened.figures(), count, brief=True)
        console.print(f"report: {_write(subject, folder / REPORT)}")
    except Exception as error:  # whatever it is, the run's own files are whole
        console.print(_failed(error))


def report_study(folder: Path, console: Console) -> None:
    """The same of a study that has ended."""
    if not _installed(console):
        return
    try:
        console.print(f"report: {_write_study(folder, folder / REPORT)}")
    except Exception as error:
        console.print(_failed(error))


def sections_of(subject: Subject) -> list[Section]:
    """The sections of a page on scores, in their order."""
    first = [folds.section(subject)] if subject.has_folds else []
    return first + [part.section(subject) for part in SECTIONS]


def _write(subject: Subject, path: Path) -> Path:
    return _written(path, render(of_scores(subject), sections_of(subject)))


def _write_study(folder: Path, path: Path) -> Path:
    found = study.read_study(folder)
    return _written(path, render(of_study(found), study.sections(found)))


def _written(path: Path, page: str) -> Path:
    make_folder(path.parent)
    write_atomically(path, page.encode())
    return path


def _path(source: "str | Path | Run") -> Path:
    return Path(source) if isinstance(source, str | Path) else source.folder


def _default(paths: list[Path]) -> Path:
    if len(paths) > 1:
        return Path(REPORT)
    return paths[0] / REPORT if paths[0].is_dir() else paths[0].with_suffix(".html")


def _installed(console: Console) -> bool:
    package = absent()
    if package is not None and package not in _told:
        _told.append(package)
        console.print(f"report: none is written, {package} is not installed ({INSTALL})")
    return package is None


def _failed(error: Exception) -> str:
    return f"report: not written ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})"
