"""How cross-sections are laid out on a GPU: a program for each.

A sort needs a power of two, so a cross-section of N entries takes the next one, and it holds all of them in registers:
8 a thread, 16 from 4,096 on. What follows a sort walks the sorted entries in memory, in tiles. Both were chosen so
that nothing is spilled from registers on sm_80 and sm_90 (python -m kernels.aot).
"""

LONGEST = 8192  # entries of a program that sorts; longer cross-sections take plain torch
SHORTEST = 128
TILE = 1024  # entries of a step of a walk
TILE_WARPS = 8  # of a program that only walks: 4 entries a thread


def block_of(entries: int) -> int:
    """Entries of the program that sorts a cross-section: the next power of two."""
    return max(SHORTEST, 1 << (entries - 1).bit_length())


def warps_of(block: int) -> int:
    """Warps of a program that sorts: 16 entries a thread from 4,096 on, below that 8."""
    return max(1, block // (512 if block >= 4096 else 256))


def tile_of(block: int) -> int:
    """Entries of a step of a walk in a program that sorts: 4 a thread."""
    return min(block // 2, TILE)
