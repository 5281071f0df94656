"""What a merge chooses from: every item that any channel brought to a user, once, with the channels that brought it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from retrieval.ragged import F32, F64, I32, I64, Bools, Ragged, keys

FALLBACK, COLD = "popular", "cold"  # the channels of users without history


@dataclass(frozen=True)
class Pool:
    """G pairs (user, item), by user, then item; E entries, a channel that brought a pair, by pair, then priority of the channel.

    names: the C channels. num: users. is_new: bool[num], users without history. rows: int64[G], user of each pair. items: int32[G].
    begins, sizes: int64[G], the entries of each pair. pair: int64[E]. channel: int32[E], number in `names`. rank: int64[E], from 1.
    score: float32[E], in that channel.
    """

    names: tuple[str, ...]
    num: int
    is_new: Bools
    rows: I64
    items: I32
    begins: I64
    sizes: I64
    pair: I64
    channel: I32
    rank: I64
    score: F32

    @classmethod
    def of(cls, channels: Mapping[str, Ragged], is_new: Bools) -> "Pool":
        """From the lists of each channel, best first, in order of priority; list b of each is user b's."""
        lists = list(channels.values())

        def together(parts: list[Any], kind: type) -> Any:
            return np.concatenate([np.empty(0, dtype=kind), *parts]).astype(kind, copy=False)

        rows, items = together([one.rows for one in lists], np.int64), together([one.values for one in lists], np.int32)
        ranks = together([one.places + 1 for one in lists], np.int64)
        numbers = together([np.full(len(one.values), number) for number, one in enumerate(lists)], np.int32)
        scores = together([one.weights for one in lists if one.weights is not None], np.float32)
        by = keys(rows, items)
        order = np.argsort(by, kind="stable")  # channels come in order of priority, and stay in it
        by = by[order]
        begins = np.flatnonzero(np.r_[True, by[1:] != by[:-1]]) if len(by) else np.empty(0, dtype=np.int64)
        sizes = np.diff(np.r_[begins, len(by)])
        pair = np.repeat(np.arange(len(begins)), sizes)
        first = order[begins]
        return cls(
            tuple(channels),
            len(is_new),
            is_new,
            rows[first],
            items[first],
            begins,
            sizes,
            pair,
            numbers[order],
            ranks[order],
            scores[order],
        )

    @cached_property
    def lists(self) -> I64:
        """int64[E]: number of the list that each entry stands in, user * C + channel."""
        numbers: I64 = self.rows[self.pair] * len(self.names) + self.channel
        return numbers

    @cached_property
    def lengths(self) -> I64:
        """int64[num * C]: entries of each list."""
        return np.bincount(self.lists, minlength=self.num * len(self.names))

    def reduce(self, values: F64, how: np.ufunc) -> F64:
        """float64[G]: the entries' values of each pair, put together in order of priority."""
        if not len(self.begins):
            return np.empty(0, dtype=np.float64)
        result: F64 = how.reduceat(values, self.begins)
        return result

    def category(self, categories: I32) -> I64:
        """int64[G]: equal for pairs of one user whose items share a known category (-1: unknown), from 0 without gaps."""
        known = self.items < len(categories)
        own = np.where(known, categories[np.where(known, self.items, 0)], -1).astype(np.int64)
        alone = -1 - np.arange(len(own), dtype=np.int64)
        codes: I64 = np.unique(np.where(own < 0, alone, (self.rows << 32) | np.maximum(own, 0)), return_inverse=True)[1]
        return codes


def places_within(groups: I64) -> I64:
    """int64[n]: how many elements of the same group stand before each."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, dtype=np.int64)
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(begins, np.diff(np.r_[begins, len(groups)]))
    return places
