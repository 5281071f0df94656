"""U2U2I: what similar training users clicked. MIC (Lu et al. 2022), 3.7."""

import numpy as np

from conf.sections.retrieval import Channels
from retrieval.ragged import F64, Ragged, best_first
from retrieval.scoring import in_parts, relevance, times, two_steps
from retrieval.world import Users, World


@in_parts
def recommend(users: Users, world: World, settings: Channels) -> Ragged:
    """The `top` items of the nearest training users' profiles, unseen, best first.

    score(i) = (sum over neighbours u' with i in their profile of a(u, u')) * (1 + cos(u, i)) / 2, in [0, 1]; a as in `shares`.
    `agg: max` takes the largest a instead of the sum; `relevance` changes the second factor. Profiles are gathered from an array:
    users x neighbours x items is never joined.
    """
    chosen = settings.u2u2i
    nearest = users.neighbours.first(chosen.neighbours)
    pool = two_steps(users, world, nearest.weighted(shares(nearest, power=chosen.power)), world.profiles, agg=chosen.agg)
    return best_first(times(pool, relevance(users, world, pool, kind=chosen.relevance)), settings.top)


def shares(neighbours: Ragged, *, power: float) -> F64:
    """a(u, u') = max(S, 0)^power over its sum, float64[total]; equal shares where no similarity S is positive."""
    assert neighbours.weights is not None
    weights = np.maximum(neighbours.weights.astype(np.float64), 0) ** power
    totals = np.bincount(neighbours.rows, weights=weights, minlength=len(neighbours))
    lonely = np.repeat(totals <= 0, neighbours.lengths)
    weights[lonely] = 1
    totals = np.where(totals <= 0, neighbours.lengths, totals)
    result: F64 = weights / np.repeat(totals, neighbours.lengths)
    return result
