"""One list a user out of the lists of all channels, remembering which channel brought each item at which rank with which score."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from retrieval.ragged import F32, I32, Bools, Ragged, keys, order_by_weight, ranges

RRF_K = 60  # damps the lead of the first ranks; Cormack et al. 2009
FALLBACK = "popular"


@dataclass(frozen=True)
class Merged:
    """lists: items with fused scores, best first. sources: one list an item, the numbers of its channels in `names`, by priority;
    ranks (from 1) and scores there stand beside them. is_fallback: bool[B], the list comes from `popular` alone.
    """

    names: tuple[str, ...]
    lists: Ragged
    sources: Ragged
    ranks: I32
    scores: F32
    is_fallback: Bools

    def sources_to_arrow(self) -> pa.Array:
        """list<list<struct<channel, rank, score>>>[B]."""
        channels = pa.array(self.names, pa.string()).take(pa.array(self.sources.values))
        structs = pa.StructArray.from_arrays(
            [channels, pa.array(self.ranks, pa.int32()), pa.array(self.scores, pa.float32())], names=["channel", "rank", "score"]
        )
        by_item = pa.ListArray.from_arrays(self.sources.starts.astype(np.int32), structs)
        return pa.ListArray.from_arrays(self.lists.starts.astype(np.int32), by_item)


def merge(channels: Mapping[str, Ragged], *, weights: Mapping[str, float], top: int, has_history: Bools) -> Merged:
    """Fuse the channels of each user; where `popular` is among them, a user without history gets that list alone.

    For everybody else `popular` counts only if `weights` names it: it knows nothing of the user, and would pull every list towards
    the same items.
    """
    chosen = dict(channels)
    is_fallback = ~has_history if FALLBACK in channels else np.zeros(len(has_history), dtype=np.bool_)
    for name, lists in channels.items():
        keep = is_fallback | (weights.get(FALLBACK, 0) > 0) if name == FALLBACK else ~is_fallback
        chosen[name] = lists.where(keep[lists.rows])
    # a fallback list is the popular list even where the fusion gives it no weight
    fused = fuse(chosen, weights={**weights, FALLBACK: weights.get(FALLBACK) or 1}, top=top)
    return Merged(fused.names, fused.lists, fused.sources, fused.ranks, fused.scores, is_fallback)


def fuse(channels: Mapping[str, Ragged], *, weights: Mapping[str, float], top: int) -> Merged:
    """Reciprocal rank fusion: score = sum over channels of weight / (60 + rank), the `top` best, ties by smaller item_idx.

    A channel that `weights` does not name weighs 1; one of weight 0 is left out.

    Source: Cormack, Clarke and Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods".
    """
    names, num = tuple(channels), len(next(iter(channels.values())))
    used = [(number, lists, weights.get(name, 1)) for number, (name, lists) in enumerate(channels.items()) if weights.get(name, 1) > 0]
    rows = np.concatenate([lists.rows for _, lists, _ in used] or [np.empty(0, dtype=np.int64)])
    items = np.concatenate([lists.values for _, lists, _ in used] or [np.empty(0, dtype=np.int32)])
    ranks = np.concatenate([lists.places + 1 for _, lists, _ in used] or [np.empty(0, dtype=np.int64)])
    numbers = np.concatenate([np.full(len(lists.values), n, dtype=np.int32) for n, lists, _ in used] or [np.empty(0, dtype=np.int32)])
    scores = np.concatenate([lists.weights for _, lists, _ in used if lists.weights is not None] or [np.empty(0, dtype=np.float32)])
    parts = np.concatenate([w / (RRF_K + 1.0 + lists.places) for _, lists, w in used] or [np.empty(0)])

    by = keys(rows, items)
    order = np.argsort(by, kind="stable")  # channels come in order of priority, and stay in it
    begins = np.flatnonzero(np.r_[True, by[order][1:] != by[order][:-1]]) if len(by) else np.empty(0, dtype=np.int64)
    sizes = np.diff(np.r_[begins, len(by)])
    totals = np.add.reduceat(parts[order], begins) if len(begins) else np.empty(0)
    groups = Ragged.grouped(rows[order][begins], np.arange(len(begins), dtype=np.int32), totals, num)
    best = Ragged(groups.starts, groups.values[order_by_weight(groups)]).first(top)

    picked = best.values
    entries = order[ranges(begins[picked], sizes[picked])]
    sources = Ragged(np.r_[0, np.cumsum(sizes[picked])].astype(np.int64), numbers[entries])
    lists = Ragged(best.starts, items[order][begins][picked], totals[picked].astype(np.float32))
    none = np.zeros(num, dtype=np.bool_)
    return Merged(names, lists, sources, ranks[entries].astype(np.int32), scores[entries].astype(np.float32), none)
