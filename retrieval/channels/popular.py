"""Popular: the items of most train clicks, the same for everybody but for what each has seen. The list of users without history."""

import numpy as np

from conf.sections.retrieval import Channels
from retrieval.ragged import Ragged, contains, ranges
from retrieval.world import Users, World


def recommend(users: Users, world: World, settings: Channels) -> Ragged:
    """The `top` most clicked items, unseen, ties by smaller item_idx; score = train clicks of training users."""
    ranking = world.popular
    lengths = np.minimum(settings.top + users.seen.lengths, len(ranking))  # as many more as may be seen: the list stays whole
    items = ranking[ranges(np.zeros(len(users), dtype=np.int64), lengths)]
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    lists = Ragged(starts, items, world.clicks[items].astype(np.float32))
    return lists.where(~contains(users.seen, lists.rows, lists.values)).first(settings.top)
