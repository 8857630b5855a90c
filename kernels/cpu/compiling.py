"""How the loops of this folder are compiled, and when compiled code on disk is reused."""

from contextlib import suppress
from pathlib import Path

from numba import njit
from numba.core.config import CACHE_DIR  # type: ignore[attr-defined]

# Sums may be reordered and products fused, so that loops vectorise; NaN and infinities keep their meaning. Division by
# zero gives infinity: a check of every divisor would keep loops from vectorising. No loop holds the GIL. A cache folder
# that the user chose (NUMBA_CACHE_DIR) is not used, since `drop_stale` does not look there.
compiled = njit(nogil=True, cache=not CACHE_DIR, fastmath={"reassoc", "contract"}, error_model="numpy")


def drop_stale(folder: Path) -> None:
    """Remove numba's cached code of a folder's functions where a source of the folder is newer.

    Numba checks whether the file of a function has changed, but not the files of the functions it calls. Without this,
    a cached function would keep an old version of those compiled into it. Compiling anew takes 15 seconds.
    """
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in folder.glob("__pycache__/*.nbi"):
        with suppress(FileNotFoundError):  # another process of ours was first
            if index.stat().st_mtime < newest:
                index.unlink()


drop_stale(Path(__file__).parent)
