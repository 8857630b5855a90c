"""How the loops of this folder are compiled, and when what was compiled is used again."""

from pathlib import Path

from numba import njit

# Sums may be reordered and products fused, so that loops vectorise; NaN and infinities keep their meaning. Division by
# zero gives infinity: a check of every divisor would keep loops from vectorising. No loop holds the GIL.
compiled = njit(nogil=True, cache=True, fastmath={"reassoc", "contract"}, error_model="numpy")


def drop_stale(folder: Path) -> None:
    """Remove what numba has stored for the functions of a folder, where a source there is newer.

    Numba asks whether the file of a function has changed, not whether one has that the function calls into. Compiling
    anew takes 15 seconds; an old function beside new ones would compute something else.
    """
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in folder.glob("__pycache__/*.nbi"):
        if index.stat().st_mtime < newest:
            index.unlink(missing_ok=True)


drop_stale(Path(__file__).parent)
