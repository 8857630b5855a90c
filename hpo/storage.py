"""Where a study lives: a journal file in its folder, or any storage that Optuna knows, by URL."""

from pathlib import Path

from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from loaders.errors import InputError

JOURNAL = "study.journal"
BEAT, GRACE = 10, 60  # seconds between signs of life of a running trial, and without one until it is given up


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage of a study.

    Args:
        url: None: a journal in `folder`, for workers of one machine; sqlite:///..., postgresql://... and others of
            SQLAlchemy; grpc://host:port: an Optuna storage proxy, for many workers.

    Raises InputError where it cannot be reached.
    """
    if url is None:
        return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    try:
        if url.startswith("grpc://"):
            host, _, port = url.removeprefix("grpc://").partition(":")
            proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.wait_server_ready(timeout=5)
            return proxy
        return RDBStorage(url, heartbeat_interval=BEAT, grace_period=GRACE)
    except Exception as error:  # of SQLAlchemy, of a database's driver, of gRPC: each has its own kind
        what = f"the storage cannot be opened ({type(error).__name__}: {str(error).splitlines()[0]})"
        raise InputError(
            "--storage", what, "Check the URL, that its server runs, and that its driver is installed"
        ) from error
