"""ItemCF: items that met the user's clicks in sessions, straight from the co-occurrence table; no model."""

import numpy as np

from conf.sections.retrieval import Channels
from retrieval.ragged import Ragged, best_first, last_distinct
from retrieval.scoring import in_parts, times, two_steps
from retrieval.world import Users, World


@in_parts
def recommend(users: Users, world: World, settings: Channels) -> Ragged:
    """The `top` items of highest score, unseen, best first; [] for a user without history.

    score(i) = sum over the last distinct clicks h of w(h, i) / sqrt(n(h) n(i)): w the weight in `cooc`, n the train clicks of the
    item (at least 1). The root keeps popular items from winning everywhere.

    Source: cosine similarity of items, Deshpande and Karypis 2004, "Item-based top-N recommendation algorithms", eq. 1.
    """
    clicked = last_distinct(users.history, settings.itemcf.history)
    root = np.sqrt(np.maximum(world.clicks, 1))
    known = np.minimum(clicked.values, len(root) - 1)  # an item beyond the table was never clicked in train and has met nothing
    pool = two_steps(users, world, clicked.weighted(1 / root[known]), world.met_items, agg="sum")
    return best_first(times(pool, 1 / root[pool.values]), settings.top)
