"""Verify the rows of an open panel against their checksums while it is in use.

Opening a cache reads none of its rows, so a flipped bit would be trained on. Reading everything first would make a
large cache wait for minutes; hashing beside the training (a second of one core per GB) finds it in time to stop the
run. Pages are hashed where they are mapped, nothing is copied.

Rows that differ also make the work on them fail in other ways: a matrix that cannot be inverted, a loss that is not
finite, an id out of range. So an exception of the work gives way to the checksum's, for which it waits.

A training on a CPU wants all cores, so of a few cores one thread hashes. A machine with many, as GPUs have, lends four.
Once the work waits for the comparison, all cores hash.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from loaders.cache.format import Mapped, check_bits, checksum_of, chunk_name
from loaders.errors import InputError, Interrupted, WriteError
from loaders.panel import Panel
from loaders.tiers.cores import usable_cores

MOST_THREADS = 4
CORES_EACH = 4  # of the machine, for one that hashes


@dataclass
class Verification:
    """A comparison under way."""

    lent: int  # threads that hash beside the work
    threads: int  # that hash once it waits
    stop: threading.Event = field(default_factory=threading.Event)  # nobody asks any more
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.turns = threading.Semaphore(self.lent)

    def raise_if_failed(self) -> None:
        """Raise what was found, and nothing otherwise; costs nothing."""
        if self.error is not None:
            raise self.error

    def wait(self) -> None:
        """Wait for every chunk, then as `raise_if_failed`."""
        self._wait()
        self.raise_if_failed()

    def _wait(self) -> None:
        if not self.done.is_set():
            more, self.lent = self.threads - self.lent, self.threads
            for _ in range(more):
                self.turns.release()
            self.done.wait()

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Where rows differ, raise that in place of what the block raises, but for what rows have no part in:
        Interrupted and WriteError."""
        try:
            yield
        except (Interrupted, WriteError):
            raise
        except Exception as error:
            self._wait()
            if self.error is None or self.error is error:
                raise
            raise self.error from error


@contextmanager
def verified(panel: Panel) -> Iterator[None]:
    """Work whose result leaves this process once the `with` has ended: then all rows agree with their checksums."""
    with verifying(panel) as verification:
        yield
        verification.wait()
        panel.check_unchanged()


@contextmanager
def verifying(panel: Panel) -> Iterator[Verification]:
    """Begin to compare; all threads have ended when the `with` ends. Rows that agreed once are not compared again.

    What it raises is an InputError naming the first chunk (its number and byte range) that differs, also in place of
    another exception of the block (`Verification.explaining`).
    """
    threads = usable_cores().threads
    verification = Verification(max(min(threads // CORES_EACH, MOST_THREADS), 1), threads)

    def compare() -> None:
        try:
            panel.check_unchanged()
            for file in panel.files:
                _compare(file, verification)
        except BaseException as error:  # re-raised by whoever asks
            verification.error = error
        finally:
            verification.done.set()

    thread = threading.Thread(target=compare, name="verify", daemon=True)
    thread.start()
    try:
        with verification.explaining():
            yield verification
    finally:
        verification.stop.set()
        thread.join()


def _compare(file: Mapped, verification: Verification) -> None:
    """Compare a file's chunks, until nobody asks any more. Raises InputError for the first that differs."""
    if file.verified.is_set():
        return
    manifest, stop = file.manifest, verification.stop  # of the mapped rows, whatever cache has taken the folder since
    size = manifest.chunk_bytes
    # The pool ends before the view does, which its threads still read.
    with memoryview(file.mapping) as rows, ThreadPoolExecutor(verification.threads, "verify") as pool:

        def differs(number: int) -> bool:
            with verification.turns:
                if stop.is_set():
                    return False
                with rows[number * size : (number + 1) * size] as chunk:
                    return checksum_of(chunk) != manifest.checksums[number]

        for number, different in enumerate(pool.map(differs, range(len(manifest.checksums)))):
            if different:
                stop.set()
                what = f"checksum differs in {chunk_name(number, size)}"
                raise InputError(str(file.path), what, "Restore or rebuild the cache, then repeat the command")
        if not stop.is_set():
            check_bits(file)
            file.verified.set()
