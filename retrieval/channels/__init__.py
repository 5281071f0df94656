"""The channels by name. Each is a pure function (users, world, settings) -> lists of items with scores.

A list holds distinct items that may be recommended and were not seen, best first, ties by smaller item_idx, at most
`settings.top`; a short list stays short: it is never filled up from another channel.
"""

from collections.abc import Callable, Mapping
from typing import Final

from conf.sections.retrieval import Channels
from retrieval.channels import cold, i2i, itemcf, popular, u2i, u2u2i
from retrieval.ragged import Ragged
from retrieval.world import Users, World

Channel = Callable[[Users, World, Channels], Ragged]

CHANNELS: Final[Mapping[str, Channel]] = {
    "u2i": u2i.recommend,
    "u2u2i": u2u2i.recommend,
    "i2i": i2i.recommend,
    "itemcf": itemcf.recommend,
    "popular": popular.recommend,
    "cold": cold.recommend,
}


def build_channel(name: str) -> Channel:
    """The channel of that name; raises ValueError naming those that exist."""
    if name not in CHANNELS:
        raise ValueError(f"unknown channel {name!r}; known: {', '.join(sorted(CHANNELS))}")
    return CHANNELS[name]
