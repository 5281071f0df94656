"""I2I: items like those the user clicked. MIC (Lu et al. 2022), 3.7."""

import numpy as np

from conf.sections.retrieval import Channels
from retrieval.ragged import Ragged, best_first, last_distinct
from retrieval.scoring import in_parts, relevance, times, two_steps
from retrieval.world import Users, World


@in_parts
def recommend(users: Users, world: World, settings: Channels) -> Ragged:
    """The `top` nearest items of the last distinct clicks h, unseen, best first; [] for a user without history.

    score(i) = (sum over h with i among its nearest of g(h) max(cos(h, i), 0)) / (sum of g) * (1 + cos(u, i)) / 2, in [0, 1], with
    g(h) = gamma^age, age 0 for the newest. `agg: max` takes the largest g(h) max(cos(h, i), 0) instead of the mean.
    """
    chosen = settings.i2i
    clicked = last_distinct(users.history, chosen.history)
    weights = chosen.gamma ** clicked.places.astype(np.float64)
    if chosen.agg == "sum":
        weights = weights / np.repeat(np.bincount(clicked.rows, weights=weights, minlength=len(clicked)), clicked.lengths)
    pool = two_steps(users, world, clicked.weighted(weights), world.similar_items, agg=chosen.agg)
    return best_first(times(pool, relevance(users, world, pool, kind="cosine")), settings.top)
