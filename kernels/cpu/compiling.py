"""How the loops of this folder are compiled, and when what was compiled is used again."""

from contextlib import suppress
from pathlib import Path

from numba import njit
from numba.core.config import CACHE_DIR  # type: ignore[attr-defined]

# Sums may be reordered and products fused, so that loops vectorise; NaN and infinities keep their meaning. Division by
# zero gives infinity: a check of every divisor would keep loops from vectorising. No loop holds the GIL. Nothing is
# stored in a folder of the user's choice, where `drop_stale` does not look.
compiled = njit(nogil=True, cache=not CACHE_DIR, fastmath={"reassoc", "contract"}, error_model="numpy")


def drop_stale(folder: Path) -> None:
    """Remove what numba has stored for the functions of a folder, where a source there is newer.

    Numba asks whether the file of a function has changed, not whether one has that the function calls into. Compiling
    anew takes 15 seconds; an old function beside new ones would compute something else.
    """
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in folder.glob("__pycache__/*.nbi"):
        with suppress(FileNotFoundError):  # another process of ours was first
            if index.stat().st_mtime < newest:
                index.unlink()


drop_stale(Path(__file__).parent)
