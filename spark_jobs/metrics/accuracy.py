"""How well lists find what was held out: one number a list, in [0, 1]. A list shorter than N counts as misses in its empty places."""

import numpy as np

from spark_jobs.metrics.lists import F64, Lists


def recall(lists: Lists) -> F64:
    """Share of the held-out items that are in the first N."""
    found: F64 = _hits(lists) / lists.truth_B
    return found


def precision(lists: Lists) -> F64:
    """Share of the first N places that hold a held-out item."""
    return _hits(lists) / lists.n


def hr(lists: Lists) -> F64:
    """1 if any of the first N is held out."""
    return (_hits(lists) > 0).astype(np.float64)


def mrr(lists: Lists) -> F64:
    """1 / rank of the first hit; 0 without one."""
    found: F64 = lists.hits_BN.any(axis=1) / (1.0 + lists.hits_BN.argmax(axis=1))
    return found


def ndcg_std(lists: Lists) -> F64:
    """Sum of 1 / log2(rank + 1) over the hits, by that of min(held-out items, N) hits at the top."""
    found: F64 = _dcg(lists) / _ideal(lists.n)[np.minimum(lists.truth_B, lists.n)]
    return found


def ndcg_hit(lists: Lists) -> F64:
    """The same, by that of as many hits as there are at the top; 0 without one. Source: ComiRec's code (Cen et al. 2020)."""
    hits_B = lists.hits_BN.sum(axis=1)
    return np.divide(_dcg(lists), _ideal(lists.n)[hits_B], out=np.zeros(len(hits_B)), where=hits_B > 0)


def _hits(lists: Lists) -> F64:
    found: F64 = lists.hits_BN.sum(axis=1).astype(np.float64)
    return found


def _dcg(lists: Lists) -> F64:
    found: F64 = lists.hits_BN @ _gains(lists.n)
    return found


def _gains(n: int) -> F64:
    found: F64 = 1 / np.log2(np.arange(2, n + 2))
    return found


def _ideal(n: int) -> F64:
    """float64[n + 1]: the sum of the gains of so many hits at the top."""
    found: F64 = np.concatenate([[0.0], np.cumsum(_gains(n))])
    return found
