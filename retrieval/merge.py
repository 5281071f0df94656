"""One list a user out of the lists of all channels, remembering which channel brought each item at which rank with which score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from conf.sections.retrieval import Merge
from retrieval.merge_pool import COLD, FALLBACK, Pool, places_within
from retrieval.merge_quotas import by_quota
from retrieval.ragged import F32, F64, I32, I64, Bools, Ragged, order_by_weight, ranges

RRF_K = 60  # damps the lead of the first ranks; Cormack et al. 2009


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


def merge(channels: Mapping[str, Ragged], settings: Merge, *, has_history: Bools, categories: I32 | None = None) -> Merged:
    """Fuse the channels of each user; where `popular` is among them, a user without history gets that list and `cold`'s alone.

    For everybody else `popular` counts only if the weights, or the quotas, name it: it knows nothing of the user, and would pull
    every list towards the same items.

    Args:
        channels: in order of priority; list b of each is user b's, best first.
        categories: int32[n], the category of each item_idx, -1 = unknown, which is like no other; needed by kind diverse and by
            max_per_category.
    """
    is_new = ~has_history if FALLBACK in channels else np.zeros(len(has_history), dtype=np.bool_)
    chosen = {}
    for name, lists in channels.items():
        for_new = name == FALLBACK or (name == COLD and settings.weights.get(COLD, 1) > 0)
        keep = np.where(is_new, for_new, importance(name, settings) > 0)
        if keep.any() or not len(keep):
            chosen[name] = lists.where(keep[lists.rows])
    brought = chosen[COLD].lengths > 0 if COLD in chosen else np.zeros(len(has_history), dtype=np.bool_)
    return fuse(Pool.of(chosen, is_new), settings, is_fallback=is_new & ~brought, categories=categories)


def importance(name: str, settings: Merge) -> float:
    """Weight, or quota, of a channel for users with history; 0 leaves it out."""
    if settings.kind == "quota" and isinstance(settings.quotas, dict) and settings.quotas:
        return settings.quotas.get(name, 0)
    return settings.weights.get(name, 0 if name == FALLBACK else 1)


def fuse(pool: Pool, settings: Merge, *, is_fallback: Bools, categories: I32 | None = None) -> Merged:
    """The `top` items of highest score by the rule `settings.kind`, ties by smaller item_idx, at most max_per_category of one category."""
    category = None if categories is None else pool.category(categories)
    totals = MERGES[settings.kind](pool, settings, category)
    groups = Ragged.grouped(pool.rows, np.arange(len(pool.rows), dtype=np.int32), totals, pool.num).where(totals > -np.inf)
    best = Ragged(groups.starts, groups.values[order_by_weight(groups)])
    if settings.max_per_category is not None:
        assert category is not None
        best = best.where(places_within(category[best.values]) < settings.max_per_category)
    best = best.first(settings.top)

    picked = best.values
    entries = ranges(pool.begins[picked], pool.sizes[picked])
    sources = Ragged(np.r_[0, np.cumsum(pool.sizes[picked])].astype(np.int64), pool.channel[entries])
    lists = Ragged(best.starts, pool.items[picked], totals[picked].astype(np.float32))
    return Merged(pool.names, lists, sources, pool.rank[entries].astype(np.int32), pool.score[entries], is_fallback)


# ---- the rules: (pool, settings, category of each item of the pool) -> its score, -inf = left out --------------------


def by_rank(pool: Pool, settings: Merge, _: I64 | None) -> F64:
    """Reciprocal rank fusion: the sum over channels of weight / (60 + rank).

    Source: Cormack, Clarke and Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods".
    """
    return pool.reduce(_weights(pool, settings)[pool.channel] / (RRF_K + pool.rank), np.add)


def by_score(pool: Pool, settings: Merge, _: I64 | None) -> F64:
    """The sum over channels of weight times the normalised score there; a channel that does not have the item adds 0.

    Source: CombSUM over min-max scores, Fox and Shaw 1994, "Combination of multiple searches".
    """
    return pool.reduce(_weights(pool, settings)[pool.channel] * _normalised(pool, settings), np.add)


def diverse(pool: Pool, settings: Merge, category: I64 | None) -> F64:
    """Greedily the item of highest f(u, i) - diversity * (items of its category taken before); f the best weighted, normalised score.

    Done by one sort: among items of a category the best comes first, whatever is taken of others, so the item at place p of its
    category (by f, ties by smaller item_idx) is taken at exactly f - diversity * p.

    Source: ComiRec (Cen et al. 2020), 3.4: the greedy step for f + diversity * (pairs of different category), in its code's form.
    """
    assert category is not None
    best = pool.reduce(_weights(pool, settings)[pool.channel] * _normalised(pool, settings), np.maximum)
    rounded = best.astype(np.float32)
    order = np.lexsort((-rounded, pool.rows))  # stable: equal scores stay in order of item_idx
    places = np.empty(len(order), dtype=np.int64)
    places[order] = places_within(category[order])
    result: F64 = rounded - settings.diversity * places
    return result


MERGES: Final[Mapping[str, Callable[[Pool, Merge, I64 | None], F64]]] = {
    "rrf": by_rank,
    "norm": by_score,
    "quota": by_quota,
    "diverse": diverse,
}


def _weights(pool: Pool, settings: Merge) -> F64:
    """float64[C]. A list of a user without history counts even where the fusion of others gives its channel no weight."""
    return np.array([settings.weights.get(name, 1) or 1 for name in pool.names], dtype=np.float64)


def _normalised(pool: Pool, settings: Merge) -> F64:
    """float64[E] in [0, 1]: the score of each entry within its user's list of that channel.

    minmax: (score - lowest) / (highest - lowest), 1 where all are equal. percentile: (length - rank + 1) / length.
    """
    which, last = pool.lists, pool.lengths
    if settings.normalise == "percentile":
        return (last[which] - pool.rank + 1) / last[which]
    lowest, highest = np.zeros(len(last)), np.zeros(len(last))
    first_entry, last_entry = pool.rank == 1, pool.rank == last[which]  # lists are best first
    highest[which[first_entry]], lowest[which[last_entry]] = pool.score[first_entry], pool.score[last_entry]
    spread = (highest - lowest)[which]
    flat = spread <= 0
    result: F64 = np.where(flat, 1, (pool.score - lowest[which]) / np.where(flat, 1, spread))
    return result
