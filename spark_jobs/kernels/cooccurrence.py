"""How often the items of one block met every other item, without ever making a pair.

For each item in turn the sessions that hold it are walked and what they hold is counted in one dense array. The work is the sum of
the sizes of those sessions; the memory is that of the sessions, of one array over all items, and of the rows that are kept.
"""

from typing import NamedTuple

import numpy as np

from conf.compiled import I32, I64, compiled
from spark_jobs.kernels.strongest import Keeps, Rows, keep_strongest


class Walk(NamedTuple):
    """Sessions, or baskets of them, as `Baskets`, and by `sessions_of` which of them hold each item of the block."""

    item: I32
    times: I32
    ends: I64
    ts: I64
    starts: I64
    sessions: I32
    places: I64


class Counting(NamedTuple):
    """kind 0: in how many baskets both stand; 1: the product of their times; 2: sessions in which they come near, at most `window`
    places and max_dt_s apart, in one chunk; 3: how often they do."""

    kind: int
    window: int
    max_dt_s: int


class Known(NamedTuple):
    """What was counted before: item k * blocks + block met item[n] times[n] times, starts[k] <= n < starts[k + 1]."""

    starts: I64
    item: I32
    times: I32


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
def _met(walk: Walk, k: int, how: Counting, met: I64, found: I32, last_in: I64) -> int:
    """Count what the k-th item of the block met in these sessions into `met`; the number of different ones, itself included."""
    first, last = walk.starts[k], walk.starts[k + 1]
    sessions, places = walk.sessions[first:last], walk.places[first:last]
    if first == last:
        return 0
    if how.kind == 0:
        return _met_in_baskets(sessions, walk.item, walk.ends, met, found)
    if how.kind == 1:
        return _met_often(sessions, places, walk.item, walk.times, walk.ends, met, found)
    clock = k * (len(walk.ends) + 1)
    return _met_nearby(
        sessions, places, walk.item, walk.times, walk.ts, walk.ends, how.window, how.max_dt_s, how.kind == 3, met, found, last_in, clock
    )


@compiled
def rooms(walk: Walk, how: Counting, known: Known, num_items: int) -> I64:
    """int64[k]: no more different items than these can the k-th item of the block have met."""
    room = np.zeros(len(walk.starts) - 1, np.int64)
    for k in range(len(room)):
        for s in walk.sessions[walk.starts[k] : walk.starts[k + 1]]:
            size = walk.ends[s] - (walk.ends[s - 1] if s > 0 else 0)
            room[k] += size if how.kind < 2 else min(size, 2 * min(how.window, size))
        room[k] = min(room[k] + known.starts[k + 1] - known.starts[k], num_items)
    return room


@compiled
def _change(known: Known, k: int, num: int, met: I64, found: I32, num_gone: int, gone: I64, found_gone: I32, own: int) -> tuple[int, int]:
    """Add to `met` what was known, take away what is gone, and empty that: (number found, pairs of which more is gone than there was)."""
    for n in range(known.starts[k], known.starts[k + 1]):
        j = known.item[n]
        if met[j] == 0:
            found[num] = j
            num += 1
        met[j] += known.times[n]
    misfits = 0
    for j in found_gone[:num_gone]:
        if j != own:
            misfits += gone[j] > met[j]
            met[j] = max(met[j] - gone[j], 0)
        gone[j] = 0
    return num, misfits


@compiled
def _append(i: int, found: I32, met: I64, item_i: I32, item_j: I32, count: I64, at: int) -> int:
    """The whole row of item i, by item_j; the place behind it."""
    for j in np.sort(found):
        if j != i and met[j] > 0:
            item_i[at], item_j[at], count[at] = i, j, met[j]
            at += 1
    return at


@compiled
def count_items(
    first: int, last: int, room: int, room_all: int, walk: Walk, gone: Walk, known: Known, how: Counting, keeps: Keeps,
    num_items: int, block: int, blocks: int,
) -> tuple[Rows, I32, I32, I64, I64]:  # fmt: skip
    """(rows, item_i, item_j, count, counts) of items k * blocks + block, first <= k < last: the strongest pairs, and all of them.

    Counted are the sessions of `walk`, and what is known, without the sessions of `gone`, which it holds.
    rows: of `room` at most, by item_i, then strongest first. item_i, item_j, count: every pair, both sorted; none if room_all is 0.
    counts: as `keep_strongest` says; then the pairs of which more are gone than were known: not 0 only where `known` is of others.
    """
    rows = Rows(
        np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int64), np.empty(room, np.bool_), np.empty(room, np.float32)
    )
    item_i, item_j, count = np.empty(room_all, np.int32), np.empty(room_all, np.int32), np.empty(room_all, np.int64)
    met, found = np.zeros(num_items + 1, np.int64), np.empty(num_items + 1, np.int32)
    near, changes = how.kind >= 2, len(gone.item) > 0
    last_in = np.full(num_items + 1 if near else 0, -1, np.int64)
    met_gone, found_gone = np.zeros(num_items + 1 if changes else 0, np.int64), np.empty(num_items + 1 if changes else 0, np.int32)
    last_gone = np.full(num_items + 1 if near and changes else 0, -1, np.int64)
    keys, weights = np.empty(num_items + 1, np.uint64), np.empty(1, np.float32)
    counts, at, at_all = np.zeros(7, np.int64), 0, 0
    for k in range(first, last):
        i = k * blocks + block
        num = _met(walk, k, how, met, found, last_in)
        num_gone = _met(gone, k, how, met_gone, found_gone, last_gone) if changes else 0
        num, misfits = _change(known, k, num, met, found, num_gone, met_gone, found_gone, i)
        counts[6] += misfits
        if num == 0:
            continue
        at = keep_strongest(i, found[:num], met, keeps, keys, weights, rows, at, counts)
        if room_all:
            at_all = _append(i, found[:num], met, item_i, item_j, count, at_all)
        for j in found[:num]:
            met[j] = 0
    kept = Rows(rows.item_i[:at].copy(), rows.item_j[:at].copy(), rows.times[:at].copy(), rows.same[:at].copy(), rows.weight[:at].copy())
    return kept, item_i[:at_all].copy(), item_j[:at_all].copy(), count[:at_all].copy(), counts
