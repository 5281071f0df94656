"""How often the items of one block met every other item, without ever making a pair.

For each item in turn the sessions that hold it are walked and what they hold is counted in one dense array. The work is the sum of
the sizes of those sessions; the memory is that of the sessions, of one array over all items, and of the rows that are kept.
"""

import numpy as np

from spark_jobs.kernels.compiled import F32, I32, I64, U64, Flags, compiled


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


@compiled
def sessions_of(item: I32, ends: I64, num_items: int, block: int, blocks: int) -> tuple[I64, I32, I64]:
    """(starts, sessions, places) of the clicks on the block's items: those on k * blocks + block are starts[k]..starts[k + 1].

    ends: where each session, or basket, ends in `item`.
    """
    starts = np.zeros(num_items // blocks + 2, np.int64)
    for i in item:
        if i % blocks == block:
            starts[i // blocks + 1] += 1
    starts = np.cumsum(starts)
    sessions, places, filled = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int64), starts.copy()
    s = 0
    for p in range(len(item)):
        while ends[s] == p:
            s += 1
        i = item[p]
        if i % blocks == block:
            sessions[filled[i // blocks]], places[filled[i // blocks]] = s, p
            filled[i // blocks] += 1
    return starts, sessions, places


@compiled
def _met_in_baskets(sessions: I32, item: I32, ends: I64, met: I64, found: I32) -> int:
    """Add to met[j] in how many of these baskets j stands; the number of different j, which `found` lists."""
    num = 0
    for s in sessions:
        for q in range(ends[s - 1] if s > 0 else 0, ends[s]):
            j = item[q]
            if met[j] == 0:
                found[num] = j
                num += 1
            met[j] += 1
    return num


@compiled
def _met_often(sessions: I32, places: I64, item: I32, times: I32, ends: I64, met: I64, found: I32) -> int:
    """As `_met_in_baskets`, with the product of the clicks on both: one of the item at these places, the other of j."""
    num = 0
    for at in range(len(sessions)):
        s = sessions[at]
        for q in range(ends[s - 1] if s > 0 else 0, ends[s]):
            j = item[q]
            if met[j] == 0:
                found[num] = j
                num += 1
            met[j] += np.int64(times[places[at]]) * times[q]
    return num


@compiled
def _met_nearby(
    sessions: I32, places: I64, item: I32, chunk: I32, ts: I64, ends: I64, window: int, max_dt_s: int, multiset: bool,
    met: I64, found: I32, last_in: I64, clock: int,
) -> int:  # fmt: skip
    """The same for clicks of one chunk of a session, at most `window` places and max_dt_s apart; once a session unless multiset.

    last_in[j]: by `clock`, the session in which j was met last; larger than clock - len(sessions) only if it was here.
    """
    num, own = 0, item[places[0]] if len(places) else 0
    for at in range(len(sessions)):
        s, p = sessions[at], places[at]
        stamp = clock + s
        start, end = ends[s - 1] if s > 0 else 0, ends[s]
        for step in (-1, 1):
            q = p + step
            while start <= q < end and abs(q - p) <= window and abs(ts[q] - ts[p]) <= max_dt_s:
                j = item[q]
                if j != own and chunk[q] == chunk[p] and (multiset or last_in[j] != stamp):
                    last_in[j] = stamp
                    if met[j] == 0:
                        found[num] = j
                        num += 1
                    met[j] += 1
                q += step
    return num


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
def count_block(
    item: I32, times: I32, ends: I64, ts: I64, num_items: int, block: int, blocks: int,
    counting: int, window: int, max_dt_s: int,
    category_starts: I64, category: I32, beta: float, drop_other: bool, min_count: int, top: int,
) -> tuple[I32, I32, I64, Flags, F32, I64]:  # fmt: skip
    """(item_i, item_j, count, same_category, weight, counts): the strongest pairs of each item of the block.

    item, times, ends: baskets (counting 0: in how many both stand; 1: the product of their times), or clicks of whole sessions
    (2: sessions in which they come near; 3: how often they do), where `times` is the chunk of its session that a click belongs to.
    category[category_starts[i]:category_starts[i + 1]]: what is known of item i; same = one is shared. weight = count * (1 + beta * same).
    Of each item_i the `top` pairs of largest weight, ties by smaller item_j; rows by item_i, then in that order.
    counts: pairs with item_i < item_j: different ones, meetings, below min_count, of two known categories that differ and so dropped;
    items with pairs that stay; their rows beyond the top.
    """
    starts, sessions, places = sessions_of(item, ends, num_items, block, blocks)
    room = np.int64(0)
    for k in range(len(starts) - 1):
        others = np.int64(0)
        for s in sessions[starts[k] : starts[k + 1]]:
            others += ends[s] - (ends[s - 1] if s > 0 else 0)
            if others >= top:
                break
        room += min(int(others), top, num_items)
    item_i, item_j, count = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int64)
    same, weight, counts = np.empty(room, np.bool_), np.empty(room, np.float32), np.zeros(6, np.int64)
    met, found = np.zeros(num_items + 1, np.int64), np.empty(num_items + 1, np.int32)
    last_in = np.full(num_items + 1, -1, np.int64) if counting >= 2 else np.empty(0, np.int64)
    keys, weights, rows = np.empty(num_items + 1, np.uint64), np.empty(1, np.float32), 0
    bits = weights.view(np.uint32)
    for k in range(len(starts) - 1):
        i, mine = k * blocks + block, slice(starts[k], starts[k + 1])
        if starts[k] == starts[k + 1]:
            continue
        if counting == 0:
            num = _met_in_baskets(sessions[mine], item, ends, met, found)
        elif counting == 1:
            num = _met_often(sessions[mine], places[mine], item, times, ends, met, found)
        else:
            clock = int(k) * (len(ends) + 1)
            num = _met_nearby(
                sessions[mine], places[mine], item, times, ts, ends, window, max_dt_s, counting == 3, met, found, last_in, clock
            )
        kept = 0
        own = category[category_starts[i] : category_starts[i + 1]]
        for j in found[:num]:
            if j == i:
                continue
            if j > i:
                counts[0] += 1
                counts[1] += met[j]
                counts[2] += met[j] < min_count
            if met[j] < min_count:
                continue
            theirs = category[category_starts[j] : category_starts[j + 1]]
            shared = _shared(own, theirs)
            if drop_other and not shared and len(own) and len(theirs):
                counts[3] += j > i
                continue
            weights[0] = met[j] * (1 + beta * shared)
            # Positive floats sort as their bits do; the smaller of two equal ones comes first.
            keys[kept] = (np.uint64(bits[0]) << np.uint64(32)) | np.uint64(0xFFFFFFFF - j)
            kept += 1
        counts[4] += kept > 0
        counts[5] += max(kept - top, 0)
        if kept > top:
            _largest(keys[:kept], top)
            kept = top
        ordered = np.sort(keys[:kept])
        for n in range(kept):
            j = np.int64(0xFFFFFFFF) - np.int64(ordered[kept - 1 - n] & np.uint64(0xFFFFFFFF))
            bits[0] = np.uint32(ordered[kept - 1 - n] >> np.uint64(32))
            item_i[rows], item_j[rows], count[rows], weight[rows] = i, j, met[j], weights[0]
            same[rows] = _shared(own, category[category_starts[j] : category_starts[j + 1]])
            rows += 1
        for j in found[:num]:
            met[j] = 0
    return item_i[:rows].copy(), item_j[:rows].copy(), count[:rows].copy(), same[:rows].copy(), weight[:rows].copy(), counts
