"""Run the parts one after the other, each for as long as it may take, and keep what is known after each."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.gpu.parts import Part, command_of
from bench.measurement.record import Figures

ROOT = Path(__file__).parents[2]
GRACE = 8.0  # seconds from an interruption to the end of a part, which it may use to write what it has
LEAST = 5.0  # seconds without which a part is not begun
COLD = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # where torch and Triton keep what they compiled


@dataclass(frozen=True)
class Outcome:
    """How a part ended."""

    name: str
    code: int | None  # exit code; None: interrupted at its limit, or not begun
    seconds: float
    figures: dict[str, Figures]

    def __str__(self) -> str:
        if not self.seconds:
            return f"{self.name}: not begun, no time was left"
        ended = "interrupted" if self.code is None else "done" if self.code == 0 else f"exit code {self.code}"
        return f"{self.name}: {ended} after {self.seconds:.0f} s, {len(self.figures)} benchmarks"


Run = Callable[[Part, float, Path], int | None]  # a part, its limit, its log -> the exit code, None: interrupted


def run(part: Part, limit: float, log: Path) -> int | None:
    """Run a part as a process; at its limit it is interrupted, with all that it started, and then killed."""
    with TemporaryDirectory(prefix="atft-compiled-") as empty, log.open("w") as file:
        compiled = dict.fromkeys(COLD, empty) if part.cold else {}
        process = subprocess.Popen(
            command_of(part), cwd=ROOT, env=os.environ | compiled, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:  # also where this process was interrupted
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def outcomes(parts: list[Part], kept: Path, seconds: float, start: Run = run) -> Iterator[Outcome]:
    """Run each part until all have ended or the seconds are over; what comes too late is not begun.

    An interruption of this process ends the part that runs, whose figures so far are kept, and is the last.
    """
    until = time.monotonic() + seconds
    for part in parts:
        begun = time.monotonic()
        limit = min(part.limit_s, until - begun - GRACE)
        if limit < LEAST:
            yield Outcome(part.name, None, 0.0, {})
            continue
        stopped = False
        try:
            code = start(part, limit, kept / f"{part.name}.log")
        except KeyboardInterrupt:
            code, stopped = None, True
        took = time.monotonic() - begun
        yield Outcome(part.name, code, took, part.read(code == 0, took))
        if stopped:
            return
