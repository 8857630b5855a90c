"""How a cross-section is laid out on a GPU: one program holds all of it, in registers.

A sort needs a power of two, so a cross-section of N entries takes the next one; each thread holds 8 of them at most.
"""

LONGEST = 8192  # entries of a program: 1,024 threads, the most of a block, with 8 each; longer ones take plain torch
SHORTEST = 128


def block_of(entries: int) -> int:
    """Entries of the program for a cross-section of that many: the next power of two."""
    return max(SHORTEST, 1 << (entries - 1).bit_length())


def warps_of(block: int) -> int:
    """Warps of such a program: 8 entries a thread, from 1 to 32 warps."""
    return max(1, min(32, block // 256))
