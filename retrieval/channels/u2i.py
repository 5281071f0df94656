"""U2I: the items nearest to the user's own vector. MIC (Lu et al. 2022), 3.7."""

from conf.sections.retrieval import Channels
from retrieval.ragged import Ragged, best_first, without
from retrieval.world import Users, World


def recommend(users: Users, world: World, settings: Channels) -> Ragged:
    """The `top` items of highest similarity, unseen, best first; score = the similarity (of the nearest interest).

    As many more items as the user has seen are searched, so that the filter leaves the list whole and exact.
    """
    pool = world.items.pool(users.vectors, settings.top + users.seen.lengths)
    return best_first(without(pool, users.seen), settings.top)
