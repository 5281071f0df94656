"""Cold: items and users without history, known by their fields alone."""

import numpy as np

from conf.sections.retrieval import Channels
from retrieval.ragged import Ragged, concatenate
from retrieval.scoring import nearest_unseen
from retrieval.world import Users, World


def recommend(users: Users, world: World, settings: Channels) -> Ragged:
    """The `top` nearest items that nobody clicked in train; for a user without history the nearest of all. Unseen, best first.

    Score = similarity of the vectors, which come from fields alone on the side that has no history: an item or a user without train
    clicks has no id of its own, and such a user's history is one empty token. New items compete among themselves only, where in u2i
    clicked ones leave them little room.
    """
    order = np.argsort(users.history.lengths == 0, kind="stable")  # users with history first
    old, new = np.split(order, [int((users.history.lengths > 0).sum())])
    lists = [
        nearest_unseen(index, users.vectors[some], users.seen.take(some), settings.top)
        for index, some in ((world.new_items, old), (world.items, new))
    ]
    return concatenate(lists).take(np.argsort(order))
