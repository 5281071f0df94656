"""Spark's xxhash64 of whole columns: the hash of each row is chained from column to column.

Source: Collet, XXH64, as Spark's `xxhash64` function applies it to ints, longs, strings, and arrays of them.
"""

import numpy as np

from conf.compiled import I32, I64, U8, U64, compiled

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


@compiled
def _left(word: np.uint64, bits: int) -> np.uint64:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))


@compiled
def _word(data: U8, at: int, size: int) -> np.uint64:
    """The number of `size` bytes, the smallest first."""
    word = np.uint64(0)
    for n in range(size):
        word |= np.uint64(data[at + n]) << np.uint64(8 * n)
    return word


@compiled
def _round(state: np.uint64, word: np.uint64) -> np.uint64:
    return _left(state + word * _P2, 31) * _P1


@compiled
def _bytes(data: U8, at: int, stop: int, seed: np.uint64) -> np.uint64:
    length = stop - at
    h = seed + _P5
    if length >= 32:
        one, two, three, four = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
        while at + 32 <= stop:
            one, two = _round(one, _word(data, at, 8)), _round(two, _word(data, at + 8, 8))
            three, four = _round(three, _word(data, at + 16, 8)), _round(four, _word(data, at + 24, 8))
            at += 32
        h = _left(one, 1) + _left(two, 7) + _left(three, 12) + _left(four, 18)
        for state in (one, two, three, four):
            h = (h ^ _round(np.uint64(0), state)) * _P1 + _P4
    h += np.uint64(length)
    while at + 8 <= stop:
        h = _left(h ^ _round(np.uint64(0), _word(data, at, 8)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= stop:
        h = _left(h ^ (_word(data, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    while at < stop:
        h = _left(h ^ (np.uint64(data[at]) * _P5), 11) * _P1
        at += 1
    return _finish(h)


@compiled
def hash_string_lists(data: U8, limits: I32, offsets: I32, hashes: U64) -> None:
    """Chain the strings offsets[n] .. offsets[n + 1] - 1 onto hashes[n], in place; string s is data[limits[s]:limits[s + 1]], UTF-8."""
    for n in range(len(hashes)):
        h = hashes[n]
        for at in range(offsets[n], offsets[n + 1]):
            h = _bytes(data, limits[at], limits[at + 1], h)
        hashes[n] = h


@compiled
def hash_source_lists(data: U8, limits: I32, ranks: I32, scores: I64, offsets: I32, hashes: U64) -> None:
    """The same for structs of a string, an int32 and a float64, that as the int64 of its bits."""
    for n in range(len(hashes)):
        h = hashes[n]
        for at in range(offsets[n], offsets[n + 1]):
            h = _long(scores[at], _int(np.int64(ranks[at]), _bytes(data, limits[at], limits[at + 1], h)))
        hashes[n] = h
