"""A warm process: everything is imported once, and each command runs in a child that is forked from it.

A command started from nothing imports for seconds; a forked child begins at once, so thousands of commands can be
tried in an hour. A child is a process of its own all the same: it has its own folder, limits, streams and exit code,
and can hang, be killed or dump core without harm to the others.

The parent has one thread, which is asserted: a lock that a second one holds would stay locked in every child. So what
starts threads when it is imported (COLD) is left to the children.

    run(["evaluate", "run"], folder) -> Outcome
"""

import atexit
import ctypes
import gc
import importlib
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NoReturn, TypedDict, Unpack

Stdin = Literal["null", "closed"]
Stdout = Literal["pipe", "full", "closed", "broken", "ascii"]
TIMEOUT_S = 60.0
COLD = ("polars", "onnxruntime", "lightgbm")  # packages that start a thread when they are imported
PACKAGES = ("engine", "hpo", "kernels", "loaders")  # ours


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Args:
        code: its exit code; None where it was killed.
        signal: what killed it, SIGKILL of a hang included; None where it ended by itself.
        hung: whether it had to be killed since its time was up.
    """

    code: int | None
    signal: int | None
    hung: bool
    seconds: float
    out: str
    err: str

    def crash(self) -> str | None:
        """What no command may do: hang, die, print a traceback or more than one line of error. None: nothing."""
        if self.hung:
            return "hang"
        if self.signal is not None:
            return signal.Signals(self.signal).name
        if "Traceback (most recent call last)" in self.err:
            return f"traceback: {self.err.rstrip().splitlines()[-1]:.200}"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        if self.code and len(self.error_lines()) != 1:
            return f"{len(self.error_lines())} lines of error"
        return None

    def refused(self) -> bool:
        """Whether it ended as bad input or a failure should: exit code 2 or 1 and one line."""
        return self.code in (1, 2) and self.crash() is None

    def error_lines(self) -> list[str]:
        """The lines on stderr that are not blank."""
        return [line for line in self.err.splitlines() if line.strip()]


class How(TypedDict, total=False):
    """Of a child.

    Args:
        memory: bytes of address space that it may take beyond what it begins with.
        stdout: "pipe" is read; "full" is /dev/full; "closed" is no file; "broken" a pipe that nobody reads; "ascii" is
            read, and takes no other characters.
        before: called in the child before the command, for limits and faults of other kinds.
    """

    memory: int | None
    stdin: Stdin
    stdout: Stdout
    before: Callable[[], object]


def run(argv: Sequence[str | Path], cwd: Path, *, timeout_s: float = TIMEOUT_S, **how: Unpack[How]) -> Outcome:
    """Run `atft-engine` with these arguments in a child, whose working folder is `cwd`.

    When its time is up, it and all processes that it has started are killed.
    """
    assert_single_thread()
    return start(argv, cwd, **how).wait(timeout_s)


def start(argv: Sequence[str | Path], cwd: Path, **how: Unpack[How]) -> "Child":
    """As `run`, without waiting for its end: several commands at once, or one that is sent a signal."""
    out, err = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _child([str(part) for part in argv], cwd, out[1], err[1], how)
    os.close(out[1])
    os.close(err[1])
    return Child(pid, out[0], err[0])


def apart(work: Callable[[], str | None]) -> str:
    """What a function returns that is called in a child, for what may start threads. RuntimeError where it fails."""
    assert_single_thread()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        failed = True
        try:
            os.write(write, (work() or "").encode()[:4096])
            failed = False
        except BaseException:
            os.write(write, traceback.format_exc().encode()[-4096:])
        finally:
            os._exit(failed)
    os.close(write)
    with os.fdopen(read, errors="replace") as file:
        text = file.read()
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(text)
    return text


class Child:
    """A command under way."""

    def __init__(self, pid: int, out: int, err: int) -> None:
        self.pid, self.began = pid, time.monotonic()
        self._text: dict[int, bytearray] = {out: bytearray(), err: bytearray()}
        for pipe in self._text:
            os.set_blocking(pipe, False)
        self._handle = os.pidfd_open(pid)

    def wait(self, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Read what it prints until it ends; kill it, and what it has started, when its time is up."""
        waiting = select.poll()
        for file in (self._handle, *self._text):
            waiting.register(file, select.POLLIN)
        hung = False
        while True:
            left = timeout_s - (time.monotonic() - self.began)
            events = waiting.poll(max(left, 0) * 1000)
            if not events:
                hung = True
                break
            for file, _ in events:
                if file in self._text and not self._read(file):
                    waiting.unregister(file)
            if any(file == self._handle for file, _ in events):
                break
        self._kill_group(wait_for=not hung)
        _, status, _ = os.wait4(self.pid, 0)
        out, err = self._drain()
        ended = os.WIFEXITED(status)
        return Outcome(
            os.WEXITSTATUS(status) if ended else None, None if ended else os.WTERMSIG(status), hung,
            time.monotonic() - self.began, out, err,
        )  # fmt: skip

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def _kill_group(self, wait_for: bool) -> None:
        """End what the child has started and left behind, and a child that hangs itself."""
        if not wait_for:
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _read(self, file: int) -> bool:
        """Take what is there; False at the end."""
        try:
            content = os.read(file, 1 << 20)
        except BlockingIOError:
            return True
        self._text[file] += content
        return bool(content)

    def _drain(self) -> list[str]:
        texts = []
        for file, content in self._text.items():
            size = -1
            while len(content) != size:
                size = len(content)
                self._read(file)
            os.close(file)
            texts.append(content.decode(errors="surrogateescape"))
        os.close(self._handle)
        return texts


def assert_single_thread() -> None:
    """Fail where this process has a second thread, which no child would have."""
    threads = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
    assert len(threads) == 1, f"the warm process has threads beside its first: {threads}"


def rehearse(argv: Sequence[str | Path], cwd: Path) -> Outcome:
    """Run a command in a child, then import here what it imported, so that later children have it."""
    read, write = os.pipe()

    def tell() -> None:
        names = "\n".join(sys.modules)
        with os.fdopen(write, "w") as file:
            file.write(names)

    child = start(argv, cwd, before=lambda: atexit.register(tell))
    os.close(write)
    with os.fdopen(read) as file:
        names = file.read().split("\n")
    outcome = child.wait()
    warm(names)
    return outcome


def warm(names: Sequence[str]) -> None:
    """Import modules that start no threads, and load what numba has compiled of ours."""
    hidden = {name: sys.modules.get(name) for name in COLD}
    sys.modules.update(dict.fromkeys(COLD))  # None: an import of it fails
    for name in names:
        if name and name not in sys.modules and not name.lstrip("_").startswith(COLD):
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # of a module that imports a cold one, or is no module of a file
    for name in hidden:
        del sys.modules[name]
    _load_compiled()
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page it looks at
    assert_single_thread()


def _load_compiled() -> None:
    """Load numba's compiled functions from its cache: a child would spend a second on it, each anew.

    Parallel ones are left out, since they start threads.
    """
    from numba.core.dispatcher import Dispatcher

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in PACKAGES:
            continue
        for function in vars(module).values():
            if not isinstance(function, Dispatcher) or function.targetoptions.get("parallel"):
                continue
            if (file := getattr(function._cache, "_cache_file", None)) is None:
                continue
            for key in list(file._load_index()):
                if key[0] not in function.overloads:
                    function.compile(key[0])


def _child(argv: list[str], cwd: Path, out: int, err: int, how: How) -> NoReturn:
    """The command, from its streams to its exit code; never returns to the parent's code."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent
        _streams(out, err, how.get("stdin", "null"), how.get("stdout", "pipe"))
        os.chdir(cwd)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if (memory := how.get("memory")) is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if (choose := sys.modules.get("loaders.tiers.choose")) is not None:
            choose._loaded_in = os.getpid()  # it refuses a fork, which may lack threads: the parent had none
        sys.argv = ["atft-engine", *argv]
        if (before := how.get("before")) is not None:
            before()
        code = _command()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(_end(code))


def _command() -> int:
    """What the console script does, and Python with what it raises."""
    import atft_engine

    try:
        atft_engine.main()
    except SystemExit as stop:
        if isinstance(stop.code, int):
            return stop.code
        if stop.code is not None:
            print(stop.code, file=sys.stderr)
        return int(stop.code is not None)
    return 0


def _end(code: int) -> int:
    """What Python does at its end: join threads, call what is registered, flush; 120 where that fails."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            if stream is sys.stdout and sys.stderr is not None:
                print(f"Exception ignored while flushing sys.stdout:\n{type(error).__name__}: {error}", file=sys.stderr)
            code = 120
    return code


def _streams(out: int, err: int, stdin: Stdin, stdout: Stdout) -> None:
    """File descriptors 0 to 2, and Python's streams on them."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if stdout == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    elif stdout == "broken":
        read, out = os.pipe()
        os.close(read)
    os.dup2(out, 1)
    os.dup2(err, 2)
    if stdin == "closed":
        os.close(0)
    if stdout == "closed":
        os.close(1)
    encoding = "ascii" if stdout == "ascii" else "utf-8"
    sys.stdin = sys.__stdin__ = None if stdin == "closed" else _text(0, "r", "utf-8", "strict")
    sys.stdout = sys.__stdout__ = None if stdout == "closed" else _text(1, "w", encoding, "strict")
    sys.stderr = sys.__stderr__ = _text(2, "w", encoding, "backslashreplace")


def _text(file: int, mode: str, encoding: str, errors: str) -> IO[str]:
    return open(file, mode, encoding=encoding, errors=errors, closefd=False, buffering=1 if file == 2 else -1)
