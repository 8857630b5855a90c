"""Servers of a study's storage that tests start, kill and start again: PostgreSQL, and Optuna's storage proxy.

Each listens in a folder or on a port of its own, and keeps what it was given when it is killed.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

PROXY = """
import sys
from optuna.storages import JournalStorage, run_grpc_proxy_server
from optuna.storages.journal import JournalFileBackend
run_grpc_proxy_server(JournalStorage(JournalFileBackend(sys.argv[1])), host="localhost", port=int(sys.argv[2]))
"""


class Postgresql:
    """A PostgreSQL server that listens on a socket in its folder, so it needs no port."""

    def __init__(self) -> None:
        """Make its folder and its database. Raises FileNotFoundError where PostgreSQL is not installed."""
        found = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))  # where Debian puts it
        initdb = found[-1] if found else shutil.which("initdb")
        if initdb is None:
            raise FileNotFoundError("PostgreSQL's server is not installed")
        self.folder = Path(tempfile.mkdtemp(prefix="atft-pg-"))  # mode 700
        user = os.getuid() or pwd.getpwnam("nobody").pw_uid  # a server refuses to run as root
        os.chown(self.folder, user, -1)
        self._own = {"user": user, "check": True, "stdout": subprocess.DEVNULL, "cwd": self.folder}
        self._control = [f"{Path(initdb).parent}/pg_ctl", "-D", str(self.folder / "data")]
        new = [initdb, "-D", str(self.folder / "data"), "-A", "trust", "-U", "tester", "--no-sync"]
        subprocess.run(new, **self._own)
        self.url = f"postgresql://tester@/postgres?host={self.folder}"

    def start(self) -> None:
        """Begin to listen; returns when it does."""
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        call = [*self._control, "-o", options, "-l", str(self.folder / "log"), "-w", "start"]
        subprocess.run(call, **self._own)

    def kill(self) -> None:
        """End it at once, without a word to those who are connected."""
        subprocess.run([*self._control, "-m", "immediate", "stop"], **self._own)

    def close(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self.folder)


class Proxy:
    """Optuna's storage proxy before a journal, in a process of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="atft-proxy-"))
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self._port = free.getsockname()[1]
        self.url = f"grpc://localhost:{self._port}"

    def start(self) -> None:
        """Begin to listen, which a client waits for."""
        call = [sys.executable, "-c", PROXY, str(self.folder / "journal"), str(self._port)]
        self._process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self.folder)
