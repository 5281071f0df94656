"""The distinct items of sessions, in baskets of a bounded size."""

import numpy as np

from conf.compiled import I32, I64, compiled


@compiled
def baskets(items: I32, offsets: I32, num_items: int, max_items: int, block: int, blocks: int) -> tuple[I32, I32, I64, I64]:
    """(item, times, ends, counts) of the distinct items of sessions, in order of first click, cut into baskets of max_items.

    Kept are baskets of two or more items of which one is of the block: item % blocks == block. times: clicks of the item in its whole
    session. ends: where each kept basket ends. counts: sessions cut, pairs lost between their baskets, both of all sessions.
    """
    item, times = np.empty(len(items), np.int32), np.empty(len(items), np.int32)
    ends, num_ends, counts = np.empty(len(items) // 2 + 1, np.int64), 0, np.zeros(2, np.int64)
    seen_in, place = np.full(num_items + 1, -1, np.int32), np.empty(num_items + 1, np.int64)
    kept = 0
    for s in range(len(offsets) - 1):
        n = kept
        for p in range(offsets[s], offsets[s + 1]):
            i = items[p]
            if seen_in[i] == s:
                times[place[i]] += 1
            else:
                seen_in[i], place[i] = s, n
                item[n], times[n] = i, 1
                n += 1
        distinct, within = n - kept, np.int64(0)
        at = kept
        while at < n:
            end = min(at + max_items, n)
            within += (end - at) * (end - at - 1) // 2
            wanted = False
            for p in range(at, end):
                wanted |= item[p] % blocks == block
            if wanted and end - at > 1:
                for p in range(at, end):
                    item[kept], times[kept] = item[p], times[p]
                    kept += 1
                ends[num_ends] = kept
                num_ends += 1
            at = end
        counts[0] += distinct > max_items
        counts[1] += distinct * (distinct - 1) // 2 - within
    return item[:kept].copy(), times[:kept].copy(), ends[:num_ends].copy(), counts
