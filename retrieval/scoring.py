"""What the two-step channels share: from a user through neighbours or clicked items to candidate items."""

import numpy as np

from retrieval.ragged import F64, Ragged, aggregate, contains
from retrieval.world import Users, World


def two_steps(users: Users, world: World, first: Ragged, second: Ragged, *, agg: str) -> Ragged:
    """The items reached from each user, ascending, each with the sum (or the largest, agg max) of its paths' weights.

    A path goes from the user to a value of `first` and on to an item of that value's list in `second`; it weighs the product of
    the two weights (1 where there is none; a negative weight counts as 0). Seen items and items that may not be recommended are
    left out.
    """
    lists = second.take(first.values)
    via = lists.rows  # the entry of `first` that each path goes through
    keep = (world.items.rows_of(lists.values) >= 0) & ~contains(users.seen, first.rows[via], lists.values)
    via, items = via[keep], lists.values[keep]
    weights = np.ones(len(items)) if first.weights is None else first.weights[via].astype(np.float64)
    if lists.weights is not None:
        weights = weights * np.maximum(lists.weights[keep], 0)
    return aggregate(first.rows[via], items, weights, len(users), agg=agg)


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
