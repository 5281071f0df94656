"""Pairs of items that were clicked within so many seconds of each other in one session; the third reading of MicRec 5.3.

The table of sessions holds no time per click, so these are counted from the events, cut by the same rule.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conf.tables import TRAIN
from spark_jobs.session_cuts import Rule, boundaries

I64 = npt.NDArray[np.int64]

MAX_MEETINGS_AT_ONCE = 2_000_000  # bounds the memory of one Python worker: about 50 bytes each while they are counted


def close_pairs(events: pa.Table, cuts: Rule, *, max_dt_s: int, window: int | None, max_items: int, multiset: bool) -> tuple[I64, I64]:
    """(pairs, times): item_i << 32 | item_j with item_i < item_j, each once, of the train events of whole users, sorted as in `boundaries`.

    Two clicks of different items meet if they lie at most max_dt_s apart in a session and at most `window` clicks (None: any number; then
    the items must also be of one chunk of `max_items` distinct ones, in order of first click). A session counts every meeting if
    `multiset`, else each pair once. The work grows with the meetings, so a user's most is half the square of its clicks in max_dt_s.
    """
    order, starts = boundaries(events, cuts)
    train = events["split"].to_numpy()[order] == TRAIN
    session = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))[train]
    item = events["item_idx"].to_numpy()[order][train].astype(np.int64)
    ts = events["ts"].to_numpy()[order][train]
    chunk = np.zeros_like(item) if window is not None else _chunks(session, item, max_items)
    found, held = [_none()], 0
    left = np.arange(len(item))
    for distance in range(1, min(window or len(item), len(item) - 1) + 1):
        # Clicks of a session are in order of time: what is too far from its next neighbour is too far from those behind it.
        left = left[left + distance < len(item)]
        right = left + distance
        close = (session[left] == session[right]) & (ts[right] - ts[left] <= max_dt_s)
        left, right = left[close], right[close]
        if not len(left):
            break
        met = (item[left] != item[right]) & (chunk[left] == chunk[right])
        one, other = item[left[met]], item[right[met]]
        pair = np.minimum(one, other) << 32 | np.maximum(one, other)
        found.append((session[left[met]], pair, np.ones_like(pair)))
        held += len(pair)
        if held > MAX_MEETINGS_AT_ONCE:
            found = [_summed(found)]
            held = len(found[0][0])
    _, pair, times = _summed(found)
    distinct, place = np.unique(pair, return_inverse=True)
    weights = times if multiset else np.ones_like(times)
    return distinct, np.bincount(place, weights=weights, minlength=len(distinct)).astype(np.int64)


def _none() -> tuple[I64, I64, I64]:
    empty = np.empty(0, dtype=np.int64)
    return empty, empty, empty


def _summed(found: list[tuple[I64, I64, I64]]) -> tuple[I64, I64, I64]:
    """(session, pair, times), each session and pair once."""
    session, pair, times = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((pair, session))
    session, pair, times = session[order], pair[order], times[order]
    if not len(pair):
        return _none()
    first = np.flatnonzero(np.append(True, (np.diff(session) > 0) | (np.diff(pair) > 0)))
    return session[first], pair[first], np.add.reduceat(times, first)


def _chunks(session: I64, item: I64, max_items: int) -> I64:
    """Of each click the chunk of its session that its item belongs to."""
    _, first, inverse = np.unique(session << 32 | item, return_index=True, return_inverse=True)
    by_first_click = np.argsort(first)
    of_item = session[first[by_first_click]]
    place = np.empty(len(first), dtype=np.int64)
    place[by_first_click] = (np.arange(len(first)) - np.searchsorted(of_item, of_item)) // max_items
    return place[inverse]
