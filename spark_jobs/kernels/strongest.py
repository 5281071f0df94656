"""The strongest of the items that one item met: what stays of its row, and what it weighs."""

from typing import NamedTuple

import numpy as np

from conf.compiled import F32, I32, I64, U64, Flags, compiled


class Keeps(NamedTuple):
    """Pairs that met min_count times; of each item the `top` of largest weight = count * (1 + beta * same), ties by smaller item.

    category[category_starts[i]:category_starts[i + 1]]: what is known of item i; same = two items share a value.
    drop_other: without pairs of which both are known and share none.
    """

    category_starts: I64
    category: I32
    beta: float
    drop_other: bool
    min_count: int
    top: int


class Rows(NamedTuple):
    """Room for the rows that stay."""

    item_i: I32
    item_j: I32
    times: I64
    same: Flags
    weight: F32


@compiled
def _shared(left: I32, right: I32) -> bool:
    for a in left:
        for b in right:
            if a == b:
                return True
    return False


@compiled
def _largest(keys: U64, top: int) -> None:
    """Move the `top` largest keys to the front, in no order."""
    low, high = 0, len(keys) - 1
    while low < high:
        pivot = keys[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if top - 1 <= j:
            high = j
        elif top - 1 >= i:
            low = i
        else:
            return


@compiled
def keep_strongest(i: int, found: I32, met: I64, keeps: Keeps, keys: U64, weights: F32, rows: Rows, at: int, counts: I64) -> int:
    """Write what stays of the row of item i from place `at` on, strongest first; the place behind it.

    found: what i met, each once, met[j] times; it may itself be among them, and what it met no times. keys, weights: to work in.
    Adds to counts, of pairs with i < j: different ones, meetings, below min_count, of two known categories that differ and so dropped;
    items with pairs that stay; their rows beyond the top.
    """
    bits, kept, pairs, meetings, rare, other = weights.view(np.uint32), 0, 0, 0, 0, 0
    own = keeps.category[keeps.category_starts[i] : keeps.category_starts[i + 1]]
    for j in found:
        times = met[j]
        if j == i or times == 0:
            continue
        if j > i:
            pairs += 1
            meetings += times
            rare += times < keeps.min_count
        if times < keeps.min_count:
            continue
        shared = False
        if len(own):  # else nothing is shared: where those of j stand is far away
            theirs = keeps.category[keeps.category_starts[j] : keeps.category_starts[j + 1]]
            shared = _shared(own, theirs)
            if keeps.drop_other and not shared and len(theirs):
                other += j > i
                continue
        weights[0] = times * (1 + keeps.beta * shared)
        # Positive floats sort as their bits do; the smaller of two equal ones comes first.
        keys[kept] = (np.uint64(bits[0]) << np.uint64(32)) | np.uint64(0xFFFFFFFF - j)
        kept += 1
    counts[0] += pairs
    counts[1] += meetings
    counts[2] += rare
    counts[3] += other
    counts[4] += kept > 0
    counts[5] += max(kept - keeps.top, 0)
    if kept > keeps.top:
        _largest(keys[:kept], keeps.top)
        kept = keeps.top
    ordered = np.sort(keys[:kept])
    for n in range(kept):
        j = np.int64(0xFFFFFFFF) - np.int64(ordered[kept - 1 - n] & np.uint64(0xFFFFFFFF))
        bits[0] = np.uint32(ordered[kept - 1 - n] >> np.uint64(32))
        rows.item_i[at], rows.item_j[at], rows.times[at], rows.weight[at] = i, j, met[j], weights[0]
        rows.same[at] = len(own) > 0 and _shared(own, keeps.category[keeps.category_starts[j] : keeps.category_starts[j + 1]])
        at += 1
    return at
