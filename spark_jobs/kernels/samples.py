"""The windows and masks of training samples, a row at a time; the masks are those of `conf.masks`, bit for bit."""

import numpy as np

from conf.compiled import I16, I32, I64, compiled
from spark_jobs.kernels.draws import mix


@compiled
def _u01(x: np.uint64) -> np.float64:
    return np.float64(x >> np.uint64(11)) * np.float64(2.0**-53)


@compiled
def positions_in_user(user: I32) -> I32:
    """0, 1, ... within each run of equal users."""
    position = np.zeros(len(user), np.int32)
    for n in range(1, len(user)):
        if user[n] == user[n - 1]:
            position[n] = position[n - 1] + 1
    return position


@compiled
def windows(item: I32, rows: I64, spot: I32, position: I32, length: int) -> tuple[I32, I16]:
    """(int32[n * length] the items before each row within its user, oldest first, 0 at the end; int16[n] how many).

    rows: places in `item`; spot: where each row goes among the n; position: of every place, how many of the same user stand before it.
    """
    hist, hist_len = np.zeros((len(rows), length), np.int32), np.empty(len(rows), np.int16)
    for n in range(len(rows)):
        p, to = rows[n], spot[n]
        size = min(length, position[p])
        hist_len[to] = size
        # From 0 on in both: a place that might be negative is looked at anew for each element, at three times the cost.
        row, before = hist[to], item[p - size : p]
        for at in range(size):
            row[at] = before[at]
    return hist.reshape(-1), hist_len


@compiled
def field_masks(sample_id: I64, num_fields: int, p: float, seed: int, draw: int, what: int) -> I64:
    """`conf.masks.field_mask`."""
    masks = np.zeros(len(sample_id), np.int64)
    if num_fields < 2:
        return masks
    for n in range(len(sample_id)):
        x = mix(mix(mix(np.uint64(seed), sample_id[n]), draw), what)
        mask, smallest, largest, low, high = 0, 0, 0, np.float64(2.0), np.float64(-1.0)
        for bit in range(num_fields):
            u = _u01(mix(x, bit))
            if u < p:
                mask |= 1 << bit
            if u < low:
                low, smallest = u, bit
            if u > high:
                high, largest = u, bit
        if mask == 0:
            mask = 1 << smallest
        elif mask == (1 << num_fields) - 1:
            mask ^= 1 << largest
        masks[n] = mask
    return masks


@compiled
def half_masks(sample_id: I64, num_fields: int, seed: int, draw: int, what: int) -> I64:
    """`conf.masks.half_mask`."""
    masks, u = np.zeros(len(sample_id), np.int64), np.empty(num_fields, np.float64)
    for n in range(len(sample_id)):
        x = mix(mix(mix(np.uint64(seed), sample_id[n]), draw), what)
        for bit in range(num_fields):
            u[bit] = _u01(mix(x, bit))
        mask = 0
        for bit in range(num_fields):
            before = 0
            for other in range(num_fields):
                if u[other] < u[bit] or (u[other] == u[bit] and other < bit):
                    before += 1
            if before < num_fields // 2:
                mask |= 1 << bit
        masks[n] = mask
    return masks


@compiled
def pattern_masks(sample_id: I64, patterns: I64, seed: int, draw: int, what: int) -> I64:
    """`conf.masks.pattern_mask`."""
    masks = np.zeros(len(sample_id), np.int64)
    for n in range(len(sample_id)):
        u = _u01(mix(mix(mix(np.uint64(seed), sample_id[n]), draw), what))
        place = np.int64(u * len(patterns))
        masks[n] = patterns[place if place < len(patterns) else len(patterns) - 1]
    return masks


@compiled
def history_masks(sample_id: I64, hist_len: I16, p: float, seed: int, draw: int, what: int) -> I64:
    """`conf.masks.history_mask`."""
    masks = np.zeros(len(sample_id), np.int64)
    for n in range(len(sample_id)):
        x = mix(mix(mix(np.uint64(seed), sample_id[n]), draw), what)
        mask = 0
        for bit in range(hist_len[n] - 1):
            if _u01(mix(x, bit)) < p:
                mask |= 1 << bit
        masks[n] = mask
    return masks


@compiled
def permutation(num: int, seed: int) -> I64:
    """int64[num], a permutation of 0..num-1 (Fisher and Yates)."""
    order = np.arange(num)
    for n in range(num - 1, 0, -1):
        other = np.int64(_u01(mix(np.uint64(seed), n)) * (n + 1))
        order[n], order[other] = order[other], order[n]
    return order


@compiled
def dealt(order: I64, hand: int) -> tuple[I64, I32]:
    """(int64[n], int32[n]): `order`, a permutation, with each `hand` of its numbers put in ascending order; where in the hand each stood.

    Who gathers by the first and puts away by the second gets the rows of `order`, but reads forwards through what does not fit a cache.
    """
    place = np.empty(len(order), np.int64)
    for n in range(len(order)):
        place[order[n]] = n
    at = np.arange(0, len(order), hand)
    ascending, spot = np.empty(len(order), np.int64), np.empty(len(order), np.int32)
    for number in range(len(order)):
        held = place[number] // hand
        ascending[at[held]], spot[at[held]] = number, place[number] - held * hand
        at[held] += 1
    return ascending, spot
