"""Blocks of a user's events: runs of events to train on, with what stands before them."""

import numpy as np

from conf.compiled import F32, I16, I32, I64, compiled


@compiled
def cut_blocks(rows: I64, position: I32, size: int) -> tuple[I64, I16]:
    """(int64[b] place of the first target of each block, int16[b] how many targets it has, 1 to `size`).

    rows: places of the targets, ascending; position: of every place, how many of the same user stand before it. A block ends where it is
    full, where the user changes, and where the next event is no target.
    """
    first, count = np.empty(len(rows), np.int64), np.empty(len(rows), np.int16)
    num = 0
    for n in range(len(rows)):
        follows = n > 0 and rows[n] == rows[n - 1] + 1 and position[rows[n]] > 0
        if follows and count[num - 1] < size:
            count[num - 1] += 1
        else:
            first[num], count[num] = rows[n], 1
            num += 1
    return first[:num], count[:num]


@compiled
def block_items(item: I32, first: I64, count: I16, context: I16, length: int) -> I32:
    """int32[b * length]: of each block `context` items before its first target and `count` from there on, 0 at the end."""
    items = np.zeros(len(first) * length, np.int32)
    for n in range(len(first)):
        start = first[n] - context[n]
        for at in range(context[n] + count[n]):
            items[n * length + at] = item[start + at]
    return items


@compiled
def block_times(ts: I64, first: I64, count: I16, length: int) -> I64:
    """int64[b * length]: of each block `count` times from its first target on, 0 at the end."""
    times = np.zeros(len(first) * length, np.int64)
    for n in range(len(first)):
        for at in range(count[n]):
            times[n * length + at] = ts[first[n] + at]
    return times


@compiled
def block_weights(weight: F32, first: I64, count: I16, length: int) -> F32:
    """float32[b * length]: of each block `count` weights from its first target on, 0 at the end."""
    weights = np.zeros(len(first) * length, np.float32)
    for n in range(len(first)):
        for at in range(count[n]):
            weights[n * length + at] = weight[first[n] + at]
    return weights
