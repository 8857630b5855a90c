"""A small cache, a study that is trained once, and every kind of storage."""

import functools
import multiprocessing.forkserver
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.storages._grpc.server import make_server

from hpo.storage import open_storage
from hpo.study import run_study
from tests.hpo.workers import QUIET, work
from tests.panels import write_panel

multiprocessing.forkserver.ensure_running()  # it imports what workers need while other tests run


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for what in ("ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage:UserWarning"):
                item.add_marker(pytest.mark.filterwarnings(what))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hpo") / "cache"
    write_panel(folder, n_codes=40, n_days=160, signal=1.0)
    return folder


@pytest.fixture(scope="session")
def finished(cache, tmp_path_factory):
    """Folder and study of six trials."""
    folder = tmp_path_factory.mktemp("study") / "out"
    return folder, run_study(work(cache, folder, 6), 1, QUIET)


@pytest.fixture(scope="session")
def postgresql():
    """URL of a PostgreSQL server of the tests' own. It listens on a socket in its folder, so it needs no port."""
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    found = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))  # where Debian puts it
    initdb = found[-1] if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL's server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="atft-pg-"))  # mode 700
    user = os.getuid() or pwd.getpwnam("nobody").pw_uid  # a server refuses to run as root
    os.chown(folder, user, -1)
    own = {"user": user, "check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
    server = [f"{Path(initdb).parent}/pg_ctl", "-D", str(folder / "data")]
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    try:
        subprocess.run([initdb, "-D", str(folder / "data"), "-A", "trust", "-U", "tester", "--no-sync"], **own)
        subprocess.run([*server, "-o", options, "-l", str(folder / "log"), "-w", "start"], **own)
        yield f"postgresql://tester@/postgres?host={folder}"
        subprocess.run([*server, "-m", "immediate", "stop"], **own)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def grpc():
    """URL of an Optuna storage proxy."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = make_server(InMemoryStorage(), "localhost", port)
    server.start()
    yield f"grpc://localhost:{port}"
    server.stop(None)


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/studies.db"


@pytest.fixture(params=[None, "sqlite", "postgresql", "grpc"], ids=lambda kind: kind or "journal")
def storage(request):
    """What --storage takes, in every kind."""
    return request.param and request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def reopened():
    """Opens a storage by its URL, for all tests once: a database takes 0.1 s."""
    return functools.cache(lambda url: open_storage(url, Path()))


@pytest.fixture
def name():
    """Of a study: one of its own in the storages that tests share."""
    return uuid.uuid4().hex
