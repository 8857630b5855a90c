"""Compare the rows of an open panel with their checksums while it is in use.

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
class Check:
    """A comparison under way."""

    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def so_far(self) -> None:
        """Raise what was found, and nothing otherwise; costs nothing."""
        if self.error is not None:
            raise self.error

    def to_the_end(self) -> None:
        """Wait for every chunk, then as `so_far`."""
        self.done.wait()
        self.so_far()


@contextmanager
def checked(panel: Panel) -> Iterator[Check]:
    """Begin to compare; the thread has ended when the `with` ends.

    What the check raises is an InputError naming the first chunk (its number and byte range) that differs.
    """
    check = Check()

    def compare() -> None:
        try:
            for (path, _), columns in zip(panel.files, panel.shards, strict=True):
                manifest = read_manifest(path.parent)
                size = manifest.chunk_bytes
                with memoryview(columns.mapping) as rows:
                    for i, expected in enumerate(manifest.checksums):
                        if check.stop.is_set():
                            return
                        with rows[i * size : (i + 1) * size] as chunk:
                            if checksum_of(chunk) != expected:
                                what = f"checksum differs in {chunk_name(i, size)}"
                                raise InputError(str(path), what, "Restore or rebuild the cache, then resume")
        except BaseException as error:  # re-raised by whoever asks
            check.error = error
        finally:
            check.done.set()

    thread = threading.Thread(target=compare, name="check", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        check.stop.set()
        thread.join()
