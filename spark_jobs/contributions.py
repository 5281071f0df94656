"""What each channel adds: what it finds, what only it finds, and what a list of fixed length gains by giving it places."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_jobs.held_out import held_out, sample_units

Lists = Mapping[str, Sequence[int]]  # a user's list of each channel, best first; a channel without one is left out


def contributions(
    channel_candidates: DataFrame, events: DataFrame, *, channels: Sequence[str], n: int, max_users: int, seed: int
) -> dict[str, Any] | None:
    """As `compare`, of at most `max_users` users with held-out clicks, those of the smallest hash; None where nobody has any."""
    units = sample_units(held_out(events), max_users=max_users, seed=seed).select("user_idx", "truth")
    mine = channel_candidates.join(F.broadcast(units.select("user_idx")), "user_idx", how="left_semi")
    lists: dict[int, dict[str, list[int]]] = {}
    for row in mine.select("user_idx", "channel", F.slice("items", 1, n).alias("items")).collect():
        lists.setdefault(row["user_idx"], {})[row["channel"]] = row["items"]
    users = [(set(row["truth"]), lists.get(row["user_idx"], {})) for row in units.collect()]
    return compare(users, channels, n) if users else None


def compare(users: Sequence[tuple[Set[int], Lists]], channels: Sequence[str], n: int) -> dict[str, Any]:
    """Of (held-out items, lists) of users; shares are means over users, all in [0, 1].

    Returns:
        users, n. quotas: places of each channel, in that order, where all `share` n. together: recall of those n places. channels: of
        each one alone: recall of its first n. unique: share of the hits of all channels in their first n that only this one has; None
        without a hit. gain: `together` less the recall of n places shared by the others.
    """
    together = _recall(users, channels, n)
    found = []
    for channel in channels:
        others = [name for name in channels if name != channel]
        gain = together - (_recall(users, others, n) if others else 0.0)
        found.append(
            {"channel": channel, "alone": _recall(users, [channel], n), "unique": _unique(users, channel, others, n), "gain": gain}
        )
    return {"users": len(users), "n": n, "quotas": equal_quotas(n, len(channels)), "together": together, "channels": found}


def share(lists: Lists, channels: Sequence[str], n: int) -> set[int]:
    """The items of a list of `n` places that the channels, in order of priority, share alike: each brings its best items that none before
    it brought. A short list leaves its places empty. As `merge.kind: quota` does it.
    """
    taken: set[int] = set()
    for channel, quota in zip(channels, equal_quotas(n, len(channels)), strict=True):
        taken.update([item for item in lists.get(channel, ()) if item not in taken][:quota])
    return taken


def equal_quotas(n: int, parts: int) -> list[int]:
    """`n` places in so many parts; what does not divide goes to the first of them, one each."""
    even, rest = divmod(n, parts)
    return [even + (number < rest) for number in range(parts)]


def _recall(users: Sequence[tuple[Set[int], Lists]], channels: Sequence[str], n: int) -> float:
    """Of `n` places that the channels share."""
    return sum(len(truth & share(lists, channels, n)) / len(truth) for truth, lists in users) / len(users)


def _unique(users: Sequence[tuple[Set[int], Lists]], channel: str, others: Sequence[str], n: int) -> float | None:
    hits = only = 0
    for truth, lists in users:
        mine, theirs = truth & _items(lists, [channel], n), truth & _items(lists, others, n)
        hits, only = hits + len(mine | theirs), only + len(mine - theirs)
    return only / hits if hits else None


def _items(lists: Lists, channels: Sequence[str], num: int) -> set[int]:
    return {item for channel in channels for item in lists.get(channel, ())[:num]}
