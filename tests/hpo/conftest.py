"""A small cache, a study that is trained once, and every kind of storage."""

import functools
import multiprocessing.forkserver
import socket
import uuid
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.storages._grpc.server import make_server

from hpo.storage import open_storage
from hpo.study import run_study
from tests.hpo.workers import QUIET, work
from tests.panels import write_panel
from tests.servers import Postgresql

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
    """URL of a PostgreSQL server of the tests' own."""
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    try:
        server = Postgresql()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    try:
        server.start()
        yield server.url
        server.kill()
    finally:
        server.close()


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
