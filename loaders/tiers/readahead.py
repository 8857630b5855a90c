"""Read the rows of coming blocks from disk before they are gathered, for caches that memory does not hold.

A gather that meets a row which is not in memory waits for the disk, one page after another. The plan knows which runs
come next, so the kernel is advised of exactly these (madvise WILLNEED) and reads them at once, behind the computation.
Where every row is in memory already, advice costs a system call per run and gains nothing, so that is checked first.

S codes, D scored days, L context, T = D + L - 1 days read
"""

import ctypes
import mmap
from typing import Any

import numpy as np
from numba import types

from kernels.jit.compile import jit
from loaders.panel import Int, Panel
from loaders.plan import Block
from loaders.tiers.cores import available_memory

PROBES = 64  # pages that are looked at
WARM = 0.99  # share of them in memory from which a cache counts as being in memory
WILLNEED = 3

_libc = ctypes.CDLL(None, use_errno=True)
# By name and not by ctypes, whose addresses are another process's too: so the compiled loop can be kept on disk.
_madvise: Any = types.ExternalFunction("madvise", types.int32(types.uintp, types.uintp, types.int32))
_mincore = _libc.mincore
_mincore.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
_mincore.restype = ctypes.c_int


def share_in_memory(panel: Panel, probes: int = PROBES) -> float:
    """Share of the features' pages that are in memory, from that many of them; 1 where the system does not tell."""
    seen = asked = 0
    state = ctypes.c_ubyte()
    for columns in panel.batches:
        start = columns.features.ctypes.data // mmap.PAGESIZE
        pages = -(-columns.features.nbytes // mmap.PAGESIZE)
        for page in np.unique(np.linspace(0, pages - 1, min(probes, pages)).astype(np.int64)):
            if _mincore((start + int(page)) * mmap.PAGESIZE, mmap.PAGESIZE, ctypes.addressof(state)) == 0:
                asked, seen = asked + 1, seen + (state.value & 1)
    return seen / asked if asked else 1.0


def read_ahead(panel: Panel) -> tuple[bool, str]:
    """Whether rows should be read ahead, and why."""
    free = available_memory()
    if panel.nbytes > free:
        return True, f"{panel.nbytes / 1e9:.1f} GB of rows, {free / 1e9:.1f} GB of memory available"
    share = share_in_memory(panel)
    return share < WARM, f"{share:.0%} of the rows in memory"


def advise(panel: Panel, block: Block, days: int, context: int) -> None:
    """Ask the kernel to read a block's features, and return at once."""
    begin = block.day - context + 1
    low = np.clip(begin - panel.first[block.codes], 0, panel.days[block.codes])
    high = np.clip(block.day + days - panel.first[block.codes], 0, panel.days[block.codes])
    row_bytes = len(panel.manifest.features) * np.dtype(panel.manifest.dtype).itemsize
    start = panel.address[0, block.codes] + low * row_bytes
    _advise(start, (high - low) * row_bytes, mmap.PAGESIZE)


def advise_rows(panel: Panel, rows: Int) -> None:
    """Ask the kernel to read the features of rows, ascending, and return at once."""
    row_bytes = len(panel.manifest.features) * np.dtype(panel.manifest.dtype).itemsize
    code = panel.code_of(rows)
    begins = np.flatnonzero((np.diff(rows, prepend=-2) != 1) | (np.diff(code, prepend=-1) != 0))
    lengths = np.diff(np.append(begins, len(rows)))
    start = panel.address[0, code[begins]] + (rows[begins] - panel.offset[code[begins]]) * row_bytes
    _advise(start, lengths * row_bytes, mmap.PAGESIZE)


@jit(nogil=True)
def _advise(start, nbytes, page):  # type: ignore[no-untyped-def]
    for i in range(len(start)):
        if nbytes[i] > 0:
            first = start[i] // page * page
            _madvise(first, start[i] + nbytes[i] - first, WILLNEED)
