"""Counter-based random numbers: a pure function of (seed, words), the same in Spark, numpy and the trainer, whatever the partitioning.

splitmix64 chain: x = seed; for each word w: x = mix(x ^ w * GOLDEN); the result is mapped to [0, 1) with 53 bits.
Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (the mixing function).
"""

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


def mix(z: U64) -> U64:
    """splitmix64's output function on uint64[...]; wraps modulo 2^64."""
    with np.errstate(over="ignore"):
        z = z + _GOLDEN
        z = (z ^ (z >> _S30)) * _M1
        z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


def words64(seed: int, *words: npt.ArrayLike) -> U64:
    """uint64 of the broadcast shape of `words` (integers, taken modulo 2^64)."""
    x = np.asarray(seed % 2**64, dtype=np.uint64)
    for word in words:
        w = np.asarray(word)
        w = w.astype(np.uint64) if w.dtype.kind in "iu" else np.asarray(int(w) % 2**64, dtype=np.uint64)
        with np.errstate(over="ignore"):
            x = mix(x ^ (w * _GOLDEN))
    return x


def u01(seed: int, *words: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """float64 in [0, 1) of the broadcast shape of `words`."""
    return (words64(seed, *words) >> _S11).astype(np.float64) * 2.0**-53


def below(bound: int, seed: int, *words: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """int64 in [0, bound) of the broadcast shape of `words`; bound in 1..2^53."""
    return np.minimum((u01(seed, *words) * bound).astype(np.int64), bound - 1)


def permutation(num: int, seed: int, *words: int) -> npt.NDArray[np.int64]:
    """int64[num], a permutation of 0..num-1."""
    return np.argsort(words64(seed, *words, np.arange(num, dtype=np.int64)), kind="stable").astype(np.int64)


def shuffle(num: int, seed: int) -> npt.NDArray[np.int64]:
    """int64[num], a permutation of 0..num-1 by Fisher and Yates: that of `samples` in its files, without a compiler (0.2 s a million)."""
    order, places = list(range(num)), np.arange(num, dtype=np.int64)
    others = (u01(seed, places) * (places + 1)).astype(np.int64).tolist()
    for n in range(num - 1, 0, -1):
        other = others[n]
        order[n], order[other] = order[other], order[n]
    return np.array(order, dtype=np.int64)


def seed_of(name: str) -> int:
    """A 63-bit seed from a name, the same in every process (Python's own hash is not)."""
    import hashlib

    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
