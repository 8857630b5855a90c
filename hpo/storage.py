"""Where a study lives, and what it keeps of a trial beside Optuna's own.

A study is a journal file in its folder, or in any storage that Optuna knows, by URL. What a storage cannot read or
write is one line: an InputError where it is damaged, a WriteError where there is no room.
"""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pydantic import BaseModel, ValidationError

from loaders.cache.atomic import write_atomically
from loaders.disk.content import CHECKSUM, find_file
from loaders.disk.durable import sync_folder
from loaders.errors import InputError, WriteError

JOURNAL = "study.journal"
RUNS = "trials"  # folder of the trials' runs
STUDY = ".study"  # the name of the study that a folder belongs to
HEARTBEAT_S, GRACE_S = 10, 60  # between two heartbeats of a running trial; without one until it is taken for lost

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

DAYS = "days"  # attribute of a study: the {first, last, days} of all its validation parts

# User attributes of a trial.
SETTINGS = "settings"  # what its parameters mean, `section.key` -> value
EPOCHS = "epochs"  # that it was trained, over all folds
SECONDS = "seconds"  # that it took, attempts that were killed included
REASON = "reason"  # why it failed; none where its worker was killed
FOLDER = "folder"  # number in the name of its run folder, that of its first attempt
HELD = "held"  # its number, once a worker holds it


class _OfStudy(BaseModel, strict=True):
    days: dict[str, Any] = {}


class _OfTrial(BaseModel, strict=True):
    settings: dict[str, Any] = {}
    epochs: int = 0
    seconds: float = 0.0
    reason: str = ""
    folder: int = 0
    held: int = 0


_DAMAGED: tuple[type[Exception], ...] = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def open_storage(url: str | None, folder: Path, say: Callable[[str], None] = _say) -> BaseStorage:
    """The storage of a study.

    Args:
        url: None: a journal in `folder`, for workers of one machine; sqlite:///..., postgresql://... and others of
            SQLAlchemy; grpc://host:port: an Optuna storage proxy, for many workers.
        say: told of a last record that was cut short.

    Raises InputError where it cannot be reached, keeps nothing, or is damaged; WriteError where it cannot be written.
    """
    if url is None:
        with reading(folder / JOURNAL):
            return JournalStorage(Journal(folder / JOURNAL, say))
    if url.startswith("sqlite") and url.partition(":///")[2] in ("", ":memory:"):
        raise InputError("--storage", f"{url} keeps nothing when the process ends", "Name a file, sqlite:///study.db")
    try:
        if url.startswith("grpc://"):
            host, _, port = url.removeprefix("grpc://").partition(":")
            proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.wait_server_ready(timeout=5)
            return proxy
        return _Database(url, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
    except Exception as error:  # of SQLAlchemy, of a database's driver, of gRPC: each has its own kind
        what = f"the storage cannot be opened ({_in_words(error)})"
        raise InputError(
            "--storage", what, "Check the URL, that its server runs, and that its driver is installed"
        ) from error


class _Database(RDBStorage):
    def record_heartbeat(self, trial_id: int) -> None:
        """In a thread of Optuna's, whose errors nobody can catch: a storage that fails is told by who runs trials."""
        with suppress(*storage_errors()):
            super().record_heartbeat(trial_id)


class Journal(JournalFileBackend):
    """Optuna's journal file, whole after every write.

    A process that is killed, or a disk that is full, in the middle of a write leaves a line without its end, which
    Optuna could not read once another follows. Here the next writer, or the one that failed, cuts it off. The system's
    lock on the file goes with the process that holds it; Optuna's own outlives a killed one for 30 s.

    A line also holds a checksum of itself and all lines before it, so that lines that were changed, exchanged or taken
    out are found. Lines of other tools have none; they are covered by the next line that has one.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = _say) -> None:
        self._path = path
        self._lines = [(0, "")]  # of each line that was read: where it begins, and the checksum of all before it
        try:
            super().__init__(str(path))
            with self._locked() as file:
                _mend(file, path, say)
            sync_folder(path.parent)
        except OSError as error:
            cure = "Make room there, or pass another --out"
            raise WriteError(str(path), f"cannot be opened for writing ({error.strerror})", cure) from error

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The lines from a number on. Raises WriteError where the file cannot be read, ValueError for damaged lines."""
        try:
            with open(self._path, "rb") as file:
                number = min(log_number_from, len(self._lines) - 1)
                for log in self._read(file, number):
                    if number >= log_number_from:
                        yield log
                    number += 1
        except OSError as error:
            cure = "Mend that; the same command resumes the study"
            raise WriteError(str(self._path), f"cannot be read ({error.strerror})", cure) from error

    def _read(self, file: BinaryIO, number: int) -> Iterator[dict[str, Any]]:
        """The whole lines of the file from one on that is known."""
        begin, before = self._lines[number]
        if os.fstat(file.fileno()).st_size < begin:
            raise ValueError("it has become shorter")
        file.seek(begin)
        for line in file:
            if not line.endswith(b"\n"):
                return  # cut short, or still being written
            log = json.loads(line)
            if not isinstance(log, dict):
                raise ValueError(f"line {number + 1} is no record")
            begin, before, said = begin + len(line), _checksum(before, log), log.pop(CHECKSUM, None)
            if said not in (None, before):
                raise ValueError(f"the checksum of line {number + 1} differs")
            number += 1
            if number == len(self._lines):
                self._lines.append((begin, before))
            yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines, all or none. Raises WriteError where they could not be written."""
        try:
            with self._locked() as file:
                end = _mend(file, self._path)
                content = self._content(logs)
                try:
                    written = 0
                    while written < len(content):
                        written += os.pwrite(file, content[written:], end + written)
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, end)
                    raise
        except OSError as error:
            what = f"could not be written ({error.strerror})"
            raise WriteError(str(self._path), what, "Make room there; the same command resumes the study") from error

    def _content(self, logs: list[dict[str, Any]]) -> bytes:
        """The lines of some logs, for the end of the file as it is."""
        with open(self._path, "rb") as file:
            for _ in self._read(file, len(self._lines) - 1):
                pass
        before, lines = self._lines[-1][1], []
        for log in logs:
            before = _checksum(before, log)
            lines.append(json.dumps(log | {CHECKSUM: before}, separators=(",", ":")) + "\n")
        return "".join(lines).encode()

    @contextmanager
    def _locked(self) -> Iterator[int]:
        file = os.open(self._path, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


def _checksum(before: str, log: dict[str, Any]) -> str:
    """Of a line's record, its own checksum left out, and of all lines before it."""
    content = {key: value for key, value in json.loads(json.dumps(log)).items() if key != CHECKSUM}
    return hashlib.sha256((before + json.dumps(content, sort_keys=True)).encode()).hexdigest()[:16]


def _mend(file: int, path: Path, say: Callable[[str], None] = _say) -> int:
    """End the last line of a journal, or cut it off where it is no record; gives the file's size."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return size
    content = os.pread(file, size, 0)
    begin = content.rfind(b"\n") + 1
    try:
        json.loads(content[begin:])
    except (ValueError, RecursionError):
        os.ftruncate(file, begin)
        say(f"{path}: left out its last record, which was cut short ({size - begin} bytes)")
        return begin
    os.pwrite(file, b"\n", size)
    return size + 1


@contextmanager
def reading(where: str | Path) -> Iterator[None]:
    """Make one line of what a damaged storage raises; it can hold anything.

    Raises InputError.
    """
    try:
        yield
    except InputError:
        raise
    except _DAMAGED + storage_errors() as error:
        what = f"damaged, or no study of this release ({_in_words(error)})"
        raise InputError(str(where), what, "Restore it from a copy, or begin another study") from error


def storage_errors() -> tuple[type[Exception], ...]:
    """What the storage in use raises when it fails, by Optuna, by SQLAlchemy or by gRPC."""
    kinds: list[type[Exception]] = [StorageInternalError]
    for module, name in (("sqlalchemy.exc", "SQLAlchemyError"), ("grpc", "RpcError")):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return tuple(kinds)


def storage_failed(where: str | Path, error: Exception) -> InputError:
    """The error of a storage that failed in the middle of a study."""
    what = f"the storage failed ({_in_words(error)})"
    return InputError(str(where), what, "Check it, and that it has room; the same command resumes the study")


def check_attributes(study: optuna.Study, where: str | Path) -> None:
    """Raise InputError for attributes of a study and its trials that are not of their types."""
    every: list[tuple[str, dict[str, Any], type[BaseModel]]] = [("the study", study.user_attrs, _OfStudy)]
    every += [(f"trial {trial.number}", trial.user_attrs, _OfTrial) for trial in study.get_trials(deepcopy=False)]
    for name, attributes, kind in every:
        try:
            kind.model_validate(attributes)
        except ValidationError as error:
            first = error.errors()[0]
            what = f"attribute {first['loc'][0]!r} of {name} is {first['input']!r:.100}: {first['msg'].lower()}"
            raise InputError(str(where), what, "Restore it from a copy, or begin another study") from error


def check_folder(folder: Path, name: str) -> None:
    """Note the name of the study that a folder belongs to. Raises InputError where it belongs to another one."""
    path = folder / STUDY
    known = find_file(path, "Remove it where the folder's trials are those of this study")
    if known is None:
        write_atomically(path, f"{name}\n".encode(errors="backslashreplace"))
    elif known != f"{name}\n".encode(errors="backslashreplace"):
        what = f"holds the trials of the study {known.decode(errors='replace').rstrip()!r:.200}, not of {name!r:.200}"
        raise InputError(str(folder), what, "Pass another --out")


def check_known(study: optuna.Study, folder: Path, where: str) -> None:
    """Raise InputError where a folder holds trials that the study does not know: its storage was emptied, or another
    study of that name began here."""
    made = [int(path.name) for path in (folder / RUNS).glob("*") if path.is_dir() and path.name.isdecimal()]
    count = len(study.get_trials(deepcopy=False))  # read after the folder: a trial is in the storage first
    if max(made, default=-1) >= count:
        what = (
            f"knows {count} trials, and {folder / RUNS} holds trial {max(made)}: it was emptied, or is another study's"
        )
        raise InputError(where, what, "Restore it from a copy, or pass another --out")


def _in_words(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__


def count_finished(study: optuna.Study) -> int:
    """Trials that are complete or pruned."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))
