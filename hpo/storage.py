"""Where a study lives, and what it keeps of a trial beside Optuna's own.

A study is a journal file in its folder, or in any storage that Optuna knows, by URL.
"""

import fcntl
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import TrialState

from loaders.errors import InputError

JOURNAL = "study.journal"
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


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage of a study.

    Args:
        url: None: a journal in `folder`, for workers of one machine; sqlite:///..., postgresql://... and others of
            SQLAlchemy; grpc://host:port: an Optuna storage proxy, for many workers.

    Raises InputError where it cannot be reached.
    """
    if url is None:
        return JournalStorage(JournalFileBackend(str(folder / JOURNAL), JournalLock(folder / JOURNAL)))
    try:
        if url.startswith("grpc://"):
            host, _, port = url.removeprefix("grpc://").partition(":")
            proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.wait_server_ready(timeout=5)
            return proxy
        return RDBStorage(url, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
    except Exception as error:  # of SQLAlchemy, of a database's driver, of gRPC: each has its own kind
        what = f"the storage cannot be opened ({type(error).__name__}: {str(error).splitlines()[0]})"
        raise InputError(
            "--storage", what, "Check the URL, that its server runs, and that its driver is installed"
        ) from error


class JournalLock(BaseJournalFileLock):
    """The system's lock on the journal itself. Optuna's own lock outlives a killed writer for 30 s."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal

    def acquire(self) -> bool:
        self._file = self._journal.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._file.close()


def count_finished(study: optuna.Study) -> int:
    """Trials that are complete or pruned."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))
