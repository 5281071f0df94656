"""What a search found, as numbers that sort: (id, falling score) of each row in 64 bits, one line a query, and the lists they become."""

import numpy as np

from retrieval.kernels.exact_pairs import NOTHING
from retrieval.ragged import I64, U64, Ragged, scores_of

_HALF, _LOWER = np.uint64(32), np.uint64(2**32 - 1)


def by_id(pairs: U64) -> Ragged:
    """Each id of a line once, ascending, with its highest score; sorts the lines in place."""
    pairs.sort(axis=1)  # lines, not one long sort: numpy does it some ten numbers at a time
    keep = pairs != NOTHING
    keep[:, 1:] &= (pairs[:, 1:] >> _HALF) != (pairs[:, :-1] >> _HALF)
    found = pairs[keep]
    return _lists(keep.sum(axis=1), found >> _HALF, found & _LOWER)


def by_score(pairs: U64, num: I64) -> Ragged:
    """The num[q] best of line q, best first, ties by smaller id; every id stands once in its line."""
    turned = (pairs << _HALF) | (pairs >> _HALF)
    turned.sort(axis=1)
    lengths = np.minimum((turned != NOTHING).sum(axis=1), num)
    found = turned[np.arange(turned.shape[1]) < lengths[:, None]]
    return _lists(lengths, found, found >> _HALF)


def _lists(lengths: I64, ids: U64, falling: U64) -> Ragged:
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    return Ragged(starts, ids.astype(np.uint32).view(np.int32), scores_of(falling))
