"""What the two-step channels share: from a user through neighbours or clicked items to candidate items."""

from collections.abc import Callable
from functools import wraps

import numpy as np
from scipy.sparse import csr_array

from conf.sections.retrieval import Channels
from retrieval.ragged import F32, F64, Ragged, aggregate, best_first, concatenate, without
from retrieval.vector_index import VectorIndex
from retrieval.world import Users, World

_PART = 512  # users whose paths are gathered together: up to 2,500 a user in u2u2i, 1.3 million, about 100 MB while sorting


def nearest_unseen(index: VectorIndex, vectors_BKD: F32, seen: Ragged, top: int) -> Ragged:
    """For each user the `top` ids of highest similarity that are not in its list of `seen`, best first; fewer where the index has fewer,
    none for a user without a vector (all zeros: given vectors, and nothing clicked), to whom no item is nearer than another.

    Exactly what is left of a search for `top` and as many as were seen. With one vector a user such a search is made only for those
    who have seen most of what is near to them: it begins with `top` more, and asks for twice as many where too few are left.
    """
    enough = np.where(vectors_BKD.any(axis=(1, 2)), top + seen.lengths, 0)
    # several vectors: each must reach far enough by itself; codes: what is scored exactly depends on how many are asked for
    asked = np.minimum(enough, 2 * top) if vectors_BKD.shape[1] == 1 and not index.is_coded else enough
    lists = best_first(without(index.pool(vectors_BKD, asked), seen), top)
    short = np.flatnonzero((lists.lengths < top) & (asked < np.minimum(enough, len(index))))
    while len(short):
        asked[short] = np.minimum(2 * asked[short], enough[short])
        again = best_first(without(index.pool(vectors_BKD[short], asked[short]), seen.take(short)), top)
        which = np.arange(len(lists))
        which[short] = len(lists) + np.arange(len(short))
        lists = concatenate([lists, again]).take(which)
        short = short[(again.lengths < top) & (asked[short] < np.minimum(enough[short], len(index)))]
    return lists


def in_parts(channel: Callable[[Users, World, Channels], Ragged]) -> Callable[[Users, World, Channels], Ragged]:
    """The channel, asked for some users of a block at a time: a block of paths is far larger than the lists they end in."""

    @wraps(channel)
    def recommend(users: Users, world: World, settings: Channels) -> Ragged:
        starts = range(0, max(len(users), 1), _PART)
        return concatenate([channel(users.part(start, start + _PART), world, settings) for start in starts])

    return recommend


def two_steps(users: Users, world: World, first: Ragged, second: Ragged, *, agg: str) -> Ragged:
    """The items reached from each user, ascending, each with the sum (or the largest, agg max) of its paths' weights.

    A path goes from the user to a value of `first` and on to an item of that value's list in `second`; it weighs the product of
    the two weights (1 where there is none; a negative weight counts as 0). Items whose paths all weigh 0, seen items, and items
    that may not be recommended are left out. A user's paths add up in their order, whoever else is in the block.
    """
    lists = second.take(first.values)
    steps = np.ones(len(lists.values)) if lists.weights is None else np.maximum(lists.weights.astype(np.float64), 0)
    begins = np.ones(len(first.values)) if first.weights is None else np.maximum(first.weights.astype(np.float64), 0)
    pool = _sums(first, begins, lists, steps) if agg == "sum" else _largest(first, begins, lists, steps)
    assert pool.weights is not None
    return without(pool.where((pool.weights > 0) & (world.items.rows_of(pool.values) >= 0)), users.seen)


def _sums(first: Ragged, begins: F64, lists: Ragged, steps: F64) -> Ragged:
    """As a product of sparse matrices, users x values and values x items: no path is ever written down."""
    width, num = int(lists.values.max(initial=0)) + 1, len(first.values)
    left = csr_array((begins, np.arange(num, dtype=np.int32), first.starts), shape=(len(first), num))
    right = csr_array((steps, lists.values, lists.starts), shape=(num, width))
    product = left @ right
    product.sort_indices()
    return Ragged(product.indptr.astype(np.int64), product.indices.astype(np.int32), product.data)


def _largest(first: Ragged, begins: F64, lists: Ragged, steps: F64) -> Ragged:
    via = lists.rows  # the entry of `first` that each path goes through
    return aggregate(first.rows[via], lists.values, begins[via] * steps, len(first), agg="max")


def relevance(users: Users, world: World, lists: Ragged, *, kind: str) -> F64:
    """float64[total]: how near each item is to its user: (1 + cosine) / 2 (cosine), max(cosine, 0) (raw), 1 (none).

    The map to [0, 1] keeps signs out of the product with the other weights: two negatives must not rank high.
    """
    if kind == "none":
        return np.ones(len(lists.values), dtype=np.float64)
    cosines = world.items.cosines(users.vectors, lists.rows, lists.values)
    return np.maximum(cosines, 0) if kind == "raw" else (1 + cosines) / 2


def times(lists: Ragged, factor: F64) -> Ragged:
    """The lists with their weights times `factor`, float64[total]."""
    assert lists.weights is not None
    return lists.weighted(lists.weights * factor)
