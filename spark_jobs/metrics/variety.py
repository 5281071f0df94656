"""What lists are made of, whatever was clicked: one number a list; NaN where a list is too short to have one."""

import numpy as np

from spark_jobs.metrics.lists import F64, I64, Lists


def novelty(lists: Lists) -> F64:
    """Mean over the items of the list of -log2 of their share of the train clicks, in bits.

    Source: Zhou et al. 2010, "Solving the apparent diversity-accuracy dilemma of recommender systems" (surprisal, by clicks).
    """
    return _mean(np.where(lists.items_BN > 0, lists.known.bits[lists.items_BN], 0.0).sum(axis=1), lists.num_B)


def pop_share(lists: Lists) -> F64:
    """Share of the list's items that are of the head, the most clicked ones."""
    return _mean((lists.known.head[lists.items_BN] & (lists.items_BN > 0)).sum(axis=1), lists.num_B)


def diversity(lists: Lists) -> F64:
    """Share of the pairs of items of the list that have different categories; one that is not known is unlike all others.

    Source: Cen et al. 2020 (ComiRec), eq. 11.
    """
    num_B = lists.num_B
    if lists.known.category is None:
        return np.full(len(num_B), np.nan)
    sorted_BN = np.sort(lists.known.category[lists.items_BN], axis=1)
    place = np.arange(lists.n)
    starts_BN = np.zeros(sorted_BN.shape, dtype=np.int64)
    starts_BN[:, 1:] = np.where(sorted_BN[:, 1:] != sorted_BN[:, :-1], place[1:], 0)
    # how many before it share its category: a run of m adds up to m (m - 1) / 2 pairs
    equal_BN = (place - np.maximum.accumulate(starts_BN, axis=1)) * (sorted_BN > 0)
    return 1 - _mean(equal_BN.sum(axis=1), num_B * (num_B - 1) // 2)


def _mean(total: F64 | I64, num: I64) -> F64:
    return np.divide(total, num, out=np.full(len(total), np.nan), where=num > 0)
