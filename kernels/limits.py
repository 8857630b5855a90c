"""How cross-sections map to programs of a GPU: one program each.

A sort needs a power of two, so a cross-section of N entries is padded to the next one, and the program holds all of
them in registers: 8 a thread, 16 from 4,096 on. Loops after the sort go over the sorted entries in memory, in tiles of
4 entries a thread. These numbers were chosen so that no register is spilled on sm_80 and sm_90 (python -m kernels.aot).
"""

LONGEST = 8192  # entries of a program that sorts; longer cross-sections take plain torch
SHORTEST = 128
TILE = 1024
TILE_WARPS = 8  # of a program that does not sort


def sort_options(entries: int) -> dict[str, int]:
    """Constants and warps of a program that sorts a cross-section."""
    block = max(SHORTEST, 1 << (entries - 1).bit_length())
    warps = max(1, block // (512 if block >= 4096 else 256))
    return {"BLOCK": block, "TILE": min(block // 2, TILE), "num_warps": warps}


def tile_options() -> dict[str, int]:
    """Constants and warps of a program that only goes over tiles, for any number of entries."""
    return {"TILE": TILE, "num_warps": TILE_WARPS}
