"""How cross-sections map to programs of a GPU: one program each.

A sort needs a power of two, so a cross-section of N entries is padded to the next one, and the program holds all of
them in registers: 8 a thread, 16 from 4,096 on. Loops after the sort go over the sorted entries in memory, in tiles no
longer than the cross-section needs, of 4 entries a thread. These numbers were chosen so that no register is spilled on
sm_80 and sm_90 (python -m kernels.aot). Without a bound on registers the assembler may spill some to have more programs
active, and does where tiles are short.
"""

LONGEST = 8192  # entries of a program that sorts; longer cross-sections take plain torch
SHORTEST = 128  # entries that a program sorts at least, padded
TILE = 1024  # entries at most
SHORTEST_TILE = 64
REGISTERS = 128  # of a thread at most: 16 warps of them fill a multiprocessor


def sort_options(entries: int) -> dict[str, int | None]:
    """Constants, warps and most registers of a program that sorts a cross-section."""
    block = max(SHORTEST, 1 << (entries - 1).bit_length())
    warps = max(1, block // (512 if block >= 4096 else 256))
    return {"BLOCK": block, "TILE": min(block // 2, TILE), "num_warps": warps, "maxnreg": REGISTERS}


def tile_options(entries: int) -> dict[str, int | None]:
    """Constants, warps and most registers of a program that only goes over tiles."""
    tile = min(max(SHORTEST_TILE, 1 << (entries - 1).bit_length()), TILE)
    return {"TILE": tile, "num_warps": max(1, tile // 128), "maxnreg": REGISTERS if tile < TILE else None}
