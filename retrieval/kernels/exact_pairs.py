"""Exact scores of the rows that a search proposes, as numbers that sort."""

from functools import partial
from typing import Any

import numpy as np

from conf.compiled import F32, I32, I64, U64, compiled

NOTHING = np.uint64(2**64 - 1)  # sorts behind every pair

# The compiler may add up several parts of a product side by side; every pair of vectors gets the same order.
_summing = partial(compiled, fastmath=frozenset({"reassoc", "contract"}))


@_summing
def dot(left: F32, right: F32) -> float:
    """The inner product in float64."""
    total: Any = np.float64(0)
    for d in range(len(left)):
        total += np.float64(left[d]) * np.float64(right[d])
    return float(total)


@compiled
def write_pairs(queries: F32, keys: I64, counts: I64, vectors: F32, ids: I32, first: int, is_unit: bool, pairs: U64) -> None:
    """pairs[q, i] = (id, falling score) of query q and of row keys[q, i] modulo 2^32, where that is one of `vectors`.

    vectors: float32[n, D], rows first .. first + n - 1 of the index; ids: int32[n], theirs. counts: int64[Q], how many keys of each
    query count. A score is rounded to float32, that of unit vectors cut to [-1, 1]; its lower half of the pair falls as it rises.
    """
    one = np.empty(1, dtype=np.float32)
    bits = one.view(np.int32)
    for q in range(len(counts)):
        for i in range(counts[q]):
            row = (keys[q, i] & 0xFFFFFFFF) - first
            if row < 0 or row >= len(vectors):
                continue
            score = dot(queries[q], vectors[row])
            if is_unit:
                score = min(max(score, -1.0), 1.0)
            one[0] = np.float32(score) + np.float32(0)  # turns -0.0 into 0.0
            rising = np.int64(bits[0]) ^ (np.int64(bits[0] >> 31) & 0x7FFFFFFF)
            pairs[q, i] = (np.uint64(ids[row]) << np.uint64(32)) | np.uint64(0x7FFFFFFF - rising)
