"""The counter-based random numbers of `conf.draws`, bit for bit, a word at a time."""

import numpy as np

from conf.compiled import compiled

_GOLDEN, _M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@compiled
def mix(x: np.uint64, word: int) -> np.uint64:
    """One step of the chain of conf.draws."""
    z = (x ^ (np.uint64(word) * _GOLDEN)) + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    return z ^ (z >> np.uint64(31))
