"""What a metric sees: the first N items of many users' lists as matrices, what of them was clicked, and what is known of every item."""

# ruff: noqa: N815  (names of attributes carry shapes, too)

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Flags = npt.NDArray[np.bool_]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Items:
    """What is known of every item, by item_idx; row 0 stands for items that the day did not know.

    bits: float64[I], the surprise of meeting it: -log2 of its share of the clicks. category: int32[I], 0 = not known; None = items have no
    categories. head: bool[I], of the most clicked. slices: name -> bool[I].
    """

    bits: F64
    category: I32 | None
    head: Flags
    slices: Mapping[str, Flags]


@dataclass(frozen=True)
class Truth:
    """The held-out clicks of B users. rows, items: int32[T], one entry a user and different item. clicks: int64[T], >= 1."""

    rows: I64
    items: I32
    clicks: I64

    def only(self, wanted: Flags) -> Self:
        """The part about the wanted items, bool[I]; items that the day did not know (below 0) count as row 0."""
        kept = wanted[np.maximum(self.items, 0)]
        return replace(self, rows=self.rows[kept], items=self.items[kept], clicks=self.clicks[kept])

    def counts(self, size: int) -> tuple[I64, I64]:
        """int64[size] both: different items and clicks of each user."""
        return np.bincount(self.rows, minlength=size), np.bincount(self.rows, self.clicks, minlength=size).astype(np.int64)


@dataclass(frozen=True)
class Lists:
    """The first N items of B lists; beyond the end of a list items are 0 and nothing is hit.

    items_BN: int32. hits_BN: bool, held out. clicks_BN: int64, how often. num_B, truth_B, all_clicks_B: int64, items in the list, different
    items held out, held-out clicks.
    """

    items_BN: I32
    hits_BN: Flags
    clicks_BN: I64
    num_B: I64
    truth_B: I64
    all_clicks_B: I64
    known: Items

    @classmethod
    def of(cls, items_BN: I32, truth: Truth, known: Items) -> Self:
        """Of lists without repeats, 0 at the end, and what was held out of the same users."""
        size = len(items_BN)
        keys, wanted = _keys(truth.rows, truth.items), _keys(np.arange(size)[:, None], items_BN)
        order = np.argsort(keys, kind="stable")
        keys, clicks = np.append(keys[order], np.iinfo(np.int64).max), np.append(truth.clicks[order], 0)
        place = np.searchsorted(keys, wanted)
        hits_BN = (keys[place] == wanted) & (items_BN > 0)
        num_B, clicks_BN = (items_BN > 0).sum(axis=1), np.where(hits_BN, clicks[place], 0)
        return cls(items_BN, hits_BN, clicks_BN, num_B, *truth.counts(size), known)

    @property
    def n(self) -> int:
        """The cut-off N."""
        return self.items_BN.shape[1]

    def first(self, n: int) -> Self:
        """The same lists, cut at n."""
        items_BN = self.items_BN[:, :n]
        num_B = np.minimum(self.num_B, n)
        return replace(self, items_BN=items_BN, hits_BN=self.hits_BN[:, :n], clicks_BN=self.clicks_BN[:, :n], num_B=num_B)

    def about(self, wanted: Flags, truth: Truth) -> Self:
        """The same lists, measured by the wanted items (bool[I]) of the truth alone: finding another one is worth nothing."""
        truth_B, all_clicks_B = truth.only(wanted).counts(len(self.num_B))
        mine_BN = wanted[self.items_BN]
        hits_BN, clicks_BN = self.hits_BN & mine_BN, self.clicks_BN * mine_BN
        return replace(self, hits_BN=hits_BN, clicks_BN=clicks_BN, truth_B=truth_B, all_clicks_B=all_clicks_B)


def _keys(rows: I64, items: I32) -> I64:
    """One number a (row, item), in their order; an item below 0 is still below every item of its row."""
    return (rows.astype(np.int64) << 33) + items


def matrix(column: pa.ListArray, n: int) -> I32:
    """int32[B, n]: the first n items of each list, 0 beyond its end; a null is an empty list."""
    rows, items, place = _flat(column)
    found = np.zeros((len(column), n), dtype=np.int32)
    kept = place < n
    found[rows[kept], place[kept]] = items[kept]
    return found


def truth_of(column: pa.ListArray) -> Truth:
    """From the item of each held-out click, in ascending order, an item clicked twice standing twice."""
    rows, items, _ = _flat(column)
    first = np.ones(len(items), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (items[1:] != items[:-1])
    starts = np.flatnonzero(first)
    return Truth(rows[starts], items[starts], np.diff(np.append(starts, len(items))))


def _flat(column: pa.ListArray) -> tuple[I64, I32, I64]:
    """(row, value, place in its row from 0) of every value of a column of lists."""
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    rows = np.repeat(np.arange(len(sizes)), sizes)
    values: I32 = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    return rows, values, np.arange(len(values)) - starts[rows]
