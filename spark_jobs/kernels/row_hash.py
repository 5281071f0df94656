"""Spark's xxhash64 of whole columns: the hash of each row is chained from column to column.

Source: Collet, XXH64 (its single-word path), as Spark's `xxhash64` function applies it to ints, longs and arrays of them.
"""

import numpy as np

from conf.compiled import I32, I64, U64, compiled

SEED = 42  # Spark's

_P1, _P2 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F)
_P3, _P4, _P5 = np.uint64(0x165667B19E3779F9), np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)


@compiled
def _finish(h: np.uint64) -> np.uint64:
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@compiled
def _int(value: np.int64, h: np.uint64) -> np.uint64:
    h = (h + _P5 + np.uint64(4)) ^ ((np.uint64(value) & np.uint64(0xFFFFFFFF)) * _P1)
    return _finish(((h << np.uint64(23)) | (h >> np.uint64(41))) * _P2 + _P3)


@compiled
def _long(value: np.int64, h: np.uint64) -> np.uint64:
    word = np.uint64(value) * _P2
    h = (h + _P5 + np.uint64(8)) ^ (((word << np.uint64(31)) | (word >> np.uint64(33))) * _P1)
    return _finish(((h << np.uint64(27)) | (h >> np.uint64(37))) * _P1 + _P4)


@compiled
def hash_ints(values: I32, hashes: U64) -> None:
    """Chain int8, int16, int32 or bool values[n] onto hashes[n], in place; float32 as the int32 of its bits."""
    for n in range(len(values)):
        hashes[n] = _int(np.int64(values[n]), hashes[n])


@compiled
def hash_longs(values: I64, hashes: U64) -> None:
    """Chain int64 values[n] onto hashes[n], in place."""
    for n in range(len(values)):
        hashes[n] = _long(values[n], hashes[n])


@compiled
def hash_int_lists(values: I32, offsets: I32, hashes: U64) -> None:
    """Chain values[offsets[n]:offsets[n + 1]] onto hashes[n], one after the other, in place; float32 as the int32 of its bits."""
    for n in range(len(hashes)):
        h = hashes[n]
        for at in range(offsets[n], offsets[n + 1]):
            h = _int(np.int64(values[at]), h)
        hashes[n] = h


@compiled
def hash_long_lists(values: I64, offsets: I32, hashes: U64) -> None:
    """Chain int64 values[offsets[n]:offsets[n + 1]] onto hashes[n], one after the other, in place."""
    for n in range(len(hashes)):
        h = hashes[n]
        for at in range(offsets[n], offsets[n + 1]):
            h = _long(values[at], h)
        hashes[n] = h
