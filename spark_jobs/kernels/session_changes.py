"""Which sessions of two days are the same, in one pass over both."""

import numpy as np

from conf.compiled import I32, I64, Flags, compiled


@compiled
def in_both(
    user: I32, start: I64, items: I32, offsets: I64, old_user: I32, old_start: I64, old_items: I32, old_offsets: I64
) -> tuple[Flags, Flags]:
    """Of each session of one day, and of the other, whether it has its twin there: of equal user, start and items, in order.

    Session s holds items[offsets[s]:offsets[s + 1]]. A session is the twin of one other at most, so that what has none is the whole
    difference, whatever the order of the sessions; sorted by user and start, it is small.
    """
    same, old_same = np.zeros(len(user), np.bool_), np.zeros(len(old_user), np.bool_)
    a, b = 0, 0
    while a < len(user) and b < len(old_user):
        if user[a] < old_user[b] or (user[a] == old_user[b] and start[a] < old_start[b]):
            a += 1
        elif user[a] > old_user[b] or start[a] > old_start[b]:
            b += 1
        else:
            first, old_first, size = offsets[a], old_offsets[b], offsets[a + 1] - offsets[a]
            equal = size == old_offsets[b + 1] - old_first
            n = np.int64(0)
            while equal and n < size:
                equal = items[first + n] == old_items[old_first + n]
                n += 1
            same[a] = old_same[b] = equal
            a += 1
            b += 1
    return same, old_same
