"""Verify the rows of an open panel against their checksums while it is in use.

Opening a cache reads none of its rows, so a flipped bit would be trained on. Reading everything first would make a
large cache wait for minutes; a thread that hashes beside the training (a second of one core per GB) finds it in time to
stop the run. Pages are hashed where they are mapped, nothing is copied.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from loaders.cache.format import checksum_of, chunk_name, read_manifest
from loaders.errors import InputError
from loaders.panel import Panel


@dataclass
class Verification:
    """A comparison under way."""

    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def raise_if_failed(self) -> None:
        """Raise what was found, and nothing otherwise; costs nothing."""
        if self.error is not None:
            raise self.error

    def wait(self) -> None:
        """Wait for every chunk, then as `raise_if_failed`."""
        self.done.wait()
        self.raise_if_failed()


@contextmanager
def verifying(panel: Panel) -> Iterator[Verification]:
    """Begin to compare; the thread has ended when the `with` ends.

    What it raises is an InputError naming the first chunk (its number and byte range) that differs.
    """
    verification = Verification()

    def compare() -> None:
        try:
            for file in panel.files:
                manifest = read_manifest(file.path.parent)
                size = manifest.chunk_bytes
                with memoryview(file.mapping) as rows:
                    for i, expected in enumerate(manifest.checksums):
                        if verification.stop.is_set():
                            return
                        with rows[i * size : (i + 1) * size] as chunk:
                            if checksum_of(chunk) != expected:
                                what = f"checksum differs in {chunk_name(i, size)}"
                                raise InputError(str(file.path), what, "Restore or rebuild the cache, then resume")
        except BaseException as error:  # re-raised by whoever asks
            verification.error = error
        finally:
            verification.done.set()

    thread = threading.Thread(target=compare, name="verify", daemon=True)
    thread.start()
    try:
        yield verification
    finally:
        verification.stop.set()
        thread.join()
