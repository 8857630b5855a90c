"""Random order that is ours: a counter-based generator whose values are fixed for ever (golden-tested).

NumPy and torch promise no stability of their streams between versions, so the order of an epoch is drawn here: value
number i of a stream is a pure function of (key, i), and a key is a pure function of the integers it was mixed from.
The mixing function is splitmix64's finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators").
"""

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _finalise(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_bits(key: int, n: int) -> npt.NDArray[np.uint64]:
    """The first `n` values, uint64 [n], of the stream named by `key`."""
    counter = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _finalise(np.uint64(key & _MASK) + counter)


def mix(*parts: int) -> int:
    """A key (64 bits) from integers, such as seed, epoch and the first day of a range; order matters."""
    key = 0
    for part in parts:
        key = int(random_bits(key ^ (part & _MASK), 1)[0])
    return key


def signed(key: int) -> int:
    """A key as an int64 of the same bits, as tensors hold it."""
    return key - (1 << 64) if key >> 63 else key


def permutation(key: int, n: int) -> npt.NDArray[np.int64]:
    """A random permutation of 0..n-1, int64 [n]: the order that sorts the stream's first n values."""
    return np.argsort(random_bits(key, n), kind="stable").astype(np.int64)


def below(key: int, n: int) -> int:
    """A random integer in 0..n-1 (n >= 1; the bias of the remainder is under n / 2^64)."""
    return int(random_bits(key, 1)[0]) % n
