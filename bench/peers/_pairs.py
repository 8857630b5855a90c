"""What rivals that write out all pairs of a cross-section share: the memory that this takes."""

from dataclasses import replace

from bench.peers import Unable
from bench.sections import Ranking

MOST = 8e9  # bytes of a pass


def all_at_once(work: Ranking, arrays: int) -> Ranking:
    """The same without masks.

    Args:
        arrays: of float32 [G, N, N] that exist at the same time.

    Raises Unable where they take more than MOST bytes: going through the cross-sections one by one would be another
    rival.
    """
    nbytes = 4 * arrays * work.groups * work.names**2
    if nbytes > MOST:
        raise Unable(
            f"all pairs of {work.groups} x {work.names} take {nbytes / 1e9:.1f} GB, more than {MOST / 1e9:.0f}"
        )
    return replace(work, masked=False)
