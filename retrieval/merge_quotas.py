"""Merge by quota: so many places of a list for each channel; and the quotas that find most of held-out validation clicks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from conf.sections.retrieval import Merge
from retrieval.merge_pool import COLD, FALLBACK, Pool, places_within
from retrieval.ragged import F64, I64, Bools, Ragged, contains


def by_quota(pool: Pool, settings: Merge, category: I64 | None) -> F64:
    """float64[G]: 1 / place in the list, -inf for what is in none.

    Channels choose by priority: each takes its best items that none before it took (and whose category is not full), as many as its
    quota. Their choices then take turns, rank by rank, ties by priority.
    """
    size, taken = len(pool.names), np.zeros(len(pool.rows), dtype=np.bool_)
    allowed, turns = _quotas(pool, settings), np.zeros(len(pool.rows), dtype=np.int64)
    used = np.zeros(0 if category is None else int(category.max(initial=-1)) + 1, dtype=np.int64)
    for number in range(size):
        entries = np.flatnonzero((pool.channel == number) & ~taken[pool.pair])
        entries = entries[np.lexsort((pool.rank[entries], pool.rows[pool.pair[entries]]))]
        if category is not None and settings.max_per_category is not None:
            kinds = category[pool.pair[entries]]
            entries = entries[places_within(kinds) + used[kinds] < settings.max_per_category]
        pairs = pool.pair[entries]
        places = places_within(pool.rows[pairs])
        mine = places < allowed[pool.rows[pairs], number]
        taken[pairs[mine]] = True
        turns[pairs[mine]] = places[mine] * size + number
        if category is not None:
            used += np.bincount(category[pairs[mine]], minlength=len(used))
    chosen = np.flatnonzero(taken)
    chosen = chosen[np.lexsort((turns[chosen], pool.rows[chosen]))]
    scores = np.full(len(pool.rows), -np.inf)
    scores[chosen] = 1 / (1 + places_within(pool.rows[chosen]))
    return scores


def _quotas(pool: Pool, settings: Merge) -> I64:
    """int64[num, C]. A user without history has no other channels than `cold` and `popular`: half for the first, the rest for the other."""
    own = np.array([_given(pool, settings)[name] for name in pool.names], dtype=np.int64)
    without = np.array([-(-settings.top // 2) if name == COLD else settings.top for name in pool.names], dtype=np.int64)
    return np.where(pool.is_new[:, None], without, own)


def _given(pool: Pool, settings: Merge) -> Mapping[str, int]:
    """Places of each channel; where the settings give none, equal shares for all that weigh anything, the first of them the remainder."""
    assert isinstance(settings.quotas, dict), "learned quotas are put in before the merge"
    if settings.quotas:
        return {name: settings.quotas.get(name, 0) for name in pool.names}
    sharing = [name for name in pool.names if settings.weights.get(name, 0 if name == FALLBACK else 1) > 0]
    share, rest = divmod(settings.top, max(1, len(sharing)))
    return dict.fromkeys(pool.names, 0) | {name: share + (place < rest) for place, name in enumerate(sharing)}


# ---- learned from validation clicks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """quotas: channel -> places, together `top`. recall: what they find of the validation clicks. tried: number of combinations."""

    quotas: dict[str, int]
    recall: float
    tried: int


def learn_quotas(channels: Mapping[str, Ragged], truth: Ragged, *, top: int, steps: int) -> Learned:
    """The quotas of highest mean recall@top over the users, of all that share `top` out in `steps` parts.

    Args:
        channels: in order of priority, lists made without any click of `truth`; list b of each is user b's.
        truth: what each user is to find: distinct items, ascending, at least one.

    Of equal recall, the quotas that give the earlier channels more are taken.
    """
    names, found = list(channels), _Grid(channels, truth)
    best, tried = (-1.0, [0] * len(names)), 0
    for recall, parts in found.walk(steps, top):
        tried += 1
        if recall > best[0] + 1e-12:  # sums in another order differ by less
            best = (recall, parts)
    return Learned(dict(zip(names, best[1], strict=True)), round(best[0], 6), tried)


class _Grid:
    """Walks all ways to share the list out, channel by channel: what a channel finds depends only on what those before it took."""

    def __init__(self, channels: Mapping[str, Ragged], truth: Ragged) -> None:
        self._pool = pool = Pool.of(channels, np.zeros(len(truth), dtype=np.bool_))
        worth = 1 / np.maximum(truth.lengths, 1) / max(1, len(truth))
        self._worth = np.where(contains(truth, pool.rows, pool.items), worth[pool.rows], 0.0)
        self._pairs = []
        for number in range(len(pool.names)):
            entries = np.flatnonzero(pool.channel == number)
            self._pairs.append(pool.pair[entries[np.lexsort((pool.rank[entries], pool.rows[pool.pair[entries]]))]])

    def walk(self, steps: int, top: int) -> Iterator[tuple[float, list[int]]]:
        """(recall, quotas) of each way, those first that give the earlier channels more."""
        bounds = [steps_done * top // steps for steps_done in range(steps + 1)]
        yield from self._walk(0, 0, bounds, np.zeros(len(self._pool.rows), dtype=np.bool_), 0.0, [])

    def _walk(
        self, number: int, done: int, bounds: list[int], taken: Bools, recall: float, quotas: list[int]
    ) -> Iterator[tuple[float, list[int]]]:
        last = number == len(self._pairs) - 1
        pairs = self._pairs[number]
        pairs = pairs[~taken[pairs]]
        places = places_within(self._pool.rows[pairs])
        for end in [len(bounds) - 1] if last else range(len(bounds) - 1, done - 1, -1):
            quota = bounds[end] - bounds[done]
            mine = pairs[places < quota]
            gained = recall + float(self._worth[mine].sum())
            if last:
                yield gained, [*quotas, quota]
                continue
            now = taken.copy()
            now[mine] = True
            yield from self._walk(number + 1, end, bounds, now, gained, [*quotas, quota])
