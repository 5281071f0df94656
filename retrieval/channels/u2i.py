"""U2I: the items nearest to the user's own vector. MIC (Lu et al. 2022), 3.7."""

from conf.sections.retrieval import Channels
from retrieval.ragged import Ragged
from retrieval.scoring import nearest_unseen
from retrieval.world import Users, World


def recommend(users: Users, world: World, settings: Channels) -> Ragged:
    """The `top` items of highest similarity, unseen, best first; score = the similarity (of the nearest interest)."""
    vectors = users.vectors if users.joint is None else users.joint
    return nearest_unseen(world.u2i_items, vectors, users.seen, settings.top)
